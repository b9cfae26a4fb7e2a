"""Hessian-vector products and eigen-solvers against dense algebra, analytic Hessians and ARPACK."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from searchers import _curvature as curvature

torch.set_num_threads(1)
TIGHT = 1e-8
EYE = torch.eye(16, dtype=torch.float64)
NO_BASIS = torch.zeros(0, 8, dtype=torch.float64)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def symmetric(values: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with the given eigenvalues."""
    frame = torch.linalg.qr(normal(seed, len(values), len(values))).Q
    return frame @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ frame.T


def operator(*matrices: Tensor) -> curvature.Product:
    stacked = torch.stack(matrices)
    return lambda vector: (stacked @ vector[:, :, None])[:, :, 0]


def solve(*matrices: Tensor, basis: Tensor = NO_BASIS, tolerance: float = TIGHT, seed: int = 5) -> curvature.Dominant:
    start = normal(seed, len(matrices[0])).repeat(len(matrices), 1)
    return curvature.dominant(operator(*matrices), start, basis, tolerance)


def toy_logits(replicas: int = 2) -> curvature.Logits:
    return {"op": normal(1, replicas, 3, 4), "in": normal(2, replicas, 2, 2)}


def toy_loss(logits: curvature.Logits) -> Tensor:
    """Couples all rows of both softmaxed groups; replicas differ by their logits alone."""
    flat = torch.cat([table.softmax(-1).flatten(1) for table in logits.values()], 1)
    return (flat @ normal(3, 16, 16)).tanh().pow(3).sum(1) + (flat @ normal(4, 16)).exp()


def test_packing_round_trips_in_dict_order() -> None:
    logits = toy_logits()
    vector = curvature.pack(logits)
    assert torch.equal(vector[0, :4], logits["op"][0, 0])
    assert torch.equal(vector[1, 12:14], logits["in"][1, 0])
    restored = curvature.unpack(vector, logits)
    assert all(torch.equal(restored[name], logits[name]) for name in logits)
    assert list(restored) == ["op", "in"]


def test_null_basis_spans_the_rows_of_the_named_groups_only() -> None:
    basis = curvature.null_basis(toy_logits(), ("in",))
    expected = torch.zeros(2, 16, dtype=torch.float64)
    expected[0, 12:14] = expected[1, 14:16] = 0.5**0.5
    assert torch.allclose(basis, expected)
    assert curvature.null_basis(toy_logits(), ()).shape == (0, 16)
    both = curvature.null_basis(toy_logits(), ("in", "op"))
    assert torch.allclose(both @ both.T, torch.eye(5, dtype=torch.float64))


def test_operator_agrees_with_autograd_hessian() -> None:
    logits = toy_logits()
    point = curvature.hessian_operator(toy_loss, logits)
    matrix = curvature.dense(point.product, 2, EYE).matrix
    for replica in range(2):
        one = {name: table[replica : replica + 1] for name, table in logits.items()}
        flat = curvature.pack(one)
        loss = lambda vector, one=one: toy_loss(curvature.unpack(vector[None], one))[0]  # noqa: E731
        expected = torch.autograd.functional.hessian(loss, flat[0])
        assert torch.allclose(matrix[replica], expected, atol=1e-12)
        assert torch.allclose(point.loss[replica], toy_loss(one)[0])
        assert torch.allclose(point.gradient[replica], torch.autograd.functional.jacobian(loss, flat[0]))


def test_operator_agrees_with_finite_differences_of_gradients() -> None:
    logits, step = toy_logits(), 1e-4
    direction = normal(9, 2, 16)

    def gradient(sign: int) -> Tensor:
        moved = curvature.pack(logits) + sign * step * direction
        return curvature.hessian_operator(toy_loss, curvature.unpack(moved, logits)).gradient

    product = curvature.hessian_operator(toy_loss, logits).product(direction)
    assert torch.allclose((gradient(1) - gradient(-1)) / (2 * step), product, rtol=1e-4, atol=1e-6)


def test_quadratic_of_softmax_has_its_analytic_hessian() -> None:
    logits, weights = {"op": normal(6, 1, 1, 4)}, torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    point = curvature.hessian_operator(lambda moved: (moved["op"].softmax(-1) ** 2 @ weights / 2)[:, 0], logits)
    p = logits["op"][0, 0].softmax(-1)
    jacobian, eye = torch.diag(p) - torch.outer(p, p), torch.eye(4, dtype=torch.float64)
    second = [p[i] * (torch.outer(eye[i] - p, eye[i] - p) - jacobian) for i in range(4)]
    expected = jacobian @ torch.diag(weights) @ jacobian + sum(
        w * q * s for w, q, s in zip(weights, p, second, strict=True)
    )
    basis = curvature.null_basis(logits, ("op",))
    matrix = curvature.dense(point.product, 1, EYE[:4, :4]).matrix
    assert torch.allclose(matrix[0], expected, atol=1e-14)
    found = curvature.dominant(point.product, normal(1, 1, 4), basis, TIGHT).value
    values = torch.linalg.eigvalsh(expected)
    assert torch.allclose(found, values[values.abs().argmax()], rtol=1e-6)


