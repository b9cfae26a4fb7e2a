"""Training a found cell on its own: networks of the published sizes, the protocol, resume, the command."""

import contextlib
import io
import json
import math
from pathlib import Path

import benches
import pytest
import torch
from torch import nn

from bench.data.types import Dataset
from bench.retrain import __main__, networks, training
from bench.retrain.training import NB101, NB201, Protocol, RMSProp, Trainer, split
from bench.rng import global_stream
from bench.supernet.common import NetworkSize
from bench.tables.table import TableEntry

CPU = torch.device("cpu")
CELL_201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
CELL_101 = "0101/0010/0001/0000 | input,conv3x3-bn-relu,maxpool3x3,output"
SHORT = Protocol(3, 20, 4, 1, 0.1, 5e-4, "sgd", "epoch", None)


def small() -> Dataset:
    return benches.digits()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("cell", "millions"),
    [  # `c10_params_M` of the published table
        ("|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|", 0.129306),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", 0.073306),
    ],
)
def test_a_network_of_nas_bench_201_has_its_published_parameters(cell: str, millions: float) -> None:
    assert parameters(networks.nb201(cell, NetworkSize(16, 5))) == round(millions * 1e6)


def test_a_network_of_nas_bench_101_has_its_published_parameters() -> None:
    """Of the graph 09fc2d10…, five 3×3 max-pools and convolutions of one column, in the published table."""
    network = networks.nb101("011/001/000 | input,conv3x3-bn-relu,output", NetworkSize(128, 3))
    by_hand = 3 * 9 * 128 + 2 * 128 + 10 * 512 + 10
    c_in = 128
    for c in (128, 256, 512):
        for _ in range(3):  # two projections of the input, to the operation and to the output, and the operation
            by_hand += 2 * (c_in * c + 2 * c) + 9 * c * c + 2 * c
            c_in = c
    held = sum(p.numel() for name, p in network.named_parameters() if not name.endswith((".a", "dev_param")))
    assert held == by_hand
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.003, 1e-5)}


def test_a_cell_of_nas_bench_201_is_what_its_string_says() -> None:
    network = networks.nb201(CELL_201, NetworkSize(4, 1)).double().eval()
    (cell, *_) = (module for module in network.modules() if isinstance(module, networks.Cell201))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second, last = cell.nodes[0][0], cell.nodes[1], cell.nodes[2]  # type: ignore[index]
    one = first[2](first[1](x.relu()))
    two = one
    counts = nn.functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)
    pooled = nn.functional.avg_pool2d(x, 3, 1, 1) / counts
    assert len(second) == 2
    torch.testing.assert_close(cell(x), pooled + last[2][2](last[2][1](two.relu())), rtol=0, atol=1e-12)


def test_rmsprop_is_tensorflows() -> None:
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimiser = RMSProp([{"params": [w], "weight_decay": 0.1}], lr=0.2)
    square, update, expected = torch.ones(2).double(), torch.zeros(2).double(), w.detach().clone()
    for step in range(3):
        w.grad = torch.tensor([0.5 + step, -1.0], dtype=torch.float64)
        g = w.grad + 0.1 * expected
        square = 0.9 * square + 0.1 * g**2
        update = 0.9 * update + 0.2 * g / (square + 1).sqrt()
        expected = expected - update
        optimiser.step()
        torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-14)


def test_batch_norm_is_not_decayed_by_nas_bench_101() -> None:
    network = networks.nb101(CELL_101, NetworkSize(8, 1))
    decayed, plain = training._optimiser(network, NB101).param_groups
    norms = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert {id(p) for p in plain["params"]} == norms
    assert (decayed["weight_decay"], plain["weight_decay"]) == (1e-4, 0.0)
    assert len(decayed["params"]) + len(norms) == len(list(network.parameters()))


def test_images_are_split_by_the_protocol() -> None:
    found = small()
    halves, share = split(found, NB201), split(found, NB101)
    assert torch.equal(halves.train.train_indices, found.train_indices)
    everything = torch.cat([found.train_indices, found.val_indices])
    assert len(share.train.train_indices) == round(0.8 * len(everything))
    assert not set(share.train.train_indices.tolist()) & set(share.train.val_indices.tolist())
    assert found.test is not None
    assert len(halves.held_out["test"].val_indices) == len(found.test.labels)
    assert len(split(found, NB201, 30).train.train_indices) == 30
    with pytest.raises(ValueError, match="expected --train-size from 10 to"):
        split(found, NB201, 10**6)


def trainer(seed: int = 0) -> Trainer:
    images = split(small(), SHORT, 60)
    with global_stream(seed, "weights", 0):
        return Trainer(networks.nb201(CELL_201, NetworkSize(4, 1)), images, SHORT, seed, CPU)


