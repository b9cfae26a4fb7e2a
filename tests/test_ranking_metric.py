"""How shared weights rank cells: against a hand-made table, and beside a search that must not notice it."""

import dataclasses
import json
from pathlib import Path

import labs
import numpy as np
import pytest
from scipy import stats
from tests import benches

from bench import run, spaces
from bench.lab import Lab
from bench.metrics import ranking
from bench.metrics.cell import Truth
from bench.metrics.ranking import RankingProbe
from bench.request import parse
from bench.spaces.base import discrete_choices
from bench.tables import Table
from searchers.registry import METHODS

BRIEF = ("--curvature", "off", "--epochs", "1")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


def test_pairs_counted_by_hand() -> None:
    """Of ten pairs one is discordant and one is tied in the scores."""
    scores, truth = np.array([0.1, 0.3, 0.3, 0.6, 0.5]), np.array([0.2, 0.3, 0.4, 0.5, 0.9])
    found = ranking.compare(scores, truth, 2)
    assert found["kendall"] == pytest.approx((8 - 1) / np.sqrt(9 * 10))
    ranks = np.array([1, 2.5, 2.5, 5, 4]) - 3, np.arange(5) - 2
    assert found["spearman"] == pytest.approx(
        ranks[0] @ ranks[1] / np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
    )
    assert found["overlap"] == 1.0
    assert ranking.compare(scores, truth, 1)["overlap"] == 0.0
    assert ranking.compare(scores, truth, 3)["overlap"] == pytest.approx(2 / 3)  # the tie goes to the first


def test_nothing_to_rank_is_null() -> None:
    assert ranking.compare(np.full(4, 0.25), np.arange(4.0), 2) == {"kendall": None, "spearman": None, "overlap": 0.0}
    assert ranking.compare(np.zeros(0), np.zeros(0), 2) == dict.fromkeys(("kendall", "spearman", "overlap"))
    assert ranking.compare(np.arange(3.0), np.arange(3.0), 3)["overlap"] is None


def test_the_sample_is_fixed_by_the_dataset_and_has_no_key_twice() -> None:
    space = spaces.get("nb201")
    found = ranking.sample(space, "digits", 30)
    assert list(found) == list(ranking.sample(space, "digits", 30))
    assert list(found)[:10] == list(ranking.sample(space, "digits", 10))
    assert list(found) != list(ranking.sample(space, "cifar10", 30))
    assert [space.key(genotype) for genotype in found.values()] == list(found)
    assert len(found) == 30
    toy = spaces.get("toy")
    assert set(ranking.sample(toy, "digits", 40)) == set(toy.multiplicities())


def measured(
    tmp_path: Path, lab: Lab, without: set[str]
) -> tuple[list[dict[str, object]], np.ndarray, Truth, list[str]]:
    """The records, the scores found without the metric, the table, and the sampled keys that are in it."""
    table = Table.open(benches.table(tmp_path / "t.arrow", without), "digits")
    truth = Truth(table, table.reference())
    searcher = labs.start(METHODS["darts"], lab)
    labs.drive(searcher, lab, 0, 1)
    before = labs.leaves(searcher.state_dict())
    cells = ranking.sample(lab.space, "digits", 12)
    found = ranking.measure(searcher, lab, truth, cells, 3)
    labs.same(labs.leaves(searcher.state_dict()), before)
    known = [key for key in cells if key not in without]
    scores = []
    for key in known:
        choices = discrete_choices(lab.groups, [cells[key]] * lab.replicas, next(iter(searcher.parameters.values())))
        right, total = 0, 0
        for images, classes in lab.feed.evaluation("val"):
            right = right + (searcher.supernet(images, choices).argmax(-1) == classes).double().sum(1)
            total += classes.shape[1]
        scores.append((right / total).tolist())
    return found, np.array(scores).T, truth, known


