"""What every method promises, whatever it does: run over the whole registry."""

import dataclasses
import functools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import labs
import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from bench.lab import Lab
from bench.metrics import cell, curvature
from searchers.base import Active, Choices, Searcher, SupernetOptions
from searchers.entry import Method
from searchers.registry import METHODS

REAL_SPACES = ("s1", "s2", "s3", "nb201")
methods = pytest.mark.parametrize(
    "method", [pytest.param(m, id=name, marks=pytest.mark.xdist_group(name)) for name, m in METHODS.items()]
)
"""Tests of one method run in one process, so that `whole` is searched once."""

unchecked = pytest.mark.usefixtures("unchecked")


class Whole(NamedTuple):
    """A search from its beginning to its end, which several tests look at.

    Attributes:
        kept: state after the first epoch, as read back from a file.
        diagnostics: leaves of those of the first epoch.
        outcome: all that can be seen at the end, the losses from the second epoch on included.
        state: leaves of the state at the end.
    """

    kept: dict[str, Any]
    diagnostics: dict[str, Any]
    outcome: dict[str, Any]
    state: dict[str, Any]


@functools.cache
def whole(name: str) -> Whole:
    lab = labs.make()
    searcher = labs.start(METHODS[name], lab)
    labs.drive(searcher, lab, 0, 1)
    kept = labs.through_disk(searcher.state_dict())
    reference, diagnostics = labs.leaves(kept), labs.leaves(dict(searcher.diagnostics()))
    losses = labs.drive(searcher, lab, 1, labs.EPOCHS)
    searcher.finish()
    labs.same(labs.leaves(kept), reference)
    return Whole(kept, diagnostics, labs.outcome(searcher, losses), labs.leaves(searcher.state_dict()))


def moves_logits(searcher: Searcher) -> bool:
    """Return whether its steps receive images that the logits can learn from; else they stay."""
    return searcher.policy.split == "all" or searcher.policy.val_batches > 0


def with_logits(method: Method, lab: Lab) -> Searcher:
    searcher = labs.start(method, lab)
    if not searcher.logits():
        pytest.skip(f"{method.name} has no logits")
    searcher.load_state_dict(whole(method.name).kept)
    return searcher


@methods
def test_names_and_protocols(method: Method) -> None:
    searcher = labs.start(method, labs.make())
    assert METHODS[method.name] is method
    assert isinstance(searcher, Searcher)
    assert method.source
    assert method.passes_per_step > 0
    assert (searcher.no_curvature is None) == bool(searcher.logits())
    assert (searcher.hessian_of is None) == (searcher.no_curvature is not None)


@methods
def test_steps_move_the_weights_and_the_logits_of_every_replica(method: Method) -> None:
    lab = labs.make()
    searcher = labs.start(method, lab)
    if not searcher.policy.train_batches:
        pytest.skip(f"{method.name} trains nothing")
    searcher.begin_epoch(0)
    before = labs.outcome(searcher, [])
    logits = {f"/logits/{name}" for name in searcher.logits()}
    wanted = {"/weights/stem.conv.weight", "/weights/classifier.weight"} | (logits if moves_logits(searcher) else set())
    for batches in labs.steps(lab, searcher.policy, 6):  # more than one where a sampled cell does not use all rows
        losses = searcher.step(batches)
        moved = {n: v != before[n] for n, v in labs.outcome(searcher, []).items() if n in wanted}
        if done := all(change.flatten(1).any(1).all() for change in moved.values()):
            break
    assert done
    assert moved.keys() == wanted
    after = labs.outcome(searcher, [])
    assert all(torch.equal(after[name], before[name]) for name in logits - wanted)
    assert losses.train.shape == (lab.replicas,)
    assert losses.train.isfinite().all()
    assert not losses.train.requires_grad
    assert losses.val is None or (losses.val.isfinite().all() and not losses.val.requires_grad)
    assert (losses.val is None) == (searcher.policy.val_batches == 0)


@unchecked
@methods
def test_logits_have_no_graph_and_the_shapes_of_the_groups(method: Method) -> None:
    lab = labs.make()
    searcher = with_logits(method, lab)
    logits = searcher.logits()
    assert list(logits) == [group.name for group in searcher.supernet.groups]
    for group in searcher.supernet.groups:
        value = logits[group.name]
        assert (value.requires_grad, value.grad_fn, value.dtype) == (False, None, lab.dtype)
        assert value.shape == (lab.replicas, *group.shape)


