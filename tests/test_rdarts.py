"""R-DARTS: DARTS where nothing is regularised, and the equations of drop-path."""

import dataclasses

import labs
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.presets import PRESETS
from bench.spec import replace_settings
from bench.variants import _shared
from searchers import _drop_path, darts, rdarts_dp, rdarts_l2
from searchers._bilevel import Bilevel
from searchers._optim import WeightSettings
from searchers._relax import softmax
from searchers.base import ForwardInputs
from searchers.registry import METHODS

unchecked = pytest.mark.usefixtures("unchecked")
PLAIN = WeightSettings(lr=0.2, lr_min=0.2, momentum=0.0, weight_decay=0.0, clip=None)


def searched(searcher: Bilevel, lab: labs.Lab) -> dict[str, object]:
    """Two steps of the second epoch, where something is dropped."""
    searcher.begin_epoch(1)
    losses = [searcher.step(batches) for batches in labs.steps(lab, searcher.policy, 2)]
    return labs.outcome(searcher, losses)


@unchecked
@pytest.mark.parametrize("space", ["toy", "nb201"])
def test_without_regularisation_it_is_darts_to_the_bit(space: str) -> None:
    found = []
    for method, settings in (
        (darts, darts.Settings()),
        (rdarts_l2, rdarts_l2.GRID[0]),
        (rdarts_dp, rdarts_dp.GRID[0]),
        (rdarts_l2, rdarts_l2.Settings()),
        (rdarts_dp, rdarts_dp.Settings()),
    ):
        lab = labs.make(space)
        found.append(searched(method.build(settings, lab), lab))
    labs.same(found[0], found[1])
    labs.same(found[0], found[2])
    for regularised in found[3:]:
        name = "/weights/classifier.weight"
        assert (regularised[name] - found[0][name]).abs().max() > 1e-7


def test_defaults_and_grids_are_the_papers() -> None:
    assert [settings.weights.weight_decay for settings in rdarts_l2.GRID] == [3e-4, 9e-4, 27e-4, 81e-4, 243e-4]
    assert [settings.drop for settings in rdarts_dp.GRID] == [0.0, 0.2, 0.4, 0.6]
    assert METHODS["rdarts_l2"].settings() == rdarts_l2.GRID[2]
    assert METHODS["rdarts_dp"].settings() == rdarts_dp.GRID[2]
    plain = dataclasses.replace(rdarts_l2.Settings().weights, weight_decay=3e-4)
    assert plain == rdarts_dp.Settings().weights == darts.Settings().weights


@pytest.mark.parametrize("benchmark", PRESETS)
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_no_preset_takes_the_weight_decay_away(benchmark: str, space: str) -> None:
    changes = PRESETS[benchmark](space).settings
    settings = replace_settings(_shared(rdarts_l2.Settings(), changes.get("*", {})), changes.get("rdarts_l2", {}))
    assert settings.weights.weight_decay == 27e-4


@unchecked
def test_a_step_decays_the_weights() -> None:
    weights = dataclasses.replace(PLAIN, weight_decay=27e-4)
    found = []
    for settings in (PLAIN, weights):
        lab = labs.make()
        searcher = rdarts_l2.build(rdarts_l2.Settings(weights=settings), lab)
        before = labs.leaves(dict(searcher.parameters))
        searcher.step(labs.fake_step(2))
        found.append(labs.leaves(dict(searcher.parameters)))
    for name, value in before.items():
        torch.testing.assert_close(found[1][name], found[0][name] - 0.2 * 27e-4 * value, rtol=1e-12, atol=1e-14)


@unchecked
@pytest.mark.parametrize("space", ["s2", "nb201"])
def test_a_step_with_drop_path_is_the_equations(space: str) -> None:
    """The masks drawn and scaled here; what a mask does to a network is the next test but one."""
    lab = labs.make(space, (3, 4))
    searcher = rdarts_dp.build(rdarts_dp.Settings(weights=PLAIN), lab)
    searcher.begin_epoch(1)
    p, batches = 0.4 * 1 / (labs.EPOCHS - 1), labs.fake_step(2, 3)
    weights = {name: value.detach().clone().requires_grad_() for name, value in searcher.parameters.items()}
    searcher.step(batches)
    network, batch = searcher.supernet, batches.train[0]
    decisions = network.groups[0].decisions
    drawn = [torch.rand((network.cells, 8, decisions), generator=stream) for stream in lab.stream("drop_path", 0)]
    keep = torch.stack([torch.where(each < p, 0.0, 1 / (1 - p)) for each in drawn], 1).double()
    assert 0 < (keep == 0).double().mean() < 1
    scores = torch.func.functional_call(
        network, weights, (batch.images, softmax(searcher.logits()), ForwardInputs(keep={"op": keep}))
    )
    loss = functional.cross_entropy(scores.mT, batch.labels, reduction="none").mean(1).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    for (name, value), gradient in zip(weights.items(), gradients, strict=True):
        torch.testing.assert_close(searcher.parameters[name].detach(), (value - 0.2 * gradient).detach())


