"""Everything on a GPU that is played (tests/gpu.py): nothing is left on the host, and the numbers are the CPU's.

Nothing of this has been seen on a real one, but for what tests/test_replay.py does where there is one.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gpu
import labs
import pytest
import torch
from test_layout import outermost
from test_retrain import CELL_101
from test_run import interrupted
from test_speed import TINY as SPEED
from tests import benches
from torch import Tensor

import bench.speed.__main__ as speed
import bench.tables.__main__ as tables
from bench import replay, run
from bench.retrain import __main__ as retrain
from bench.speed import floor, growth, outside
from searchers import registry

pytestmark = pytest.mark.usefixtures("unchecked")
STEADY = [method.name for method in registry.METHODS.values() if method.steady]


def first(names: Iterable[str]) -> list[Any]:
    """The first at once, all in the long suite."""
    return [name if not place else pytest.param(name, marks=pytest.mark.slow) for place, name in enumerate(names)]


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)


def seen(name: str, space: str, device: torch.device) -> dict[str, Any]:
    """All that can be seen of a search."""
    lab = labs.make(space, device=device)
    searcher = labs.start(registry.METHODS[name], lab)
    losses = labs.drive(searcher, lab, 0, 2)
    searcher.finish()
    return labs.outcome(searcher, losses)


def compare(name: str, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu.played() as device:
        there = seen(name, space, device)
    assert all(gpu.lies(value) for value in there.values() if isinstance(value, Tensor))
    outermost(monkeypatch)
    labs.same(there, seen(name, space, labs.CPU))


@pytest.mark.parametrize("name", benches.EVERY)
def test_a_search(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(name, "toy", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["s1", "nb201"])
@pytest.mark.parametrize("name", registry.METHODS)
def test_a_search_on_real_spaces(name: str, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(name, space, monkeypatch)


def command(results: Path, method: str, *more: str) -> list[str]:
    return benches.command(results, method, "--device", "cuda", *more)


def records(results: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: benches.lines(path / "records.jsonl") for name, path in benches.folders(results).items()}


MEASURED = ("--metrics", "native", "--landscape")
SIX = ("--train-size", "96", "--curvature", "off")
"""Steps an epoch, of which four are played."""


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("name", first(benches.KINDS))
def test_the_command_with_all_that_it_measures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu.played():
        assert run.main(command(tmp_path / "gpu", name, *MEASURED)) == 0
    outermost(monkeypatch)
    assert run.main(benches.command(tmp_path / "cpu", name, *MEASURED)) == 0
    assert records(tmp_path / "gpu") == records(tmp_path / "cpu")


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("name", first(STEADY))
def test_steps_that_are_recorded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in them is copied from the host, and nothing waits for the GPU."""
    graphs = gpu.Graphs()
    monkeypatch.setattr(replay, "CudaGraphs", lambda _device: graphs)
    with gpu.played():
        assert run.main(command(tmp_path / "played", name, "--cuda-graphs", *SIX)) == 0
        assert graphs.played
        assert run.main(command(tmp_path / "taken", name, *SIX)) == 0
    assert records(tmp_path / "played") == records(tmp_path / "taken")


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("name", first(("enas", "darts", "gdas")))
def test_a_search_goes_on_elsewhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the GPU to the CPU and back: a checkpoint belongs to no device."""
    outermost(monkeypatch)
    there, here = (make(tmp_path / "moved", name, "--epochs", "4") for make in (command, benches.command))
    with gpu.played():
        interrupted(monkeypatch, there, 3, torn=False)
    interrupted(monkeypatch, here, 2, torn=False)
    with gpu.played():
        assert run.main(there) == 0
    assert run.main(benches.command(tmp_path / "whole", name, "--epochs", "4")) == 0
    assert records(tmp_path / "moved") == records(tmp_path / "whole")


SIZES = ("--dataset", "digits", "--device", "cuda", "--channels", "4", "--cells", "1", "--epochs", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("isolated")
def test_other_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, images = tmp_path / "t.arrow", ("--train-images", "40", "--eval-images", "40", "--runs", "1")
    monkeypatch.setattr(growth, "EPOCHS", (1, 2))
    monkeypatch.setattr(growth, "ROWS", (100, 200))
    monkeypatch.setattr(floor, "WIDTHS", (1,))
    monkeypatch.setattr(outside, "EPOCHS", 1)
    with gpu.played():
        assert tables.main(["build", "--space", "toy", *SIZES, *images, "--jobs", "1", "--out", str(table)]) == 0
        cell = ["--space", "s1", "--cell", CELL_101, "--train-size", "40", "--table", "none", "--seeds", "0"]
        assert retrain.main([*cell, *SIZES, "--results", str(tmp_path)]) == 0
        assert speed.main([*SPEED, "--device", "cuda", "--methods", "darts,gdas", "--into", str(tmp_path)]) == 0
    assert table.exists()
    assert list((tmp_path / "retrain").iterdir())


def test_what_a_gpu_refuses_is_refused() -> None:
    with gpu.played() as device:
        there, host = torch.ones(3, device=device), torch.ones(3)
        assert (there.device, host.device) == (device, labs.CPU)
        assert (there + torch.tensor(2.0)).device == there[1:].device == there.to(there).device == device
        assert there.cpu().numpy().sum() == there.sum().item() == 3
        for mixed in (lambda: there + host, lambda: torch.stack([there, host]), lambda: host.add_(there)):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, generator=labs.rng(0), device=device)
        with pytest.raises(RuntimeError, match="generator"):
            there.normal_(generator=labs.rng(0))


def test_gradients_come_back_to_where_their_variables_lie() -> None:
    with gpu.played() as device:
        host, there = torch.ones(3, requires_grad=True), torch.ones(3, device=device, requires_grad=True)
        loss = (host.to(device) * there).sum() + there[:1].to("cpu").to(device).sum()
        of_host, of_there = torch.autograd.grad(loss, [host, there])
    assert not gpu.lies(of_host)
    assert gpu.lies(of_there)
    assert of_there.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "work", [lambda x: [x.sum().cpu()], lambda x: [x[x > 0]], lambda x: [x * x[0].item()], lambda x: [x[[0, 1]]]]
)
def test_what_a_recording_cannot_hold_is_refused(work: Callable[[Tensor], list[Tensor]]) -> None:
    with gpu.played() as device:
        x = torch.ones(3, device=device)
        with pytest.raises(RuntimeError, match=r"not permitted|expected numbers of the host"):
            gpu.Graphs().record(lambda: work(x))
