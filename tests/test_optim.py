"""SGD and Adam over the replicas axis against torch's own, a replica at a time."""

import math
from collections.abc import Callable
from dataclasses import replace

import labs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from searchers._optim import SGD, Adam, ArchSettings, Layout, WeightSettings, clip, cosine, restore
from searchers._touched import touched
from searchers.base import Choices, SupernetOptions

SHAPES = {"kernel": (3, 4, 2, 3), "bias": (3, 5), "table": (3, 2, 4)}
RATES = torch.tensor([0.3, 0.02, 0.1], dtype=torch.float64)
# Whether a name is used by a replica, at each of six steps; the bias of replica 0 never is.
USED = np.array(
    [
        [[1, 0, 1], [1, 1, 1], [0, 1, 1]],
        [[1, 0, 0], [1, 1, 1], [1, 1, 0]],
        [[0, 0, 1], [1, 1, 1], [0, 0, 0]],
        [[1, 0, 1], [1, 0, 1], [0, 1, 1]],
        [[1, 0, 1], [1, 1, 1], [1, 1, 1]],
        [[0, 0, 0], [0, 1, 0], [1, 0, 1]],
    ],
    dtype=bool,
)


def tensors(seed: int, scale: Tensor | float = 1.0) -> dict[str, Tensor]:
    """One tensor a name; replicas are of very different sizes."""
    stream = labs.rng(seed)
    sizes = torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64) * scale
    drawn = {n: torch.randn(shape, generator=stream, dtype=torch.float64) for n, shape in SHAPES.items()}
    return {name: value * sizes.reshape(3, *[1] * (value.ndim - 1)) for name, value in drawn.items()}


def reference(
    make: Callable[[list[Tensor], float], torch.optim.Optimizer],
    rates: list[Tensor],
    used: np.ndarray,
    bound: float | None,
) -> list[dict[str, Tensor]]:
    """The parameters after every step of torch's optimiser, which leaves alone what has no gradient."""
    start, histories = tensors(0), []
    for replica in range(3):
        parameters = {name: value[replica].clone().requires_grad_() for name, value in start.items()}
        optimiser = make(list(parameters.values()), 0.1)
        history = []
        for step, rate in enumerate(rates):
            for column, (name, gradient) in enumerate(tensors(step + 1).items()):
                parameters[name].grad = gradient[replica].clone() if used[step, replica, column] else None
            if bound is not None:
                torch.nn.utils.clip_grad_norm_(parameters.values(), bound)
            optimiser.param_groups[0]["lr"] = float(rate[replica])
            optimiser.step()
            history.append({name: value.detach().clone() for name, value in parameters.items()})
        histories.append(history)
    return [{n: torch.stack([h[step][n] for h in histories]) for n in SHAPES} for step in range(len(rates))]


def gradients(step: int, used: np.ndarray) -> dict[str, Tensor | None]:
    """What autograd gives: zeros where another replica used a parameter, None where none did."""
    found: dict[str, Tensor | None] = {}
    for column, (name, value) in enumerate(tensors(step + 1).items()):
        rows = torch.as_tensor(used[step, :, column]).reshape(3, *[1] * (value.ndim - 1))
        found[name] = value * rows if rows.any() else None
    return found


def check(mine: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in mine.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=1e-14)


WEIGHTS = {
    "plain": WeightSettings(momentum=0.0, weight_decay=0.0, clip=None),
    "darts": WeightSettings(clip=1.5),
    "heavy decay": WeightSettings(weight_decay=0.3, clip=20.0),
    "nesterov": WeightSettings(weight_decay=5e-4, clip=None, nesterov=True),
}