def test_masks_keep_the_expectation_and_are_drawn_for_each_image() -> None:
    lab = labs.make("nb201")
    images = torch.zeros(2, 4000, 1, 1, 1, dtype=torch.float64)
    keep = _drop_path.masks(list(lab.groups), 3, lambda: (labs.rng(1), labs.rng(2)), 0.3, images)["op"]
    assert keep.shape == (3, 2, 4000, 6)
    assert set(keep.unique().tolist()) == {0.0, 1 / 0.7}
    assert keep.mean().item() == pytest.approx(1.0, abs=0.01)
    assert (keep.mean((0, 1, 2)) - 1).abs().max() < 0.03
    assert not torch.equal(keep[0, 0], keep[1, 0])
    assert not torch.equal(keep[0, 0], keep[0, 1])
    assert not torch.equal(keep[0, 0, :, 0], keep[0, 0, :, 1])


@unchecked
@pytest.mark.parametrize("space", ["s1", "nb201"])
def test_a_dropped_operation_is_zero_for_its_image_only(space: str) -> None:
    """In the last cell: the last choice block, or all edges into the last node, of image 0; no norm follows them."""
    lab = labs.make(space, (0,))
    network = lab.build(rdarts_dp.Recipe().options)
    logits = {group.name: torch.zeros(1, *group.shape, dtype=torch.float64) for group in network.groups}
    choices = softmax(logits)
    keep = torch.ones(network.cells, 1, 8, network.groups[0].decisions, dtype=torch.float64)
    keep[-1, 0, 0, 3:] = 0.0
    maps: dict[str, list[Tensor]] = {"kept": [], "dropped": []}
    images = labs.fake_batch(1).images
    for name, inputs in (("kept", ForwardInputs()), ("dropped", ForwardInputs(keep={"op": keep}))):
        handle = network.cell[-1].register_forward_hook(lambda _m, _i, out, name=name: maps[name].append(out))
        network(images, choices, inputs)
        handle.remove()
    kept, dropped = maps["kept"][0], maps["dropped"][0]
    assert torch.equal(kept[1:], dropped[1:])
    block = kept.shape[1] // 4 if space == "s1" else kept.shape[1]  # channels of the last block, of the last node
    assert torch.equal(kept[0, :-block], dropped[0, :-block])
    assert (kept[0, -block:] != dropped[0, -block:]).any()
    if space == "nb201":
        assert (dropped[0] == 0).all()


@unchecked
@pytest.mark.parametrize("order", ["first", "second"])
def test_the_architecture_step_drops_nothing(order: str) -> None:
    """In the first step all weights are alike; an epoch in which operations are dropped."""
    found = []
    for drop in (0.0, 0.6):
        lab = labs.make()
        searcher = rdarts_dp.build(rdarts_dp.Settings(drop=drop, order=order), lab)
        searcher.begin_epoch(2)
        losses = searcher.step(labs.fake_step(2))
        found.append((searcher.logits(), losses))
    labs.same(labs.leaves(found[0][0]), labs.leaves(found[1][0]))
    assert torch.equal(found[0][1].val, found[1][1].val)
    assert not torch.equal(found[0][1].train, found[1][1].train)


@unchecked
def test_the_probability_rises_to_its_last_epoch() -> None:
    lab = labs.make()
    searcher = rdarts_dp.build(rdarts_dp.Settings(drop=0.5), lab)
    assert searcher.recipe.weight_inputs is not None
    for epoch, p in enumerate((0.0, 0.25, 0.5)):
        searcher.begin_epoch(epoch)
        keep = searcher.recipe.weight_inputs(searcher, labs.fake_step(2)).keep
        assert (keep is None) == (p == 0)
        assert keep is None or keep["op"].max().item() == 1 / (1 - p)
    one = dataclasses.replace(lab, horizon=labs.Horizon(1))
    searcher = rdarts_dp.build(rdarts_dp.Settings(), one)
    assert searcher.recipe.weight_inputs is not None
    assert searcher.recipe.weight_inputs(searcher, labs.fake_step(2)).keep is None


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_probability_is_below_one(p: float) -> None:
    with pytest.raises(ValueError, match=f"expected a drop probability in .*, got {p}"):
        rdarts_dp.build(rdarts_dp.Settings(drop=p), labs.make())
