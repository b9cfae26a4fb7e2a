"""Discrete cells of one seed written out with plain tensors, and what the tests of the supernets share.

Nothing of `bench.ops` is used: the plain supernets are those of `bench.speed.plain`, which have no replicas axis, and
discrete cells are evaluated backwards from their output, so what does not reach it is never touched.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import bench.spaces
from bench.spaces.base import Genotype, NetworkSize, k_hot
from bench.speed.plain import (
    EDGES,
    Parameters,
    Row,
    bn,
    conv_bn,
    conv_bn_relu,
    head,
    plain_nb201,
    plain_one_shot,
    reduction,
)
from searchers.base import Choices, Group, SupernetOptions

torch.set_num_threads(1)
SPACES = ("toy", "s1", "s2", "s3", "nb201")
ONE_SHOT = ("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu")


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def supernet(name: str, replicas: int = 1, *, channels: int = 4, cells: int = 1, parts: int = 1, seed: int = 0):
    """A small float64 supernet in which no parameter has a special value."""
    network = bench.spaces.get(name).supernet(NetworkSize(channels, cells), replicas, SupernetOptions(parts)).double()
    with torch.no_grad():
        for i, (path, parameter) in enumerate(network.named_parameters()):
            offset = 1.0 if path.endswith("norm.weight") else 0.0
            parameter.copy_(offset + 0.4 * normal(*parameter.shape, seed=1000 * seed + i))
    return network


def groups_of(name: str) -> tuple[Group, ...]:
    return bench.spaces.get(name).groups


def pictures(replicas: int, n: int = 3, side: int = 7, seed: int = 7) -> Tensor:
    return normal(replicas, n, 3, side, side, seed=seed)


def mixture(groups: Sequence[Group], replicas: int, cells: int = 1, seed: int = 3) -> dict[str, Tensor]:
    """Weights of both signs off the simplex, mostly positive: a head that sees negative maps alone is dead."""
    return {g.name: 0.8 + 0.6 * normal(cells, replicas, *g.shape, seed=seed + i) for i, g in enumerate(groups)}


def random_genotype(groups: Sequence[Group], source: np.random.Generator) -> Genotype:
    return Genotype(
        tuple(
            (
                g.name,
                tuple(
                    tuple(sorted(int(i) for i in source.permutation(len(g.options))[: g.keep]))
                    for _ in range(g.decisions)
                ),
            )
            for g in groups
        )
    )


def random_active(groups: Sequence[Group], cells: int, replicas: int, seed: int, chance: float = 0.6):
    source = np.random.default_rng(seed)
    return {g.name: source.random((cells, replicas, *g.shape)) < chance for g in groups}


def one_hot(groups: Sequence[Group], genotypes: Sequence[Sequence[Genotype]]) -> dict[str, np.ndarray]:
    """Scores of genotypes[cell][replica]."""
    hot = [[k_hot(groups, genotype) for genotype in row] for row in genotypes]
    return {g.name: np.stack([np.stack([h[g.name] for h in row]) for row in hot]) for g in groups}


def discrete(groups: Sequence[Group], genotypes: Sequence[Sequence[Genotype]]) -> Choices:
    hot = one_hot(groups, genotypes)
    return Choices({k: torch.tensor(v) for k, v in hot.items()}, {k: v == 1 for k, v in hot.items()})


def only(parameters: Parameters, replica: int) -> dict[str, Tensor]:
    return {name: values.detach()[replica] for name, values in parameters.items()}


def rows_of(weights: Mapping[str, Tensor], replica: int, cells: int) -> list[Row]:
    """The weights of one replica, one dict a cell."""
    shared = {name: values.expand(cells, -1, -1, -1) for name, values in weights.items()}
    return [{name: values[cell, replica] for name, values in shared.items()} for cell in range(cells)]


def spelled_out_bn(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    x = (x - mean) / (variance + 1e-5) ** 0.5
    return x if weight is None else x * weight[:, None, None] + bias[:, None, None]


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel i of group g goes to place i·groups + g."""
    size = x.shape[1] // groups
    out = torch.empty_like(x)
    for g in range(groups):
        for i in range(size):
            out[:, i * groups + g] = x[:, g * size + i]
    return out