@unchecked
@methods
def test_relax_is_pure_deterministic_and_differentiable(method: Method) -> None:
    lab = labs.make()
    searcher = with_logits(method, lab)
    state = labs.leaves(searcher.state_dict())
    stream = labs.rng(1)
    # Not far from equal, so that a relaxation that leaves small weights out has several left.
    logits = {n: 0.2 * torch.randn(v.shape, generator=stream, dtype=v.dtype) for n, v in searcher.logits().items()}
    copies = labs.leaves(logits)
    inputs = {name: value.requires_grad_() for name, value in logits.items()}
    with untouched_global_randomness():
        weights, again = (labs.leaves(dict(searcher.relax(inputs).weights)) for _ in range(2))
        choices = searcher.relax(inputs)
    labs.same(weights, again)
    labs.same(labs.leaves(logits), copies)
    labs.same(labs.leaves(searcher.state_dict()), state)
    for group in searcher.supernet.groups:
        value = choices.weights[group.name]
        assert value.shape[0] in {1, searcher.supernet.cells}
        assert value.shape[1:] == (lab.replicas, *group.shape)
        assert value.dtype == lab.dtype
    total = sum((value * torch.randn(value.shape, generator=stream)).sum() for value in choices.weights.values())
    for gradient, group in zip(torch.autograd.grad(total, list(inputs.values())), inputs, strict=True):
        assert gradient.isfinite().all(), group
        moved = searcher.relax({**logits, group: 1.5 * logits[group]}).weights
        for replica in range(lab.replicas):  # what has been decided does not follow the logits any more
            follows = any(not torch.equal(moved[n][:, replica], v[:, replica]) for n, v in choices.weights.items())
            assert (gradient[replica].abs().sum() > 0) == follows, group


@unchecked
@methods
def test_a_constant_on_a_row_changes_nothing_exactly_in_the_groups_that_say_so(method: Method) -> None:
    searcher = with_logits(method, labs.make())
    logits = searcher.logits()
    assert set(searcher.shift_invariant) <= set(logits)
    before = labs.leaves(dict(searcher.relax(logits).weights))
    for name in logits:
        gaps = []
        for shift in (0.7, -0.7):  # a relaxation may be a softmax on one side only
            shifted = {**logits, name: logits[name] + shift}
            after = labs.leaves(dict(searcher.relax(shifted).weights))
            gaps += [(after[path] - before[path]).abs().max() for path in before]
        assert (max(gaps) < 1e-12) == (name in searcher.shift_invariant), name


@unchecked
@methods
def test_another_seed_is_another_search(method: Method) -> None:
    searcher = labs.start(method, labs.make())
    for seen, fixed in (
        (labs.outcome(searcher, []), ("/selected", "/logits")),
        (whole(method.name).outcome, ("/selected",) if moves_logits(searcher) else ("/selected", "/logits")),
    ):  # some methods start all logits equal
        for name, value in seen.items():
            if value is not None and "norm" not in name and not name.startswith(fixed):
                assert not torch.equal(value[0], value[1]), name


@unchecked
@methods
def test_resuming_is_no_interruption(method: Method) -> None:
    lab, expected = labs.make(), whole(method.name)
    reference = labs.leaves(expected.kept)
    resumed = labs.start(method, lab)
    labs.drive(resumed, lab, 1, 2)  # a used searcher: loading must replace all that it holds
    resumed.load_state_dict(expected.kept)
    labs.same(labs.leaves(resumed.state_dict()), reference)
    labs.same(labs.leaves(dict(resumed.diagnostics())), expected.diagnostics)
    losses = labs.drive(resumed, lab, 1, labs.EPOCHS)
    resumed.finish()
    labs.same(labs.outcome(resumed, losses), expected.outcome)
    labs.same(labs.leaves(resumed.state_dict()), expected.state)
    labs.same(labs.leaves(expected.kept), reference)


@unchecked
@methods
def test_a_state_of_another_network_is_refused(method: Method) -> None:
    state = labs.start(method, labs.make("s1")).state_dict()
    with pytest.raises(ValueError, match="expected saved tensors"):
        labs.start(method, labs.make()).load_state_dict(state)


@contextmanager
def untouched_global_randomness() -> Iterator[None]:
    def states() -> tuple[object, ...]:
        legacy = np.random.get_state()  # noqa: NPY002 - this is what must not be touched
        return torch.get_rng_state().tolist(), legacy[1].tolist(), legacy[2], random.getstate()

    before = states()
    yield
    assert states() == before


