"""Noise, projection, kernel and mean shift on their own, against loops and closed forms."""

import math

import labs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench import spaces
from searchers import _perturb
from searchers._perturb import Mixture, Ramp

DOUBLE = torch.float64


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [labs.rng(first + seed) for seed in range(count)]


def uniform(replicas: int, *shapes: tuple[int, int]) -> dict[str, Tensor]:
    return {str(i): torch.full((1, replicas, *shape), 1 / shape[1], dtype=DOUBLE) for i, shape in enumerate(shapes)}


def cloud(count: int, replicas: int = 2, seed: int = 0) -> list[dict[str, Tensor]]:
    """Random points, not on any simplex, two groups of different shape."""
    stream = labs.rng(seed)
    shapes = {"op": (2, 3), "in_2": (1, 4)}
    return [{n: torch.randn((1, replicas, *s), generator=stream, dtype=DOUBLE) for n, s in shapes.items()}] + [
        {n: torch.randn((1, replicas, *s), generator=stream, dtype=DOUBLE) for n, s in shapes.items()}
        for _ in range(count)
    ]


def flat(mixture: Mixture, replica: int) -> np.ndarray:
    return np.concatenate([value[:, replica].flatten().numpy() for value in mixture.values()])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_rows_of_a_softmax_keep_their_bits(dtype: torch.dtype) -> None:
    for options in (2, 3, 5, 6):
        rows = (4 * torch.randn((1, 3, 2000, options), generator=labs.rng(options), dtype=dtype)).softmax(-1)
        assert torch.equal(_perturb.project({"op": rows})["op"], rows)


def test_projection_clamps_and_divides() -> None:
    rows = torch.randn((1, 2, 50, 4), generator=labs.rng(0), dtype=DOUBLE)
    rows[0, 0, 0] = torch.tensor([-0.3, -0.1, -0.2, -0.4])
    rows[0, 1, 3] = torch.tensor([0.0, 0.0, -1.0, 0.0])
    rows[0, 1, 4] = torch.tensor([2.0, 0.5, -1.0, 0.5])
    found = _perturb.project({"op": rows})["op"]
    for given, row in zip(rows.reshape(-1, 4).tolist(), found.reshape(-1, 4).tolist(), strict=True):
        clamped = [min(max(value, 0.0), 1.0) for value in given]
        if sum(clamped) == 0:
            wanted = [float(i == given.index(max(given))) for i in range(4)]
        else:
            wanted = [value / sum(clamped) for value in clamped]
        assert row == pytest.approx(wanted, abs=1e-15)
    assert found[0, 0, 0].tolist() == [0, 1, 0, 0]
    assert found[0, 1, 4].tolist() == [0.5, 0.25, 0, 0.25]


def test_a_row_inside_the_cube_but_off_the_simplex_is_divided() -> None:
    rows = torch.tensor([[[[0.3, 0.3, 0.4 + 1e-9]]]], dtype=DOUBLE)
    found = _perturb.project({"op": rows})["op"]
    assert abs(found.sum().item() - 1) < 1e-15
    assert not torch.equal(found, rows)