def mean_pool(x: Tensor) -> Tensor:
    """3×3 means over the pixels that exist."""
    ones = torch.ones_like(x)
    return functional.avg_pool2d(x, 3, 1, 1) / functional.avg_pool2d(ones, 3, 1, 1)


def plain(name: str) -> Callable[..., Tensor]:
    return plain_nb201 if name == "nb201" else plain_one_shot


def discrete_one_shot(p: Parameters, x: Tensor, genotypes: Sequence[Genotype]) -> Tensor:
    """The network of the discrete cells: each vertex is computed when the output asks for it."""
    x = conv_bn_relu(x, p, "stem")
    for index, genotype in enumerate(genotypes):
        if index in {len(genotypes) // 3, 2 * len(genotypes) // 3}:
            x = functional.max_pool2d(x, 2, 2, 1)
        x = one_shot_cell(p, x, genotype, f"cell.{index}")
    return head(conv_bn(x.clamp(min=0), p, "head"), p)


def one_shot_cell(p: Parameters, x: Tensor, genotype: Genotype, cell: str) -> Tensor:
    picks = dict(genotype.picks)

    @cache
    def vertex(j: int) -> Tensor:
        parents = picks[f"in_{j}"][0] if f"in_{j}" in picks else range(j)
        sources = [conv_bn_relu(x, p, f"{cell}.project.{j - 1}") if i == 0 else vertex(i) for i in parents]
        z = torch.stack(sources).sum(0)
        operation = ONE_SHOT[picks["op"][j - 1][0]]
        if operation == "maxpool3x3":
            return functional.max_pool2d(z, 3, 1, 1)
        return conv_bn_relu(z, p, f"{cell}.{operation.split('-')[0]}.{j - 1}")

    kept = picks["out"][0]
    shape = p[f"{cell}.project.0.conv.weight"].shape[0]
    blank = x.new_zeros(len(x), shape, *x.shape[2:])
    out = torch.cat([vertex(j) if j in kept else blank for j in range(1, len(picks["op"]) + 1)], 1)
    return out + conv_bn_relu(x, p, f"{cell}.project_out") if 0 in kept else out


def discrete_nb201(p: Parameters, x: Tensor, genotypes: Sequence[Genotype]) -> Tensor:
    x = conv_bn(x, p, "stem")
    for index, genotype in enumerate(genotypes):
        x = reduction(x, p, index, len(genotypes))
        x = nb201_cell(p, x, genotype, f"cell.{index}")
    return head(bn(x, p).clamp(min=0), p)


def nb201_cell(p: Parameters, x: Tensor, genotype: Genotype, cell: str) -> Tensor:
    @cache
    def node(target: str) -> Tensor | None:
        if target == "0":
            return x
        terms = [term(edge, label[-1]) for edge, label in enumerate(EDGES) if label[0] == target]
        terms = [t for t in terms if t is not None]
        return torch.stack(terms).sum(0) if terms else None

    def term(edge: int, source: str) -> Tensor | None:
        option = genotype["op"][edge][0]
        if option == 0 or node(source) is None:
            return None
        z = node(source)
        return [
            lambda: z,
            lambda: conv_bn(z.clamp(min=0), p, f"{cell}.conv1x1.{edge}"),
            lambda: conv_bn(z.clamp(min=0), p, f"{cell}.conv3x3.{edge}"),
            lambda: mean_pool(z),
        ][option - 1]()

    out = node("3")
    return torch.zeros_like(x) if out is None else out


def discrete_network(name: str) -> Callable[..., Tensor]:
    return discrete_nb201 if name == "nb201" else discrete_one_shot


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert actual.isfinite().all()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