@pytest.mark.parametrize("used", [np.ones_like(USED), USED], ids=["all", "some"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_sgd_is_torchs_for_every_replica(name: str, used: np.ndarray) -> None:
    chosen, parameters = WEIGHTS[name], tensors(0)
    options = {"momentum": chosen.momentum, "weight_decay": chosen.weight_decay, "nesterov": chosen.nesterov}
    rates = [RATES / (step + 1) for step in range(len(used))]
    wanted = reference(lambda values, lr: torch.optim.SGD(values, lr, **options), rates, used, chosen.clip)
    optimiser = SGD(parameters, chosen)
    places = {name: value.data_ptr() for name, value in parameters.items()}
    for step, rate in enumerate(rates):
        optimiser.step(gradients(step, used), rate, None if used.all() else used[step])
        check(parameters, wanted[step])
    assert {name: value.data_ptr() for name, value in parameters.items()} == places


@pytest.mark.parametrize("used", [np.ones_like(USED), USED], ids=["all", "some"])
@pytest.mark.parametrize("chosen", [ArchSettings(), ArchSettings(0.1, (0.9, 0.99), 0.0, 1e-3)], ids=["darts", "other"])
def test_adam_is_torchs_for_every_replica(chosen: ArchSettings, used: np.ndarray) -> None:
    options = {"betas": chosen.betas, "weight_decay": chosen.weight_decay, "eps": chosen.eps}
    rates = [RATES / (step + 1) for step in range(len(used))]
    wanted = reference(lambda values, lr: torch.optim.Adam(values, lr, **options), rates, used, None)
    parameters = tensors(0)
    optimiser = Adam(parameters, chosen)
    for step, rate in enumerate(rates):
        optimiser.step(gradients(step, used), rate, None if used.all() else optimiser.layout.spread(used[step]))
        check(parameters, wanted[step])


def test_what_is_not_touched_keeps_value_momentum_and_step_count_to_the_bit() -> None:
    parameters, logits = tensors(0), tensors(0)
    weights, arch = SGD(parameters, WeightSettings(weight_decay=0.1)), Adam(logits, ArchSettings(weight_decay=0.1))
    weights.step(tensors(1), 0.1)
    arch.step(tensors(1), 0.1)
    used = np.array([[True, False, True], [False, False, True], [False, False, False]])
    still = ~torch.as_tensor(used).repeat_interleave(torch.tensor([24, 5, 8]), 1)

    def state() -> list[Tensor]:
        values = [optimiser.layout.flatten(optimiser.parameters).clone() for optimiser in (weights, arch)]
        return [*values, weights.momentum.clone(), arch.mean.clone(), arch.square.clone(), arch.count.clone()]

    before = state()
    weights.step(tensors(2), 0.1, used)
    arch.step(tensors(2), 0.1, ~still)
    for old, new in zip(before, state(), strict=True):
        assert torch.equal(old[still], new[still])
        assert (old != new)[~still].all()
    assert set(arch.count[still].tolist()) == {1.0}
    assert set(arch.count[~still].tolist()) == {2.0}


def test_missing_gradients_are_zeros_and_decay_still_acts() -> None:
    missing: dict[str, Tensor | None] = {**tensors(1), "bias": None}
    zeros = {**tensors(1), "bias": torch.zeros(SHAPES["bias"], dtype=torch.float64)}
    found = []
    for given_ in (missing, {name: value for name, value in missing.items() if value is not None}, zeros):
        parameters = tensors(0)
        SGD(parameters, WeightSettings()).step(given_, 0.1)
        found.append(parameters)
    labs.same(found[0], found[2])
    labs.same(found[1], found[2])
    torch.testing.assert_close(found[0]["bias"], tensors(0)["bias"] * (1 - 0.1 * 3e-4), rtol=1e-12, atol=0)


def test_clipping_bounds_each_replica_alone() -> None:
    gradient = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.03, 0.04], [0.0, 0.0]], dtype=torch.float64)
    norms = clip(gradient, 5.0 * (1 + 1e-6)).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([5.0, 5.0, 0.05, 0.0], dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(clip(gradient, None), gradient)
    assert torch.equal(clip(gradient, 5.0)[2:], gradient[2:])
    broken = gradient.clone()
    broken[1, 0] = torch.nan
    assert torch.equal(clip(broken, 5.0)[[0, 2, 3]], clip(gradient, 5.0)[[0, 2, 3]])


@pytest.mark.parametrize("nesterov", [False, True])
def test_lookahead_is_one_plain_step_without_clipping_and_changes_nothing(nesterov: bool) -> None:
    chosen = WeightSettings(clip=0.01, nesterov=nesterov)
    parameters = tensors(0)
    optimiser = SGD(parameters, chosen)
    optimiser.step(tensors(1), 0.1)
    before = {**labs.leaves(parameters), "momentum": optimiser.momentum.clone()}
    ahead = optimiser.lookahead(tensors(2), RATES)
    labs.same({**labs.leaves(parameters), "momentum": optimiser.momentum}, before)
    plain = SGD(parameters, replace(chosen, clip=None, nesterov=False))
    plain.load_state_dict(optimiser.state_dict())
    plain.step(tensors(2), RATES)
    check(optimiser.layout.split(ahead), parameters)
    first = SGD(tensors(0), chosen).lookahead(tensors(1), 0.5)
    check(
        optimiser.layout.split(first),
        {name: value - 0.5 * (tensors(1)[name] + 3e-4 * value) for name, value in tensors(0).items()},
    )


def test_a_state_is_not_changed_by_later_steps_of_who_loaded_it() -> None:
    for make, later in ((lambda p: SGD(p, WeightSettings()), 0.1), (lambda p: Adam(p, ArchSettings()), 0.1)):
        parameters = tensors(0)
        optimiser = make(parameters)
        optimiser.step(tensors(1), later)
        state, values = optimiser.state_dict(), labs.leaves(parameters)
        copied = labs.leaves(state)
        ends = []
        for _ in range(2):
            restore(parameters, {name: values[f"/{name}"] for name in parameters})
            optimiser = make(parameters)
            optimiser.load_state_dict(state)
            optimiser.step(tensors(2), later)
            ends.append(labs.leaves(parameters))
        labs.same(*ends)
        labs.same(labs.leaves(state), copied)


def test_restoring_copies_and_refuses_other_names() -> None:
    mine, saved = tensors(0), tensors(1)
    places = {name: value.data_ptr() for name, value in mine.items()}
    restore(mine, saved)
    labs.same(mine, saved)
    assert {name: value.data_ptr() for name, value in mine.items()} == places
    with pytest.raises(ValueError, match="expected saved tensors"):
        restore(mine, {**saved, "more": saved["bias"]})


@given(st.floats(1e-3, 1.0), st.floats(0.0, 1e-4), st.integers(1, 300), st.data())
def test_cosine_is_its_closed_form(lr: float, lr_min: float, epochs: int, data: st.DataObject) -> None:
    chosen = WeightSettings(lr=lr, lr_min=lr_min)
    epoch = data.draw(st.integers(0, epochs - 1))
    wanted = lr_min + (lr - lr_min) * math.cos(math.pi * epoch / (2 * epochs)) ** 2
    assert cosine(chosen, epoch, epochs) == pytest.approx(wanted, rel=1e-9)
    assert cosine(chosen, 0, epochs) == pytest.approx(lr, rel=1e-12)
    assert lr_min < cosine(chosen, epoch, epochs)
    assert epoch == 0 or cosine(chosen, epoch, epochs) < cosine(chosen, epoch - 1, epochs)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4), st.data())