def test_row_constant_directions_are_null_and_the_spectrum_leaves_them_out() -> None:
    logits = toy_logits()
    basis = curvature.null_basis(logits, ("op", "in"))
    product = curvature.hessian_operator(toy_loss, logits).product
    for direction in basis:
        assert product(direction.expand(2, 16)).abs().max() < 1e-13
    matrix = curvature.dense(product, 2, EYE).matrix
    restricted = curvature.dense(product, 2, curvature.complement(basis)).matrix
    kept, whole = curvature.spectrum(restricted), torch.linalg.eigvalsh(matrix)
    assert kept.shape == (2, 11)
    for replica in range(2):
        drop = whole[replica].abs().argsort()[:5]
        rest = np.delete(whole[replica].numpy(), drop.numpy())
        np.testing.assert_allclose(kept[replica], rest, atol=1e-12)


def test_projection_hides_a_larger_eigenvalue_in_the_null_directions() -> None:
    basis = torch.zeros(1, 8, dtype=torch.float64)
    basis[0, 3] = 1.0
    matrix = torch.diag(torch.tensor([1.0, 2, 3, 100, -4, 0.5, 0.1, 0], dtype=torch.float64))
    assert solve(matrix, basis=basis).value.item() == pytest.approx(-4, rel=1e-6)


@pytest.mark.parametrize("values", [[-5, 1, 2, 3, 0.1, 0, 0, 0], [5, -1, 2, 3, 0.1, 0, 0, 0]])
def test_dominant_keeps_its_sign_and_says_its_cost(values: list[float]) -> None:
    found = solve(symmetric(values), tolerance=1e-3)
    assert found.value.item() == pytest.approx(values[0], rel=1e-5)
    assert found.residual.item() <= 1e-3
    assert found.solver == ("lanczos",) if found.products.item() > 8 else found.solver == ("power",)
    product = operator(symmetric(values))(found.vector)
    true = (product - found.value * found.vector).norm() / found.value.abs()
    assert true.item() == pytest.approx(found.residual.item(), rel=1e-6)


def test_power_iteration_suffices_where_one_eigenvalue_stands_out() -> None:
    found = solve(symmetric([-50, 1, 2, 3, 0.1, 0, 0, 0]), tolerance=1e-3)
    assert found.solver == ("power",)
    assert found.products.item() <= 5


@pytest.mark.parametrize("smaller", [1 - 1e-9, 1 - 1e-4, 0.98])
@pytest.mark.parametrize("sign", [1, -1])
def test_ends_of_nearly_equal_magnitude_need_lanczos(smaller: float, sign: int) -> None:
    values = [sign * 2.0, -sign * 2.0 * smaller, 1.0, 0.5, -0.5, 0.2, 0.1, 0.0]
    found = solve(symmetric(values))
    assert found.solver == ("lanczos",)
    assert found.value.item() == pytest.approx(sign * 2.0, rel=1e-6)
    assert found.residual.item() <= TIGHT
    assert 8 < found.products.item() <= 16


def test_exactly_opposite_ends_give_one_of_them() -> None:
    found = solve(symmetric([2.0, -2.0, 1, 0, 0, 0, 0, 0]))
    assert found.solver == ("lanczos",)
    assert abs(found.value.item()) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("rest", [0.0, 0.03])
def test_lanczos_alone_finds_an_end_that_looks_smaller_at_first(rest: float) -> None:
    matrix = torch.diag(torch.tensor([3.0, -3.3, 2, 1, 0.5, -0.5, -1, -2], dtype=torch.float64))
    start = torch.tensor([[1.0, 1e-3, *[rest] * 6]], dtype=torch.float64)
    assert curvature.lanczos(operator(matrix), start, NO_BASIS, 1e-2).value.item() == pytest.approx(-3.3, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6), st.booleans())