@unchecked
@methods
def test_same_seed_same_bits_whatever_the_global_random_state(method: Method) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        with untouched_global_randomness():
            lab = labs.make()
            searcher = labs.start(method, lab)
            losses = labs.drive(searcher, lab, 0, 1)
            searcher.finish()
            searcher.load_state_dict(labs.through_disk(searcher.state_dict()))
        found.append(labs.outcome(searcher, losses))
    labs.same(*found)


@methods
def test_batches_are_not_mutated(method: Method) -> None:
    lab = labs.make()
    searcher = labs.start(method, lab)
    searcher.begin_epoch(0)
    for batches in labs.steps(lab, searcher.policy, 2):
        before = labs.leaves(batches)
        searcher.step(batches)
        labs.same(labs.leaves(batches), before)
        assert not any(batch.images.requires_grad for batch in (*batches.train, *batches.val))


def check_stacked_is_alone(method: Method, space: str, epochs: int = 2) -> None:
    seeds, found = (7, 3, 5), []
    for chosen in (seeds, *((seed,) for seed in seeds[::2])):
        lab = labs.make(space, chosen)
        searcher = labs.start(method, lab)
        losses = labs.drive(searcher, lab, 0, epochs)
        found.append(labs.outcome(searcher, losses))
    assert len(losses) >= 5 or not searcher.policy.train_batches
    for replica, alone in zip((0, 2), found[1:], strict=True):
        labs.close(labs.replicas(found[0], [replica]), alone)


@unchecked
@methods
def test_stacked_is_alone(method: Method) -> None:
    check_stacked_is_alone(method, "toy")


def spread() -> Iterator[ParameterSet]:
    """Every method on one real space, in turn, and two methods on all of them."""
    for number, (name, method) in enumerate(METHODS.items()):
        own = REAL_SPACES if name in {"darts", "random_ws"} else (REAL_SPACES[number % len(REAL_SPACES)],)
        yield from (pytest.param(method, space, id=f"{name}-{space}") for space in own)


@pytest.mark.slow
@unchecked
@pytest.mark.parametrize(("method", "space"), list(spread()))
def test_stacked_is_alone_on_a_real_space(method: Method, space: str) -> None:
    check_stacked_is_alone(method, space)


@methods
def test_the_entry_declares_what_is_built_into_networks(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[SupernetOptions] = []
    build = Lab.build
    monkeypatch.setattr(Lab, "build", lambda lab, options: built.append(options) or build(lab, options))
    for settings in (method.settings(), labs.quick(method)):
        built.clear()
        method.build(settings, labs.make(channels=4))
        assert built
        assert {dataclasses.replace(options, groups=()) for options in built} <= set(method.networks(settings))


@methods
def test_the_policy_of_the_entry_is_that_of_the_searcher(method: Method) -> None:
    lab = labs.make(channels=4)
    for settings in (method.settings(), labs.quick(method)):
        declared, own = method.policy(settings), method.build(settings, lab).policy
        for name in ("split", "train_batches", "val_batches"):
            assert getattr(declared, name) == getattr(own, name)
        for epoch in (0, 1, 50):
            assert declared.batch_size(epoch, 13) == own.batch_size(epoch, 13)


@unchecked
@methods
def test_a_method_differs_from_darts_at_its_defaults(method: Method) -> None:
    if method.name == "darts":
        pytest.skip("it is darts")
    # The whole search: many schedules start at zero.
    found = [whole(each).outcome for each in ("darts", method.name)]
    shared = found[0].keys() & found[1].keys()
    numbers = [name for name in shared if isinstance(found[0][name], Tensor) and isinstance(found[1][name], Tensor)]
    pairs = [(found[0][name], found[1][name]) for name in numbers]
    assert any(one.shape != other.shape or (one - other).abs().max() > 1e-9 for one, other in pairs)


@methods
def test_settings_are_frozen_hashable_and_plain(method: Method) -> None:
    settings = method.settings()
    assert settings == method.settings()
    assert hash(settings) == hash(method.settings())
    assert json.loads(json.dumps(dataclasses.asdict(settings), allow_nan=False))
    waiting = [settings]
    while waiting:
        part = waiting.pop()
        assert part.__dataclass_params__.frozen
        values = [getattr(part, field.name) for field in dataclasses.fields(part)]
        waiting += [value for value in values if dataclasses.is_dataclass(value)]


@contextmanager
def watched(searcher: Searcher) -> Iterator[list[Choices]]:
    """Yield the choices of every forward pass."""
    seen: list[Choices] = []
    assert isinstance(searcher.supernet, torch.nn.Module)
    handle = searcher.supernet.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[1]))
    yield seen
    handle.remove()