def test_box_noise_is_uniform_and_of_each_replicas_own_stream() -> None:
    like = uniform(3, (100, 60), (50, 2))
    noise = _perturb.drawn_noise(like, lambda: generators(3), 0.25)[0]
    for name, value in noise.items():
        assert value.shape == like[name].shape
        assert value.abs().max() <= 0.25
        assert value.abs().max() > 0.24
    assert noise["0"].mean().abs() < 0.004
    assert noise["0"].var().item() == pytest.approx(0.25**2 / 3, rel=0.03)
    alone = _perturb.drawn_noise({n: v[:, 1:2] for n, v in like.items()}, lambda: generators(1, first=1), 0.25)[0]
    for name, value in alone.items():
        assert torch.equal(value, noise[name][:, 1:2])
    single = {n: v.float() for n, v in like.items()}
    for name, value in _perturb.drawn_noise(single, lambda: generators(3), 0.25)[0].items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), noise[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("joint", [False, True])
def test_ball_noise_fills_a_ball_evenly(joint: bool) -> None:
    replicas, radius = 3000, 0.4
    like = uniform(replicas, (2, 2), (1, 3))
    region: _perturb.Region = "joint_ball" if joint else "ball"
    (noise,) = _perturb.drawn_noise(like, lambda: generators(replicas), radius, region)
    vectors = (
        [torch.cat([v[0].flatten(1) for v in noise.values()], 1)]
        if joint
        else [v[0].flatten(1) for v in noise.values()]
    )
    for vector in vectors:
        norms = vector.norm(dim=1)
        assert norms.max() <= radius * (1 + 1e-12)
        size = vector.shape[1]
        for share in (0.2, 0.5, 0.8):  # of the volume
            inside = (norms <= radius * share ** (1 / size)).double().mean().item()
            assert inside == pytest.approx(share, abs=0.03)
        assert vector.mean(0).abs().max() < 0.02


def test_the_kernel_is_the_gaussian_of_the_distance_up_to_a_constant() -> None:
    centre, *samples = cloud(3)
    for bandwidth in (0.3, 2.0):
        for joint in (False, True):
            found = _perturb.log_kernel(centre, samples, bandwidth, joint)
            for name, logs in found.items():
                parts = list(centre) if joint else [name]
                for replica in range(2):
                    squares = [sum(float(((s[p] - centre[p])[:, replica] ** 2).sum()) for p in parts) for s in samples]
                    wanted = [-0.5 * (d - min(squares)) / bandwidth**2 for d in squares]
                    assert logs[:, replica].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bandwidth", [1e-2, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_narrow_kernel_takes_the_nearest_sample_and_never_divides_by_zero(
    bandwidth: float, dtype: torch.dtype
) -> None:
    centre, *samples = [{n: v.to(dtype) for n, v in point.items()} for point in cloud(4)]
    moved = _perturb.mean_shift(
        centre, 1, lambda _: samples, lambda c, s: _perturb.log_kernel(c, s, bandwidth, joint=False)
    )
    for name, value in moved.items():
        for replica in range(2):
            distances = [float((s[name] - centre[name])[:, replica].norm()) for s in samples]
            nearest = samples[int(np.argmin(distances))][name][:, replica]
            assert torch.equal(value[:, replica], nearest)


def test_effective_samples_of_known_weights() -> None:
    for shift in (0.0, 700.0, -900.0):
        even = torch.full((5, 2), shift, dtype=DOUBLE)
        torch.testing.assert_close(_perturb.effective_samples(even), torch.full((2,), 5.0, dtype=DOUBLE))
    one_two_three = torch.tensor([[1.0], [2.0], [3.0]], dtype=DOUBLE).log()
    assert _perturb.effective_samples(one_two_three).item() == pytest.approx(36 / 14, rel=1e-12)
    assert _perturb.effective_samples(torch.tensor([[0.0], [-1e9]], dtype=DOUBLE)).item() == 1.0


def test_at_the_published_settings_the_kernel_is_inert() -> None:
    """S1's operations at uniform weights, N = 3 samples in the box of radius 0.25."""
    replicas, group = 500, spaces.get("s1").groups[0]
    centre = {group.name: torch.full((1, replicas, *group.shape), 1 / 3, dtype=DOUBLE)}
    streams = generators(replicas)
    samples = [
        _perturb.project(_perturb.add(centre, _perturb.drawn_noise(centre, lambda: streams, 0.25)[0])) for _ in range(3)
    ]
    found = {}
    for bandwidth in (1.0, 0.5, 0.25, 0.1, 0.01):
        kernel = _perturb.log_kernel(centre, samples, bandwidth, joint=False)
        found[bandwidth] = _perturb.effective_samples(kernel[group.name]).mean().item()
    wanted = {1.0: 2.997, 0.5: 2.95, 0.25: 2.525, 0.1: 1.39, 0.01: 1.0}
    assert found == pytest.approx(wanted, abs=0.05)
    assert found[1.0] > 2.99


