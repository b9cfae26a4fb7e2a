"""The regression check: what it compares, when it alarms, what it writes, and its exit codes."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats
from test_analysis_study import record, spec, write_run

from analysis import _baseline, _compare, _verdict, calibrate, regression
from analysis._baseline import Entry, Seed
from analysis._compare import Limits
from analysis.load import runs, tidy
from analysis.selection import select

FEW = Limits(seeds=5, permutations=4999)
EPOCHS = 6


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def draws(n: int, seed: int = 0, level: float = 0.0, regret: float = 0.0, **fields: Any) -> dict[int, Seed]:
    """`n` seeds around |λ| = 1, spread .3, and regret .1, spread .02."""
    normal = rng(seed).normal(size=(n, 3))
    return {
        number: Seed(level + 0.3 * x, 1 + 0.3 * y, regret + 0.1 + 0.02 * z, **({"missed": 0.0, "lost": 0.0} | fields))
        for number, (x, y, z) in enumerate(normal)
    }


def entry(seeds: dict[int, Seed], label: str = "darts", **protocol: str) -> dict[tuple[str, str], Entry]:
    found = Entry("toy", label, {"spec.epochs": "6"} | protocol, {"torch": "2"}, seeds)
    return {("toy", label): found}


def renumbered(seeds: dict[int, Seed], first: int = 100) -> dict[int, Seed]:
    return {first + number: seed for number, seed in seeds.items()}


def changed(verdict: _compare.Verdict) -> set[str]:
    return {finding.quantity.name for finding in verdict.findings if finding.changed}


def check(before: dict[int, Seed], after: dict[int, Seed], limits: Limits = FEW) -> _compare.Verdict:
    return _compare.compare(entry(before), entry(after), limits, rng())


def study(results: Path, seeds: range, factor: float = 1.0, method: str = "darts", **fields: Any) -> Path:
    for seed in seeds:
        size = factor * (1 + 0.1 * (seed % 5))
        records = [record(e, curvature={"lambda_dominant": (-1) ** e * size * (1 + e)}) for e in range(EPOCHS + 1)]
        chosen = record(EPOCHS, "final", curvature=None, regret_test=0.1 + 0.01 * (seed % 3))
        write_run(results, spec("toy", method, seed, **({"epochs": EPOCHS} | fields)), [*records, chosen])
    return results


def command(results: Path, *more: str) -> list[str]:
    return ["--results", str(results), "--baseline", str(results.parent / "baseline.json"), "--out",
            str(results.parent / "out"), *more]  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """As many seeds as a check wants, and a baseline of them."""
    study(tmp_path / "results", range(24))
    assert regression.main(command(tmp_path / "results", "--update")) == 0
    return tmp_path / "results"


def test_a_run_is_summed_up(tmp_path: Path) -> None:
    study(tmp_path, range(1), factor=2.0)
    found = runs(tmp_path)
    ((name, one),) = _baseline.summarise(select(tidy(found)), found).items()
    assert name == ("toy", "darts")
    seed = one.seeds[0]
    assert seed.level == pytest.approx(math.log(2 * (3 + 4 + 5 + 6 + 7) / 5), rel=1e-5)
    logs = np.log(np.arange(1, 8))
    assert seed.growth == pytest.approx(scipy.stats.theilslopes(logs, np.arange(7)).slope * 6, rel=1e-5)
    assert (seed.regret, seed.missed, seed.lost) == (0.1, 0, 0)
    np.testing.assert_allclose(seed.trajectory, np.log10(2 * np.arange(1, 8)), atol=1e-3)


def test_a_run_without_curvature_has_lost_it(tmp_path: Path) -> None:
    write_run(tmp_path, spec("toy", "random_ws", 0), [record(e, curvature=None, miss=True) for e in range(3)])
    found = runs(tmp_path)
    (one,) = _baseline.summarise(select(tidy(found)), found).values()
    assert one.seeds[0] == Seed(None, None, 0.2, 1.0, 1.0, ())


def test_a_dead_network_has_a_level(tmp_path: Path) -> None:
    write_run(tmp_path, spec("toy", "darts", 0), [record(e, curvature={"lambda_dominant": 0.0}) for e in range(3)])
    found = runs(tmp_path)
    (one,) = _baseline.summarise(select(tidy(found)), found).values()
    assert one.seeds[0].level == pytest.approx(math.log(1e-12), rel=1e-5)


def test_a_field_that_is_null_is_as_good_as_absent(results: Path) -> None:
    other = study(results.parent / "other" / "results", range(24), ranking=None)
    assert regression.main(["--results", str(other), *command(results)[2:]]) == 0


def test_runs_that_have_not_finished_do_not_count(tmp_path: Path) -> None:
    write_run(tmp_path, spec("toy", "darts", 0), [record(0)], finished=False)
    found = runs(tmp_path)
    assert _baseline.summarise(select(tidy(found)), found) == {}


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    entries = entry(draws(3)) | entry({4: Seed(None, None, None, 1.0, 1.0, (0.5,))}, "pc_darts", **{"spec.a": "1"})
    (tmp_path / "b.json").write_text(_baseline.dumped(entries))
    assert _baseline.load(tmp_path / "b.json") == entries


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "Expecting property name"),
        ('{"format": 9}', "expected a baseline of format 1 in .*b.json; write one with --update"),
        ('{"format": 1, "entries": [{"space": "toy"}]}', "b.json is a damaged baseline .*seeds"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        _baseline.load(tmp_path / "b.json")


@pytest.mark.parametrize("number", [0, 100])
def test_equal_seeds_agree(number: int) -> None:
    verdict = check(draws(20), renumbered(draws(20), number))
    assert verdict.code == 0
    assert {finding.paired for finding in verdict.findings} == {number == 0}


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_another_level_is_found_in_both_directions(factor: float, paired: bool) -> None:
    after = draws(20, seed=1, level=math.log(factor))
    verdict = check(draws(20), after if paired else renumbered(after))
    assert changed(verdict) == {"level"}
    assert verdict.code == 1


def test_a_small_change_is_none_however_significant() -> None:
    before = draws(20)
    after = {
        n: dataclasses.replace(s, level=s.level + math.log(1.3), regret=s.regret + 0.009) for n, s in before.items()
    }  # type: ignore[operator]
    verdict = check(before, after)
    assert changed(verdict) == set()
    assert [f.p_holm < 0.01 for f in verdict.findings][:3] == [True, False, True]


def test_a_large_change_is_none_unless_significant() -> None:
    before = {n: Seed(float(n % 2) * 9, 0.0, 0.1, 0.0, 0.0) for n in range(8)}
    after = {100 + n: Seed(float(n > 2) * 9, 0.0, 0.1, 0.0, 0.0) for n in range(8)}
    verdict = check(before, after)
    assert abs(verdict.findings[0].change) > math.log(1.4)
    assert changed(verdict) == set()


@pytest.mark.parametrize("field", ["missed", "lost"])
def test_misses_and_lost_eigenvalues_are_found(field: str) -> None:
    assert changed(check(draws(20), draws(20, **{field: 1.0}))) == {field}


def test_quantities_that_do_not_vary_are_no_tests() -> None:
    before = draws(20)
    after = {n: dataclasses.replace(seed, regret=seed.regret + 0.05) for n, seed in before.items()}  # type: ignore[operator]
    regret = check(before, after).findings[2]
    assert regret.p_holm == regret.p
    assert regret.changed


def test_all_tests_of_a_check_share_alpha() -> None:
    before = entry(draws(20)) | entry(draws(20, 1), "b") | entry(draws(20, 2), "c")
    after = (
        entry(renumbered(draws(20, 3))) | entry(renumbered(draws(20, 4)), "b") | entry(renumbered(draws(20, 5)), "c")
    )
    findings = [f for f in _compare.compare(before, after, FEW, rng()).findings if f.varies]
    assert len(findings) == 9
    least = min(findings, key=lambda f: f.p)
    assert least.p_holm == pytest.approx(min(1, 9 * least.p))


@pytest.mark.parametrize(
    ("after", "limits", "match"),
    [
        ({}, FEW, "no finished runs"),
        (entry(draws(20), **{"spec.epochs": "7"}), FEW, r"another protocol: epochs \(6 → 7\)"),
        (entry(draws(20), **{"settings.lr": "7"}), FEW, r"another protocol: lr \(absent → 7\)"),
        (entry(draws(20), **{"spec.precision": "bf16"}), FEW, r"another protocol: precision \(fp32 → bf16\)"),
        (entry(draws(19)), Limits(), "expected at least 24 finished seeds, got 19 against 20 in the baseline"),
        (entry(draws(2)), Limits(seeds=1), "expected at least 3 finished seeds, got 2"),
        (entry({n: Seed(None, None, None, 0.0, 1.0) for n in range(20)}), FEW, "neither λ nor regret was measured"),
        (entry(draws(5, 1)), FEW, "5 seeds cannot show any change at 0.01 among 3 tests"),
    ],
)
def test_what_cannot_be_compared_is_said(after: dict, limits: Limits, match: str) -> None:
    verdict = _compare.compare(entry(draws(20)), after, limits, rng())
    assert verdict.code == 2
    (problem,) = verdict.problems
    with pytest.raises(ValueError, match=match):
        raise ValueError(problem.reason)


def test_a_baseline_older_than_a_field_means_its_usual_value() -> None:
    (before,), (after,) = (found.values() for found in (entry(draws(3)), entry(draws(3), **{"spec.precision": "fp32"})))
    assert _baseline.differing(before, after) == _baseline.differing(after, before) == ""


def test_a_regression_outweighs_what_cannot_be_compared() -> None:
    before = entry(draws(20)) | entry(draws(20), "absent")
    verdict = _compare.compare(before, entry(draws(20, level=3)), FEW, rng())
    assert verdict.code == 1
    assert [problem.label for problem in verdict.problems] == ["absent"]


def test_new_methods_and_other_versions_are_notes() -> None:
    before, after = entry(draws(20)), entry(draws(20)) | entry(draws(20), "new")
    after["toy", "darts"] = dataclasses.replace(after["toy", "darts"], versions={"torch": "3"})
    verdict = _compare.compare(before, after, FEW, rng())
    assert verdict.code == 0
    assert verdict.notes == (
        "new on toy is not in the baseline",
        "darts on toy: other versions than the baseline's: torch 2 → 3",
    )


def test_false_alarms_are_at_most_alpha() -> None:
    """With alpha at a tenth; thresholds small, so that only the tests protect."""
    limits = Limits(alpha=0.1, factor=1.0001, regret=0.0, seeds=8, permutations=499)
    alarms = sum(check(draws(8, 2 * i), renumbered(draws(8, 2 * i + 1)), limits).code == 1 for i in range(120))
    assert scipy.stats.binomtest(alarms, 120, 0.1, alternative="greater").pvalue > 0.01


def test_a_doubled_level_is_found_at_the_default_number_of_seeds() -> None:
    limits = dataclasses.replace(Limits(), permutations=1999)
    n = limits.seeds
    found = [check(draws(n, 2 * i), renumbered(draws(n, 2 * i + 1, level=math.log(2))), limits).code for i in range(20)]
    assert sum(code == 1 for code in found) >= 18


def test_agreeing_runs_exit_0_and_everything_is_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert regression.main(command(results)) == 0
    out = results.parent / "out"
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "agrees with the baseline"
    suite = ElementTree.parse(out / "junit.xml").getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("toy.darts", "5", "0")
    summary = (out / "summary.md").read_text()
    assert capsys.readouterr().out.endswith(summary)
    assert len({line.count("|") for line in summary.splitlines() if line.startswith("|")}) == 1


def mutate(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    for one in content["entries"][0]["seeds"].values():
        change(one)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("field", "by"), [("level", math.log(4)), ("regret", 0.05), ("missed", 1.0)])
def test_a_mutated_baseline_exits_1(results: Path, field: str, by: float) -> None:
    mutate(results.parent / "baseline.json", lambda one: one.update({field: one[field] + by}))
    assert regression.main(command(results)) == 1
    (failure,) = ElementTree.parse(results.parent / "out" / "junit.xml").getroot().iter("failure")
    assert "→" in failure.get("message", "")
    assert "**changed**" in (results.parent / "out" / "summary.md").read_text()


def test_an_update_keeps_entries_it_has_no_runs_for(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = study(results.parent / "other" / "results", range(3), method="gdas")
    path = results.parent / "baseline.json"
    capsys.readouterr()
    assert regression.main(["--results", str(other), "--baseline", str(path), "--update"]) == 0
    assert capsys.readouterr().out == f"{path}: gdas on toy, 3 seeds\n"
    assert [label for _, label in _baseline.load(path)] == ["darts", "gdas"]
    assert regression.main(command(results)) == 2
    assert regression.main(command(results, "--methods", "darts")) == 0


def test_no_finished_runs_exit_2(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = ["--results", str(tmp_path / "empty"), "--baseline", str(results.parent / "baseline.json")]
    assert regression.main(empty) == 2
    assert "no finished runs under" in capsys.readouterr().err
    assert regression.main(command(results, "--space", "s1")) == 2
    assert "has no entry of the chosen spaces and methods" in capsys.readouterr().err


def test_mixed_protocols_exit_2(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(results, range(24, 26), batch_size=99)
    assert regression.main(command(results)) == 2
    assert "differ in batch_size: 64 (24 runs), 99 (2 runs)" in capsys.readouterr().err
    assert regression.main(command(results, "--where", "batch_size=64")) == 0


def test_errors_exit_3(results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert regression.main(["--results", str(results)]) == 3
    assert "--baseline" in capsys.readouterr().err
    assert regression.main(["--results", str(results), "--baseline", str(results / "absent.json")]) == 3
    assert "absent.json" in capsys.readouterr().err
    assert regression.main(["--help"]) == 0
    monkeypatch.setattr(regression, "_check", lambda options: 1 / 0)
    assert regression.main(command(results)) == 3


@pytest.mark.parametrize(
    ("name", "expected", "values"),
    [
        ("alpha", "a probability between 0 and 1", ["2", "1", "0", "-0.1", "nan"]),
        ("factor", "a factor of more than 1", ["1", "0.5", "0", "nan", "inf"]),
        ("regret", "a fraction from 0 to 1", ["-1", "nan"]),
        ("share", "a fraction from 0 to 1", ["7", "-1"]),
        ("seeds", "at least one seed", ["0", "-3"]),
        ("permutations", "at least one permutation", ["0", "-5"]),
    ],
)
def test_a_limit_that_would_switch_the_check_off_is_refused(
    name: str, expected: str, values: list[str], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        assert regression.main(command(results, f"--{name}={value}")) == 3
        error = capsys.readouterr().err
        assert error == f"analysis.regression: expected {expected} for {name}, got {value}\n"


def test_what_too_few_seeds_cannot_show_is_undecided() -> None:
    text = _verdict.markdown(check(draws(20), draws(5, 1)))
    assert "not comparable" in text
    assert text.count("| undecided | toy | darts |") == 3
    assert text.count("| agrees | toy | darts |") == 2  # nothing missed, nothing lost: no test is needed


@pytest.mark.parametrize("content", [b"# A readme", b"\xff\x00"])
def test_a_file_that_is_no_baseline_is_named(content: bytes, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results.parent / "README.md"
    path.write_bytes(content)
    for more in ([], ["--update"]):
        assert regression.main(["--results", str(results), "--baseline", str(path), *more]) == 3
        assert f"analysis.regression: expected a baseline in {path}, got no JSON (" in capsys.readouterr().err
        assert path.read_bytes() == content


def test_too_few_values_are_not_tested(results: Path) -> None:
    content = json.loads((results.parent / "baseline.json").read_text())
    for number in list(content["entries"][0]["seeds"])[2:]:
        content["entries"][0]["seeds"][number]["regret"] = None
    (results.parent / "baseline.json").write_text(json.dumps(content))
    regression.main(command(results))
    assert "| not tested | toy | darts | final test regret |" in (results.parent / "out" / "summary.md").read_text()
    (skipped,) = ElementTree.parse(results.parent / "out" / "junit.xml").getroot().iter("skipped")
    assert skipped.get("message") == "too few seeds have a value"


def test_printed_changes_are_factors_and_points() -> None:
    findings = check(draws(20), draws(20, level=math.log(2), regret=0.05)).findings
    assert _verdict.change(findings[0]) == "× 2"
    assert _verdict.change(findings[2]) == "+5.00 points"


def test_simulated_runs_have_the_pools_mean_and_spread(tmp_path: Path) -> None:
    study(tmp_path, range(12))
    (pool,) = calibrate.pools(select(tidy(runs(tmp_path))))
    made = pool.simulated(400, rng(), np.zeros(EPOCHS + 1))
    for name in ("level", "growth"):
        real, drawn = (np.array([getattr(seed, name) for seed in side]) for side in (pool.seeds, made))
        assert drawn.mean() == pytest.approx(real.mean(), abs=0.03)
        assert drawn.std() == pytest.approx(real.std(), abs=0.03)
    doubled = pool.simulated(400, rng(), np.full(EPOCHS + 1, math.log(2)))
    assert np.mean([s.level for s in doubled]) - np.mean([s.level for s in made]) == pytest.approx(
        math.log(2), abs=1e-4
    )


def test_the_calibration_states_rates_and_numbers_of_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path, range(16))
    monkeypatch.setattr(calibrate, "SEEDS", (8, 10))
    arguments = ["--results", str(tmp_path), "--out", str(tmp_path / "out"), "--repeats", "5", "--permutations", "999"]
    assert calibrate.main(arguments) == 0
    text = (tmp_path / "out" / "calibration.md").read_text()
    assert "darts on toy, 16 seeds, 6 epochs" in text
    assert "| 4 | 100 % | 100 % |" in text
    assert "Fewest seeds that find a factor of 2 in 95 %: 8." in text


def test_a_calibration_of_few_seeds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, range(3))
    assert calibrate.main(["--results", str(tmp_path)]) == 2
    assert "expected at least 12 finished seeds of darts on toy, got 3; run more" in capsys.readouterr().err