def used_by(searcher: Searcher, live: list[Active], name: str, replica: int) -> bool:
    address = searcher.supernet.address(name)
    if address is None:
        return True
    cells = [mask[address.group][address.cell % len(mask[address.group]), replica] for mask in live]
    rows = [cell[np.atleast_1d(address.decision)] for cell in cells]
    return any(row.any() if address.option is None else row[:, address.option].any() for row in rows)


@unchecked
@methods
@pytest.mark.parametrize("space", ["toy", pytest.param("nb201", marks=pytest.mark.slow)])
def test_what_a_replica_did_not_use_does_not_move_for_it(method: Method, space: str) -> None:
    lab = labs.make(space, (0, 1, 2))
    searcher = labs.start(method, lab)
    if not searcher.policy.train_batches:
        pytest.skip(f"{method.name} trains nothing")
    searcher.begin_epoch(0)
    idle = 0
    for batches in labs.steps(lab, searcher.policy, 3):
        before = labs.leaves(dict(searcher.supernet.named_parameters()))
        with watched(searcher) as seen:
            searcher.step(batches)
        if any(choices.active is None for choices in seen):
            pytest.skip(f"{method.name} computes every option")
        live = [searcher.supernet.live(choices.active) for choices in seen if choices.active is not None]
        for name, value in searcher.supernet.named_parameters():
            for replica in range(lab.replicas):
                if not used_by(searcher, live, name, replica):
                    idle += 1
                    assert torch.equal(value[replica], before[f"/{name}"][replica]), (name, replica)
    assert idle > 10


def measurement(lab: Lab) -> Callable[[Searcher], None]:
    probes = curvature.Probes(lab.feed.probe(8), lab.feed.legacy_probe(0, labs.EPOCHS, size=6))
    vectors: list[Tensor] = []

    def measure(searcher: Searcher) -> None:
        cell.cells(lab.space, searcher.selected(), lab.replicas, None)
        cell.choices(searcher, lab.replicas)
        cell.supernet(searcher, lab)
        if searcher.no_curvature is None:
            start = vectors[-1] if vectors else None
            whole = not vectors  # once: it takes as many products as there are logits
            noise = lab.stream("curvature", len(vectors))
            settings = curvature.CurvatureSettings("lanczos")
            vectors.append(curvature.measure(searcher, probes, start, noise, settings, whole).vectors)

    return measure


@unchecked
@methods
def test_measuring_changes_nothing(method: Method) -> None:
    found = []
    for measured in (False, True):
        lab = labs.make()
        searcher = labs.start(method, lab)
        with untouched_global_randomness():
            losses = labs.drive(searcher, lab, 0, 1, measurement(lab) if measured else lambda _searcher: None)
        found.append(labs.outcome(searcher, losses) | labs.leaves(searcher.state_dict(), "/state"))
        assert all(parameter.grad is None for _, parameter in searcher.supernet.named_parameters())
        assert all(value.grad is None for value in searcher.logits().values())
    labs.same(*found)


def smoke(name: str, space: str) -> ParameterSet:
    """Every method takes its steps on one space, the families in turn; all spaces are the long suite's."""
    own = ("s1", "nb201")[list(METHODS).index(name) % 2]
    short = space == own or name in {"darts", "random_ws"}
    return pytest.param(METHODS[name], space, id=f"{name}-{space}", marks=[] if short else [pytest.mark.slow])


@unchecked
@pytest.mark.parametrize(("method", "space"), [smoke(name, space) for name in METHODS for space in REAL_SPACES])
def test_two_steps_on_real_spaces_in_single_precision(method: Method, space: str) -> None:
    lab = labs.make(space, dtype=torch.float32)
    searcher = labs.start(method, lab)
    searcher.begin_epoch(0)
    losses = [searcher.step(batches) for batches in labs.steps(lab, searcher.policy, 2)]
    seen = labs.outcome(searcher, losses)
    assert all(value is None or (value.dtype == torch.float32 and value.isfinite().all()) for value in seen.values())
    searcher.end_epoch(labs.EPOCHS - 1)
    if searcher.selected() is None:  # some methods select in the end only
        searcher.finish()
    selected = searcher.selected()
    assert selected is not None
    for group in lab.groups:
        assert selected[group.name].shape == (lab.replicas, *group.shape)
