"""Spaces: discretisation, identity of cells, and the sizes that are known of them."""

import itertools
import os
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_supernet_plain import SPACES, groups_of, random_genotype

import bench.spaces
from bench.spaces.base import Genotype, Space, discrete_choices, discretise, k_hot
from bench.spaces.graph101 import LABELS, graph_hash, prune
from bench.spaces.nb201 import NB201Space, parse, unique_string
from searchers._ranking import sample_cells

SLICE = Path(os.environ.get("NAS_STABILITY_DATA", "/nonexistent")) / "nasbench101_slice.parquet"
INCEPTION = ["0111010", "0000001", "0000001", "0000100", "0000001", "0000001", "0000000"]
INCEPTION_LABELS = [-1, 1, 0, 0, 0, 2, -2]
VECTORS = [
    (["01", "00"], [-1, -2], "043721b9c7fe8c5fad811d47d83132ec"),
    (["010", "001", "000"], [-1, 0, -2], "b49ac8c578b4561d79ac7087988f1c61"),
    (["010", "001", "000"], [-1, 1, -2], "d1269d9156ddc027c40473008192958a"),
    (INCEPTION, INCEPTION_LABELS, "28cfc7874f6d200472e1a9dcd8650aa0"),
]


def matrix_of(rows: list[str]) -> list[list[int]]:
    return [[int(digit) for digit in row] for row in rows]


@cache
def space(name: str) -> Space:
    return bench.spaces.get(name)


@cache
def counts(name: str) -> dict[str, int]:
    return space(name).multiplicities()


@pytest.mark.parametrize(("rows", "labels", "expected"), VECTORS)
def test_hash_is_the_published_one(rows, labels, expected: str):
    assert graph_hash(matrix_of(rows), labels) == expected


@pytest.mark.parametrize("cast", [float, bool, np.int64, np.float32])
def test_hash_does_not_depend_on_the_type_of_the_numbers(cast, unchecked):
    matrix = [[cast(v) for v in row] for row in matrix_of(INCEPTION)]
    assert graph_hash(matrix, INCEPTION_LABELS) == VECTORS[3][2]
    assert graph_hash(np.array(matrix), INCEPTION_LABELS) == VECTORS[3][2]


def test_hash_does_not_depend_on_the_type_of_the_labels(unchecked):
    assert graph_hash(matrix_of(INCEPTION), np.array(INCEPTION_LABELS)) == VECTORS[3][2]
    assert graph_hash(matrix_of(INCEPTION), [float(label) for label in INCEPTION_LABELS]) == VECTORS[3][2]


@st.composite
def graphs(draw) -> tuple[list[list[int]], list[int]]:
    size = draw(st.integers(2, 7))
    bits = iter(draw(st.lists(st.booleans(), min_size=21, max_size=21)))
    matrix = [[int(j > i and next(bits)) for j in range(size)] for i in range(size)]
    return matrix, [-1, *draw(st.lists(st.integers(0, 2), min_size=size - 2, max_size=size - 2)), -2]


def hash_or_none(matrix, labels) -> str | None:
    return None if prune(matrix, labels) is None else graph_hash(matrix, labels)


@given(graphs(), st.permutations(range(7)))
def test_hash_survives_every_relabelling_in_topological_order(graph, priority):
    matrix, labels = graph
    size, order = len(matrix), [0]
    while len(order) < size - 1:
        ready = [v for v in range(1, size - 1) if v not in order
                 if all(u in order for u in range(1, size - 1) if matrix[u][v])]  # fmt: skip
        order.append(min(ready, key=priority.index))
    order.append(size - 1)
    relabelled = [[matrix[i][j] for j in order] for i in order]
    assert not np.tril(relabelled).any()
    assert hash_or_none(relabelled, [labels[i] for i in order]) == hash_or_none(matrix, labels)


@given(graphs(), st.integers(0, 2), st.booleans(), st.lists(st.booleans(), min_size=7, max_size=7), st.integers(1, 6))
def test_hash_ignores_loose_ends(graph, label: int, upstream: bool, edges, place: int):
    matrix, labels = graph
    place = min(place, len(matrix) - 1)
    wider = np.insert(np.insert(np.array(matrix), place, 0, 0), place, 0, 1)
    if upstream:
        wider[place, place + 1 :] = edges[: len(wider) - place - 1]
    else:
        wider[:place, place] = edges[:place]
    assert hash_or_none(wider.tolist(), [*labels[:place], label, *labels[place:]]) == hash_or_none(matrix, labels)


@given(graphs())
def test_hash_sees_the_operations(graph):
    matrix, labels = graph
    pruned = prune(matrix, labels)
    if pruned is not None and len(pruned[1]) > 2:
        other = [pruned[1][0], (pruned[1][1] + 1) % 3, *pruned[1][2:]]
        assert graph_hash(pruned[0], other) != graph_hash(*pruned)