def test_agrees_with_eigvalsh_and_arpack(size: int, seed: int, shifted: bool) -> None:
    raw = normal(seed, size, size)
    matrix = raw + raw.T + (3 * torch.eye(size, dtype=torch.float64) if shifted else 0)
    basis = torch.zeros(0, size, dtype=torch.float64)
    found = solve(matrix, basis=basis)
    values = torch.linalg.eigvalsh(matrix)
    assert abs(found.value.item()) == pytest.approx(values.abs().max().item(), rel=1e-6)
    assert (values - found.value).abs().min() < 1e-6
    linear = LinearOperator((size, size), matvec=lambda v: matrix.numpy() @ v.ravel(), dtype=np.float64)
    start = normal(seed + 1, size).numpy()
    oracle = eigsh(linear, k=1, which="LM", v0=start, return_eigenvectors=False)[0]
    assert abs(found.value.item()) == pytest.approx(abs(oracle), rel=1e-6)
    top = eigsh(linear, k=1, which="LA", v0=start, return_eigenvectors=False)[0]
    assert curvature.spectrum(matrix[None])[0, -1].item() == pytest.approx(top, rel=1e-6, abs=1e-9)


def test_stacked_equals_alone_whoever_is_beside() -> None:
    quick, dead = symmetric([90.0, 1, 0, 0, 0, 0, 0, 0]), torch.zeros(8, 8, dtype=torch.float64)
    hard, broken = symmetric([2, -1.99, 1, 0.5, 0.1, 0, 0, 0], seed=3), torch.full((8, 8), torch.nan).double()
    matrices = (quick, dead, hard, symmetric([-3, 2.4, 1, 1, 1, 0, 0, 0], seed=4), broken)
    together = solve(*matrices)
    for replica, matrix in enumerate(matrices[:-1]):
        alone = solve(matrix)
        assert together.value[replica].item() == pytest.approx(alone.value.item(), rel=1e-9)
        assert together.products[replica] == alone.products
        assert together.solver[replica] == alone.solver[0]
        assert torch.allclose(together.vector[replica], alone.vector[0], atol=1e-9)
    assert together.value[-1].isnan()
    assert together.solver[:3] == ("power", "power", "lanczos")


def test_loss_that_ignores_the_logits_is_degenerate_and_its_neighbour_is_not() -> None:
    logits = toy_logits(3)
    alive = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    point = curvature.hessian_operator(lambda moved: 2 + alive * toy_loss(moved), logits)
    found = curvature.dominant(point.product, normal(1, 3, 16), curvature.null_basis(logits, ("op", "in")), TIGHT)
    assert curvature.degenerate(point, found.value).tolist() == [False, True, False]
    assert (found.value[1].item(), found.residual[1].item(), found.solver[1]) == (0, 0, "power")
    other = curvature.hessian_operator(toy_loss, {name: table[:1] for name, table in logits.items()})
    alone = curvature.dominant(other.product, normal(1, 3, 16)[:1], curvature.null_basis(logits, ("op", "in")), TIGHT)
    assert found.value[0].item() == pytest.approx(alone.value.item(), rel=1e-9)


@pytest.mark.parametrize("kind", ["no graph", "other graph", "zero slope", "linear"])
def test_losses_without_a_path_to_the_logits_or_a_second_derivative_give_zeros(kind: str) -> None:
    def loss(logits: curvature.Logits) -> Tensor:
        constant = torch.full((2,), 0.7, dtype=torch.float64, requires_grad=kind == "other graph")
        slope = {"zero slope": 0.0, "linear": 1.0}.get(kind)
        return constant * 2 if slope is None else constant + slope * logits["op"].sum((1, 2))

    point = curvature.hessian_operator(loss, toy_logits())
    assert point.product(normal(1, 2, 16)).abs().max() == 0
    found = curvature.dominant(point.product, normal(1, 2, 16), torch.zeros(0, 16, dtype=torch.float64))
    assert curvature.degenerate(point, found.value).tolist() == [kind != "linear"] * 2


def test_dense_reports_what_symmetrising_removed() -> None:
    matrix = torch.tensor([[1.0, 2], [0, 1]], dtype=torch.float64)
    found = curvature.dense(operator(matrix), 1, EYE[:2, :2])
    assert found.matrix[0].tolist() == [[1, 1], [1, 1]]
    assert found.asymmetry.item() == pytest.approx((8 / 6) ** 0.5)
    assert curvature.dense(operator(torch.zeros(2, 2, dtype=torch.float64)), 1, EYE[:2, :2]).asymmetry.item() == 0


def test_a_start_without_a_usable_part_is_refused_unless_nothing_is_left_to_find() -> None:
    product, zero = operator(torch.eye(8, dtype=torch.float64)), torch.zeros(1, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="start vector"):
        curvature.dominant(product, zero, NO_BASIS)
    assert curvature.dominant(product, zero, torch.eye(8, dtype=torch.float64)).value.item() == 0