def test_the_rate_falls_as_a_cosine_and_training_is_reproduced() -> None:
    state = torch.get_rng_state()
    one, two = trainer(), trainer()
    rates, losses = [], []
    for each in (one, two):
        for _ in range(SHORT.epochs):
            losses.append(each.train())
            rates.append(each.optimiser.param_groups[0]["lr"])
    assert rates[:3] == pytest.approx([0.1 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(3)])
    assert losses[:3] == losses[3:]
    assert losses[2].train_loss < losses[0].train_loss
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer(1).train() != losses[0]


def command(tmp_path: Path, *more: str) -> list[str]:
    sizes = ["--epochs", "2", "--channels", "4", "--cells", "1", "--batch-size", "50", "--train-size", "100"]
    place = ["--dataset", "digits", "--device", "cpu", "--table", "none", "--results", str(tmp_path)]
    return [*sizes, *place, *more]


@pytest.mark.parametrize(("space", "cell"), [("nb201", CELL_201), ("s1", CELL_101)])
def test_the_command_trains_every_seed_once(
    space: str, cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = command(tmp_path, "--space", space, "--cell", cell, "--seeds", "0,1")
    whole = Trainer.train

    def stopped(self: Trainer) -> training.Progress:
        if self.epoch == 1 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(Trainer, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        __main__.main(arguments)
    capsys.readouterr()
    assert __main__.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("epoch 1/2") == 1  # seed 0 went on with its second epoch
    assert printed.count("epoch 2/2") == 2
    assert "over 2 seeds" in printed
    assert "no table was asked for" in printed
    assert __main__.main(arguments) == 0
    assert "epoch" not in capsys.readouterr().out
    (folder,) = (tmp_path / "retrain").iterdir()
    lines = json.loads((folder / "seed-0.json").read_text())
    assert [line["epoch"] for line in lines] == [1, 2]
    assert __main__.main([*command(tmp_path / "straight"), *arguments[-6:]]) == 0
    (straight,) = (tmp_path / "straight" / "retrain").iterdir()
    assert json.loads((straight / "seed-0.json").read_text()) == lines


@pytest.mark.parametrize(
    ("budget", "built", "more", "said"),
    [
        (
            200,
            False,
            [],
            "epochs 200, here 2; batch size 256, here 50; channels 16, here 4; cells 5, here 1; images to train on "
            "800, here 100",
        ),
        (
            2,
            False,
            ["--batch-size", "256", "--channels", "16", "--cells", "5", "--train-size", "150"],
            "images to train on 800, here 150",
        ),
        (4, True, [], "those of bench.tables build, 4 epochs (docs/embedded.md)"),
    ],
)
def test_what_differs_from_the_table_s_trainings_stands_beside_its_entry(
    budget: int, built: bool, more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reported(tmp_path, monkeypatch, budget, built, *more)
    assert found[0].endswith("table 0.5000, trained otherwise")
    assert found[2:] == ["a table", f"the table's trainings were other ones: {said}"]


def test_a_training_by_the_protocol_differs_in_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--batch-size", "256", "--channels", "16", "--cells", "5", "--train-size", "800"]
    found = reported(tmp_path, monkeypatch, 2, False, *given)
    assert found[0].endswith("table 0.5000")
    assert found[2:] == ["a table"]


def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, built: bool, *more: str) -> list[str]:
    """What is printed after trainings that are not done here."""
    entry = TableEntry("k", 0.5, 0.4, (0.5,), (0.4,), 1, budget, None, None, None)
    monkeypatch.setattr(__main__, "_beside", lambda *_: __main__.Beside(entry, "a table", built))
    end = json.dumps([{"accuracy": {"val": 0.3, "test": 0.2}}])
    monkeypatch.setattr(__main__, "_train", lambda _, folder, seed: (folder / f"seed-{seed}.json").write_text(end))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cell = ["--space", "nb201", "--cell", CELL_201, "--seeds", "0"]
        assert __main__.main([*command(tmp_path, *cell), *more]) == 0
    return printed.getvalue().splitlines()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--space", "toy", "--cell", "x"], "expected --space s1, s2, s3 or nb201, got 'toy'"),
        (["--space", "nb201", "--cell", "x"], "expected '|op~0|+"),
        (["--space", "s1", "--cell", "01/10 | input,output"], "expected a cell such as"),
        (
            ["--space", "nb201", "--cell", CELL_201, "--seeds", "2:1"],
            "expected seeds like 0:4 or 0,2,5, below 2³¹, at most 1,000,000 of them, got '2:1'",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = __main__.main(command(tmp_path, *more))
    except SystemExit as stop:
        code = int(str(stop.code))
    printed = capsys.readouterr().err
    assert code == 2
    assert message in printed
    assert printed.count("\n") == 1