@pytest.mark.parametrize("rows", [["00", "00"], ["010", "000", "000"], ["000", "001", "000"]])
def test_hash_of_a_disconnected_cell_is_refused(rows):
    with pytest.raises(ValueError, match="output is connected to its input"):
        graph_hash(matrix_of(rows), [-1, *[0] * (len(rows) - 2), -2])


@pytest.mark.skipif(not SLICE.is_file(), reason="no nasbench101_slice.parquet in NAS_STABILITY_DATA")
def test_hash_is_the_official_one_of_real_cells(unchecked):
    parquet = pytest.importorskip("pyarrow.parquet")
    for row in parquet.read_table(SLICE, columns=["hash", "adj_bits", "ops", "spaces"]).to_pylist()[::5]:
        matrix = [[0] * 7 for _ in range(7)]
        for k, (i, j) in enumerate((u, v) for v in range(1, 7) for u in range(v)):
            matrix[i][j] = row["adj_bits"] >> k & 1
        assert graph_hash(matrix, [-1, *map(int, row["ops"]), -2]) == row["hash"]
        assert row["hash"] in counts("s1") or "1" not in row["spaces"]


FIGURES = {
    "toy": (54, 11, 4),
    "s1": (14_580, 24, 7),
    "s2": (29_160, 26, 8),
    "s3": (1_312_200, 35, 10),
    "nb201": (15_625, 30, 6),
}


@pytest.mark.parametrize("name", SPACES)
def test_sizes_logits_and_rows(name: str):
    size, logits, rows = FIGURES[name]
    assert space(name).size() == size
    assert sum(g.shape[0] * g.shape[1] for g in space(name).groups) == logits
    assert sum(g.decisions for g in space(name).groups) == rows


TOPOLOGIES = {
    "toy": ((1, 1), 2),
    "s1": ((1, 2, 2, 2), 2),
    "s2": ((1, 1, 2, 2), 3),
    "s3": ((1, 1, 1, 2, 2), 2),
}  # parents of the nodes, parents of the output


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_groups_are_the_choices_of_the_topology(name: str):
    parents, out = TOPOLOGIES[name]
    groups = {g.name: g for g in space(name).groups}
    assert groups["op"].shape == (len(parents), 3)
    assert groups["op"].options == ("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu")
    assert groups["op"].parametric == (False, True, True)
    inputs = {f"in_{j}": keep for j, keep in enumerate(parents, 1) if keep < j}
    assert set(groups) == {"op", "out", *inputs}
    for key, keep in inputs.items():
        assert (groups[key].shape, groups[key].keep, groups[key].kind) == ((1, int(key[3:])), keep, "edge")
    assert (groups["out"].shape, groups["out"].keep) == ((1, len(parents) + 1), out)


@pytest.mark.parametrize(
    ("name", "distinct"),
    [
        ("toy", 27),
        ("s1", 2_685),
        pytest.param("s2", 7_773, marks=pytest.mark.slow),
        pytest.param("s3", None, marks=pytest.mark.slow),
        ("nb201", 15_625),
    ],
)
def test_encodings_of_all_keys_are_all_encodings(name: str, distinct: int | None, unchecked):
    assert sum(counts(name).values()) == space(name).size()
    assert min(counts(name).values()) > 0
    assert distinct is None or len(counts(name)) == distinct


def naive_hash(name: str, genotype: Genotype) -> str:
    """The hash of the cell in NAS-Bench-101's seven vertices, with their isolated dummy where there are fewer."""
    picks = dict(genotype.picks)
    nodes = len(picks["op"])
    matrix = np.zeros((7, 7), dtype=int)
    for node in range(1, nodes + 1):
        matrix[list(picks[f"in_{node}"][0]) if f"in_{node}" in picks else np.arange(node), node] = 1
    matrix[list(picks["out"][0]), 6] = 1
    names = [("maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu")[kept[0]] for kept in picks["op"]]
    names = ["input", *names, *["conv1x1-bn-relu"] * (5 - nodes), "output"]
    return graph_hash(matrix.tolist(), [LABELS[n] for n in names])


@pytest.mark.parametrize("name", ["toy", "s1"])
def test_multiplicities_are_those_of_brute_force(name: str, unchecked):
    genotypes = list(space(name).cells())
    assert len(set(genotypes)) == len(genotypes) == space(name).size()
    assert Counter(naive_hash(name, genotype) for genotype in genotypes) == counts(name)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_key_is_the_hash_in_seven_vertices(name: str):
    source = np.random.default_rng(0)
    for _ in range(50):
        genotype = random_genotype(space(name).groups, source)
        key = space(name).key(genotype)
        assert key == naive_hash(name, genotype)
        assert space(name).describe(genotype).endswith(key)


def test_every_key_of_a_random_cell_is_counted():
    source = np.random.default_rng(1)
    assert all(space("s1").key(random_genotype(groups_of("s1"), source)) in counts("s1") for _ in range(100))


def test_description_has_no_loose_ends():
    picks = (("op", ((0,), (1,))), ("in_2", ((0,),)), ("out", ((0, 2),)))
    text = space("toy").describe(Genotype(picks))
    assert text.startswith("011/001/000 | input,conv3x3-bn-relu,output | ")