def test_one_sample_is_taken_to_the_bit_whatever_it_weighs() -> None:
    centre, only = cloud(1)
    for weight in (0.0, -1e9, 1e9):
        logs = {name: torch.full((1, 2), weight, dtype=DOUBLE) for name in centre}
        moved = _perturb.mean_shift(centre, 1, lambda _: [only], lambda _c, _s, logs=logs: logs)
        for name, value in moved.items():
            assert torch.equal(value, only[name])


def test_a_constant_on_all_log_weights_changes_nothing() -> None:
    """A factor on all ω or on all κ: the weights are shares."""
    centre, *samples = cloud(4)
    logs = {name: torch.randn((4, 2), generator=labs.rng(5), dtype=DOUBLE) for name in centre}
    found = []
    for constant in (0.0, 300.0, -5000.0):
        moved = _perturb.mean_shift(
            centre, 1, lambda _: samples, lambda _c, _s, more=constant: {n: v + more for n, v in logs.items()}
        )
        found.append(moved)
    for other in found[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=1e-9, atol=1e-9)
    for replica in range(2):
        for name, value in found[0].items():
            weights = np.exp(logs[name][:, replica].numpy())
            points = np.stack([s[name][:, replica].numpy() for s in samples])
            wanted = np.tensordot(weights / weights.sum(), points, 1)
            np.testing.assert_allclose(value[:, replica].numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("samples", "rounds"), [(3, 2), (4, 5), (1, 1)])
def test_a_plain_mean_has_the_variance_of_the_closed_form(samples: int, rounds: int) -> None:
    centre, radius = uniform(2, (300, 40)), 0.25
    streams = generators(2)

    def draw(around: Mixture) -> list[Mixture]:
        return [_perturb.add(around, _perturb.drawn_noise(around, lambda: streams, radius)[0]) for _ in range(samples)]

    def even(around: Mixture, _drawn: object) -> dict[str, Tensor]:
        return {name: torch.zeros(samples, 2, dtype=DOUBLE) for name in around}

    moved = _perturb.mean_shift(centre, rounds, draw, even)
    shift = moved["0"] - centre["0"]
    assert shift.var().item() == pytest.approx(rounds * radius**2 / (3 * samples), rel=0.04)
    assert shift.mean().abs() < 0.01


def test_the_radius_grows_with_the_share_of_epochs() -> None:
    ramp = Ramp(0.03, 0.3)
    assert [ramp.at(epoch / 100) for epoch in (0, 50)] == pytest.approx([0.03, 0.165])
    assert ramp.at(99 / 100) < 0.3
    assert math.isclose(Ramp(0.025, 0.25).at(0.4), 0.25 / 10 + 0.9 * 0.25 * 0.4)
    with pytest.raises(ValueError, match=r"expected a radius of at least 0, got '-0\.1 to 0\.3'"):
        Ramp(-0.1, 0.3)


@pytest.mark.usefixtures("unchecked")
def test_a_gauge_is_the_mean_of_an_epoch() -> None:
    gauge, even, one = _perturb.Gauge(), torch.zeros(3, 2, dtype=DOUBLE), torch.tensor([[0.0], [-1e9]]).expand(2, 2)
    gauge.end_epoch(None, 0)  # type: ignore[arg-type]
    assert gauge.read() == {}
    gauge.add({"a": even, "b": one.to(DOUBLE)})
    gauge.add({"a": even, "b": even})
    gauge.end_epoch(None, 1)  # type: ignore[arg-type]
    torch.testing.assert_close(gauge.read()["effective_samples"], torch.full((2,), 2.5, dtype=DOUBLE))
    gauge.end_epoch(None, 2)  # type: ignore[arg-type]
    assert gauge.read() == {}