def test_layout_round_trip_and_spread(replicas: int, shapes: list[list[int]], data: st.DataObject) -> None:
    stream = labs.rng(data.draw(st.integers(0, 99)))
    values = {f"p{i}": torch.rand((replicas, *shape), generator=stream) for i, shape in enumerate(shapes)}
    layout = Layout(values)
    flat = layout.flatten(values)
    assert flat.shape == (replicas, sum(math.prod(shape) for shape in shapes))
    labs.same(layout.split(flat), values)
    backwards = dict(reversed(values.items()))
    assert torch.equal(layout.flatten(backwards), flat)
    used = np.array(
        data.draw(st.lists(st.booleans(), min_size=replicas * len(shapes), max_size=replicas * len(shapes)))
    )
    used = used.reshape(replicas, len(shapes))
    mask = layout.spread(used)
    assert (mask is None) == bool(used.all())
    for column, part in enumerate(layout.split(flat if mask is None else mask.to(flat)).values()):
        for replica in range(replicas):
            assert mask is None or (part[replica] == used[replica, column]).all()


def test_touched_on_the_toy_space_by_hand() -> None:
    """Node 2 reads node 1; replica 1's output reads the input and node 1 only, so its node 2 is idle."""
    lab = labs.make("toy", (0, 1))
    network = lab.build(SupernetOptions())
    groups = {group.name: group for group in network.groups}
    assert {name: group.options for name, group in groups.items()} == {
        "op": ("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu"),
        "in_2": ("input", "node_1"),
        "out": ("input", "node_1", "node_2"),
    }
    hot = {
        "op": [[[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 1, 0]]],
        "in_2": [[[0, 1]], [[1, 0]]],
        "out": [[[0, 1, 1]], [[1, 1, 0]]],
    }
    active = {name: np.array([rows], dtype=bool) for name, rows in hot.items()}
    choices = Choices({name: torch.as_tensor(rows, dtype=torch.float64) for name, rows in active.items()}, active)
    names = [name for name, _ in network.named_parameters()]
    used = touched(network, choices, names)
    expected = {
        "project_out": (False, True),
        "project.0": (True, True),
        "project.1": (False, False),
        "conv3x3.0": (True, False),
        "conv3x3.1": (False, False),
        "conv1x1.0": (False, True),
        "conv1x1.1": (True, False),
    }
    for column, name in enumerate(names):
        inside = name.split(".", 2)[2] if name.startswith("cell.") else ""
        wanted = next((flags for part, flags in expected.items() if inside.startswith(f"{part}.")), (True, True))
        assert tuple(used[:, column]) == wanted, name
    assert touched(network, Choices(choices.weights), names).all()