def test_a_record_is_what_scipy_says_of_the_scores_and_the_table(tmp_path: Path) -> None:
    lab = labs.make()
    every = list(ranking.sample(lab.space, "digits", 12))
    found, scores, truth, known = measured(tmp_path, lab, {every[2], every[5]})
    assert len(found) == lab.replicas
    for record, row in zip(found, scores, strict=True):
        assert (record["n"], record["misses"], record["top"]) == (10, 2, 3)
        for split in ("val", "test"):
            wanted = np.array([getattr(truth.table.query(key), f"{split}_mean") for key in known])
            assert record[f"kendall_{split}"] == pytest.approx(stats.kendalltau(row, wanted).statistic)
            assert record[f"spearman_{split}"] == pytest.approx(stats.spearmanr(row, wanted).statistic)
            best = [set(sorted(range(10), key=lambda i, v=values: (-v[i], i))[:3]) for values in (row, wanted)]
            assert record[f"overlap_{split}"] == len(best[0] & best[1]) / 3
        assert record["kendall_val"] != record["kendall_test"]


def test_measuring_leaves_the_trajectory_to_the_bit(tmp_path: Path) -> None:
    """Random search with weight sharing ranks cells itself, and DARTS does not: both go on as without."""
    path = str(benches.table(tmp_path / "t.arrow"))
    for method in ("darts", "random_ws"):
        plain = benches.searched(tmp_path / f"{method}-a", method, "--table", path, *BRIEF)[1]
        more = ("--table", path, "--metrics", "ranking", "--ranking-every", "1", *BRIEF)
        ranked = benches.searched(tmp_path / f"{method}-b", method, *more)[1]
        for one, other in zip(plain, ranked, strict=True):
            assert all(record["ranking"] is None for record in one)
            assert [record["ranking"] is not None for record in other] == [True, True, False]
            for record in (*one, *other):
                assert (record.pop("ranking") is None) == bool(record.pop("no_ranking"))
            assert one == other


def test_there_is_a_reason_where_there_is_none(tmp_path: Path) -> None:
    path = str(benches.table(tmp_path / "t.arrow"))
    _, ((*_, record, _), _) = benches.searched(tmp_path / "a", "darts", "--metrics", "ranking", *BRIEF)
    assert record["no_ranking"] == "there is no benchmark table to compare with"
    _, ((first, last, final), _) = benches.searched(
        tmp_path / "b", "darts", "--metrics", "ranking", "--table", path, *BRIEF
    )
    assert first["no_ranking"] == "measured after the last epoch"
    assert last["ranking"]["n"] > 10
    assert "stage 'final'" in final["no_ranking"]
    lab = labs.make("nb201", channels=4)
    edges, plain = (labs.start(METHODS[name], lab) for name in ("pc_darts", "darts"))
    truth = Truth(*(None, None))  # type: ignore[arg-type]
    assert ranking.undefined(plain, lab.space, truth) is None
    assert "further groups (in_1, in_2, in_3)" in str(ranking.undefined(edges, lab.space, truth))


def test_when_it_is_due() -> None:
    assert [RankingProbe(5, 2).due(epoch, 4) for epoch in range(5)] == [False] * 4 + [True]
    assert [RankingProbe(5, 2, 3).due(epoch, 4) for epoch in range(5)] == [True, False, False, True, True]


def test_the_command_measures_and_closes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(benches.table(tmp_path / "t.arrow"))
    options = benches.command(
        tmp_path / "r", "darts", "--curvature", "off", "--epochs", "1", "--table", path, "--metrics", "ranking"
    )
    assert run.main(options) == 0
    assert "τ test" in capsys.readouterr().out
    (folder, _) = benches.folders(tmp_path / "r").values()
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    assert spec["ranking"] == dataclasses.asdict(RankingProbe(60, 10))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--metrics", "rank"], "expected metrics out of ranking, native, got 'rank'"),
        (["--ranking-every", "2"], "expected --metrics ranking beside --ranking-every, got none"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(["--space", "toy", *arguments])