def test_nb201_string_is_the_authors():
    genotype = Genotype((("op", ((3,), (0,), (1,), (4,), (2,), (3,))),))
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    assert NB201Space().key(genotype) == NB201Space().describe(genotype) == text
    assert parse(text) == genotype


def test_nb201_strings_are_read_back_and_6466_are_unique(unchecked):
    genotypes = list(NB201Space().cells())
    assert len({NB201Space().key(genotype) for genotype in genotypes}) == 15_625
    assert all(parse(NB201Space().key(genotype)) == genotype for genotype in genotypes)
    assert len({unique_string(genotype) for genotype in genotypes}) == 6_466


def test_unique_string_by_hand():
    genotype = Genotype((("op", ((3,), (1,), (0,), (0,), (4,), (1,))),))
    # node 1 is conv(0), node 2 is nothing + 0, node 3 is nothing + node 2 + pool(node 1)
    assert unique_string(genotype) == "#+#+0+((0)@nor_conv_3x3)@avg_pool_3x3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~3|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|conv~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|+|none~0|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|conv~2|",
        "|none~0|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ],
)
def test_other_strings_are_refused(text: str):
    with pytest.raises(ValueError, match=r"expected '\|op~0\|\+"):
        parse(text)


def test_unknown_space_names_the_known_ones():
    with pytest.raises(ValueError, match=r"toy, got 's4'"):
        bench.spaces.get("s4")


@pytest.mark.parametrize("name", SPACES)
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_discretised_is_what_its_k_hot_gives_back(name: str, seed: int):
    groups, source = groups_of(name), np.random.default_rng(seed)
    scores = {g.name: source.standard_normal(g.shape) for g in groups}
    genotype = discretise(groups, scores)
    for group in groups:
        for values, kept in zip(scores[group.name], genotype[group.name], strict=True):
            assert len(kept) == group.keep
            assert list(kept) == sorted(kept)
            assert values[list(kept)].min() > np.delete(values, list(kept)).max()
    hot = k_hot(groups, genotype)
    assert discretise(groups, hot) == genotype
    for group in groups:
        assert (hot[group.name].sum(1) == group.keep).all()


@pytest.mark.parametrize("name", SPACES)
def test_ties_go_to_the_lowest_index(name: str):
    genotype = discretise(groups_of(name), {g.name: np.zeros(g.shape) for g in groups_of(name)})
    for group in groups_of(name):
        assert genotype[group.name] == (tuple(range(group.keep)),) * group.decisions


def test_ties_behind_the_best_go_to_the_lowest_index():
    groups = groups_of("s2")
    scores = {g.name: np.zeros(g.shape) for g in groups}
    scores["out"][0] = [1, 0, 2, 1, 1]
    scores["in_4"][0] = [-0.0, 0.0, -3, 0.0]
    scores["op"][:, 1:] = 5
    genotype = discretise(groups, scores)
    assert genotype["out"] == ((0, 2, 3),)
    assert genotype["in_4"] == ((0, 1),)
    assert genotype["op"] == ((1,),) * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["s3", "nb201"])
def test_scores_that_are_not_finite_are_refused(name: str, bad: float):
    for group in groups_of(name):
        scores = {g.name: np.zeros(g.shape) for g in groups_of(name)}
        scores[group.name][-1, -1] = bad
        with pytest.raises(ValueError, match=f"expected finite scores for group '{group.name}'"):
            discretise(groups_of(name), scores)


@pytest.mark.parametrize("name", SPACES)
def test_discrete_choices_are_one_cell_a_replica(name: str):
    source = np.random.default_rng(2)
    genotypes = [random_genotype(groups_of(name), source) for _ in range(3)]
    choices = discrete_choices(groups_of(name), genotypes, torch.zeros(1, dtype=torch.float64))
    for replica, genotype in enumerate(genotypes):
        scores = {key: values[0, replica].numpy() for key, values in choices.weights.items()}
        assert discretise(groups_of(name), scores) == genotype
    for key, values in choices.weights.items():
        assert values.dtype == torch.float64
        assert (choices.active[key] == (values.numpy() == 1)).all()


def test_sampled_cells_are_uniform_over_subsets():
    streams = tuple(torch.Generator().manual_seed(seed) for seed in (1, 2))
    hot = sample_cells(groups_of("s1"), streams, cells=4000)
    assert hot["in_4"].shape == (4000, 2, 1, 4)
    for replica in range(2):
        seen = Counter(tuple(np.flatnonzero(row)) for row in hot["in_4"][:, replica, 0])
        assert set(seen) == set(itertools.combinations(range(4), 2))
        assert max(abs(count / 4000 - 1 / 6) for count in seen.values()) < 0.03
    alone = sample_cells(groups_of("s1"), (torch.Generator().manual_seed(2),), cells=4000)
    assert all((alone[key][:, 0] == values[:, 1]).all() for key, values in hot.items())
