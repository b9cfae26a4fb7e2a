"""From a request to what is searched: benchmark, device, data, table, settings; mistakes say what to do."""

import dataclasses
from pathlib import Path
from typing import Any

import labs
import pytest
import torch
from tests import benches

from bench import choice, setup, spaces, variants
from bench.lab import Lab
from bench.request import parse
from bench.tables.arrow import load, write
from searchers.registry import METHODS


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)


def prepared(tmp_path: Path, *more: str) -> setup.Bench:
    return benches.bench(tmp_path, "darts", *more)


def test_options_win_over_the_preset(tmp_path: Path) -> None:
    found = prepared(tmp_path, "--cells", "2", "--seeds", "3,5")
    preset = found.preset
    assert (preset.train_size, preset.batch_size, preset.channels, preset.probe_size) == (40, 8, 2, 10)
    assert (preset.cells, preset.seeds, preset.epochs) == (2, (3, 5), benches.EPOCHS)
    assert len(found.dataset.train_indices) == len(found.dataset.val_indices) == 20


def test_a_specification_holds_what_is_searched(tmp_path: Path) -> None:
    table = benches.table(tmp_path / "t.arrow")
    found = prepared(
        tmp_path, "--table", str(table), "--set", "darts.arch.lr=1e-2", "--curvature", "exact", "--curvature-every", "2"
    )
    one, two = variants.specs(found, METHODS["darts"])
    assert (one.seed, two.seed) == (0, 1)
    assert dataclasses.replace(two, seed=0) == one
    assert one.settings.arch.lr == 0.01
    assert (one.space, one.dataset, one.method, one.channels) == ("toy", "digits", "darts", 2)
    assert (one.curvature.mode, one.curvature_every) == ("exact", 2)
    assert found.truth is not None
    assert (one.table, one.budget) == (found.truth.reference.digest, 5)


def test_the_lab_is_made_of_the_specification(tmp_path: Path) -> None:
    found = benches.stack(prepared(tmp_path, "--cells", "2", "--seeds", "3,5,6"), "darts")
    assert found.lab.seeds == (3, 5, 6)
    assert (found.lab.size.channels, found.lab.size.cells, found.lab.horizon.epochs) == (2, 2, benches.EPOCHS)
    assert found.lab.dtype == torch.float32
    assert found.lab.feed.image_shape == (3, 8, 8)
    policy = METHODS["darts"].policy(found.spec.settings)
    assert next(found.lab.feed.epoch(policy, 0, 2)).train[0].images.shape == (3, 8, 3, 8, 8)
    assert found.lab.feed.steps_per_epoch(policy, 0) == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", benches.EVERY)
def test_methods_that_measure_their_own_curvature_say_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = []
    monkeypatch.setattr(Lab, "probe", lambda lab: probed.append(lab) or lab.feed.probe(lab.probe_size))
    lab = labs.make()
    searcher = labs.start(METHODS[name], lab)
    labs.drive(searcher, lab, 0, 2)
    searcher.finish()
    assert bool(probed) == METHODS[name].probes


def test_settings_come_from_the_method_the_preset_and_the_request_in_this_order(tmp_path: Path) -> None:
    preset = prepared(tmp_path).preset.settings
    given = benches.bench(tmp_path, "random_ws", "--set", "*.weights.lr=0.5", "--set", "random_ws.weights.lr=0.25")
    settings = variants.specs(given, METHODS["random_ws"])[0].settings
    assert settings.weights.lr == 0.25
    assert settings.weights.clip == METHODS["random_ws"].settings().weights.clip
    assert settings.batch_size == preset["*"]["batch_size"]
    assert settings.ranking.candidates == 4 != preset["random_ws"]["ranking.candidates"]


def test_the_star_changes_every_method_that_has_the_setting(tmp_path: Path) -> None:
    request = parse([*benches.TINY, "--set", "*.arch.lr=0.125", "--set", "*.weights.lr=0.5"])
    found = setup.prepare(request)
    darts, random = (variants.specs(found, METHODS[name])[0].settings for name in ("darts", "random_ws"))
    assert (darts.arch.lr, darts.weights.lr, random.weights.lr) == (0.125, 0.5, 0.5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--methods", "dart"],
            r"expected methods of docs/methods.md, .*, or all, got 'dart'; did you mean darts or .*\?",
        ),
        (["--methods", "darts+perturbatio"], r"got 'darts\+perturbatio'; did you mean darts\+perturbation"),
        (["--methods", "GDAS"], "got 'GDAS'; did you mean gdas"),
        (["--methods", "xyz"], "or all, got 'xyz'; there are darts, darts_2nd, .*dehb"),
        (["--methods", "darts", "--set", "darst.arch.lr=1"], "expected methods of .* got 'darst'; did you mean darts"),
        (["--methods", "darts", "--set", "random_ws.per_cell=true"], "expected --set for one of darts, got random_ws"),
        (["--methods", "all", "--set", "*.archi.lr=1"], r"expected one of the settings .*arch, .*, got archi.lr"),
    ],
)
def test_a_method_or_setting_that_is_not_there_is_refused(more: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variants.methods(parse(["--space", "toy", *more]))


def test_all_is_the_registry() -> None:
    assert [method.name for method in variants.methods(parse(["--space", "toy"]))] == list(METHODS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("arch.speed=1", "expected one of the settings lr, betas, weight_decay, eps, got 'arch.speed'"),
        ("arch.lr=fast", "expected float for the setting 'arch.lr', got 'fast'"),
        ("weights.nesterov=1", "expected bool"),
        ("arch.betas=[0.5]", r"expected tuple\[float, float\]"),
    ],
)
def test_a_wrong_setting_of_a_method_is_refused(tmp_path: Path, change: str, message: str) -> None:
    found = prepared(tmp_path, "--set", f"darts.{change}")
    with pytest.raises(ValueError, match=message):
        variants.specs(found, METHODS["darts"])


@pytest.mark.parametrize("name", ["cpus", "mps", "meta", "tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="--device"):
        choice.choose_device(name)


def test_a_gpu_is_used_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choice.choose_device(None).type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choice.choose_device(None).type == "cpu"
    assert choice.choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("space", "device", "reasons"),
    [
        ("toy", "cuda", "toy has no published benchmark"),
        ("s1", "cpu", "there is no GPU, CIFAR-10 is not prepared"),
        ("s1", "cuda", "CIFAR-10 is not prepared"),
    ],
)
def test_auto_takes_embedded_and_says_why_and_how_to_force_the_other(space: str, device: str, reasons: str) -> None:
    found = choice.choose_benchmark(parse(["--space", space]), spaces.get(space), torch.device(device))
    other = "" if space == "toy" else "; force the other with --benchmark paper"
    assert found == ("embedded", reasons + other)


def test_auto_takes_paper_where_everything_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, space, gpu = parse(["--space", "s1"]), spaces.get("s1"), torch.device("cuda")
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    name, why = choice.choose_benchmark(request, space, gpu)
    assert (name, "no official table of s1 is prepared" in why) == ("embedded", True)
    monkeypatch.setattr(choice, "find_table", lambda _space, dataset: Path(dataset))
    name, why = choice.choose_benchmark(request, space, gpu)
    assert (name, why) == ("paper", "GPU, CIFAR-10 and table are there; force the other with --benchmark embedded")


def test_a_benchmark_that_is_asked_for_is_taken() -> None:
    request = parse(["--space", "toy", "--benchmark", "paper"])
    assert choice.choose_benchmark(request, spaces.get("toy"), torch.device("cpu")) == ("paper", "as asked")


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["--space", "s9"], ValueError, "expected one of the spaces s1, s2, s3, nb201, toy, got 's9'"),
        (["--dataset", "mnist"], ValueError, r"expected a dataset out of \['cifar10', .*'digits'\], got 'mnist'"),
        (["--benchmark", "paper"], ValueError, "expected s1, s2, s3 or nb201 for the benchmark 'paper', got 'toy'"),
        (["--benchmark", "paper", "--space", "s1"], FileNotFoundError, "run python -m bench.prepare cifar10"),
        (["--benchmark", "paper", "--space", "s1", "--dataset", "digits"], ValueError, "under .*--table FILE"),
        (["--dataset", "cifar10"], FileNotFoundError, "expected CIFAR-10's batches in"),
        (["--dataset", "cifar10", "--space", "nb201"], FileNotFoundError, "expected CIFAR-10's batches in"),
        (["--train-size", "41"], ValueError, "expected an even train_size from 20 .* to 1600 .* got 41"),
        (["--train-size", "9999999"], ValueError, "expected an even train_size"),
        (["--probe-size", "5"], ValueError, "expected a probe of 10 to 20 images"),
        (["--probe-size", "21"], ValueError, "expected a probe of 10 to 20 images"),
        (["--table", "nowhere.arrow"], ValueError, "expected a table at --table, found no file nowhere.arrow"),
        (["--device", "mps"], ValueError, "expected --device cpu, cuda or cuda:N, got 'mps'"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is(
    tmp_path: Path, more: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        prepared(tmp_path, *more)
    assert "\n" not in str(caught.value)


def test_the_probe_does_not_matter_where_curvature_is_off(tmp_path: Path) -> None:
    assert prepared(tmp_path, "--probe-size", "5", "--curvature", "off").preset.probe_size == 5


def test_a_table_of_another_space_dataset_or_budget_is_refused(tmp_path: Path) -> None:
    path = benches.table(tmp_path / "t.arrow")
    assert prepared(tmp_path, "--table", str(path), "--budget", "5").truth is not None
    with pytest.raises(ValueError, match="has no budget 6 for digits; it has"):
        prepared(tmp_path, "--table", str(path), "--budget", "6")
    with pytest.raises(ValueError, match=r"expected a table of the space s1, got .*t.arrow, which is of toy"):
        prepared(tmp_path, "--table", str(path), "--space", "s1")
    (tmp_path / "x.arrow").write_text("no table", encoding="utf-8")
    with pytest.raises(ValueError, match=r"x\.arrow is damaged or not a benchmark table"):
        prepared(tmp_path, "--table", str(tmp_path / "x.arrow"))


def test_a_table_is_found_in_the_cache_and_can_be_left_out(tmp_path: Path) -> None:
    assert prepared(tmp_path).truth is None
    benches.table(tmp_path / "cache" / "nas-stability" / "tables" / "toy-digits.arrow")
    found = prepared(tmp_path).truth
    assert found is not None
    assert found.reference.rows == 27
    assert prepared(tmp_path, "--table", "none").truth is None


def test_named_columns_serve_as_a_table(tmp_path: Path) -> None:
    key = next(iter(spaces.get("toy").multiplicities()))
    (tmp_path / "mine.csv").write_text(f"key,digits/val/5/0,digits/test/5/0\n{key},0.5,0.25\n", encoding="utf-8")
    found = prepared(tmp_path, "--table", str(tmp_path / "mine.csv")).truth
    assert found is not None
    assert (found.reference.rows, found.reference.optimum_test) == (1, 0.25)


def test_the_table_facts_are_those_of_the_table(tmp_path: Path) -> None:
    path = benches.table(tmp_path / "t.arrow")
    facts = setup.table_facts(prepared(tmp_path, "--table", str(path)).truth)
    assert facts is not None
    data = load(path)
    means = {slot.what: values.values.mean(1) for slot, values in data.measurements.items()}
    share = data.multiplicities / data.multiplicities.sum()
    assert facts["optimum"] == pytest.approx({split: values.max() for split, values in means.items()})
    assert facts["random_cell"] == pytest.approx({split: (values * share).sum() for split, values in means.items()})
    assert (facts["rows"], facts["budget"], facts["coverage"]) == (27, 5, 1.0)
    assert setup.table_facts(None) is None


def fingerprint(tmp_path: Path) -> str:
    return prepared(tmp_path).fingerprint


@pytest.mark.parametrize("what", ["image", "label", "halves"])
def test_other_data_have_another_fingerprint(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    found = setup.data.load("digits")
    changes: dict[str, Any] = {}
    if what == "halves":
        changes = {"train_indices": found.val_indices, "val_indices": found.train_indices}
    else:
        images, labels = found.search.images.clone(), found.search.labels.clone()
        if what == "image":
            images[0, 0, 0, 0] ^= 1
        else:
            labels[[0, 1]] = labels[[1, 0]]
        changes = {"search": dataclasses.replace(found.search, images=images, labels=labels)}
    monkeypatch.setattr(setup.data, "load", lambda *_arguments: dataclasses.replace(found, **changes))
    assert fingerprint(tmp_path) != before


def test_a_changed_table_is_another_run(tmp_path: Path) -> None:
    path = benches.table(tmp_path / "t.arrow")
    specs = variants.specs(prepared(tmp_path, "--table", str(path)), METHODS["darts"])
    data = load(path)
    first = next(iter(data.measurements))
    values = data.measurements[first].values.copy()
    values[0, 0] += 0.001
    changed = {**data.measurements, first: dataclasses.replace(data.measurements[first], values=values)}
    write(path, dataclasses.replace(data, measurements=changed))
    again = variants.specs(prepared(tmp_path, "--table", str(path)), METHODS["darts"])
    assert again[0].signature != specs[0].signature


def test_a_comma_makes_a_grid_of_settings(tmp_path: Path) -> None:
    found = prepared(tmp_path, "--set", "darts.arch.lr=0.1,0.2", "--set", "*.weights.lr=0.5,0.05", "--seeds", "0:2")
    grid = variants.variants(found, METHODS["darts"])
    assert [variant.note for variant in grid] == [
        f"weights.lr={w}, arch.lr={a}" for w in (0.5, 0.05) for a in (0.1, 0.2)
    ]
    pairs = [(v.specs[0].settings.weights.lr, v.specs[0].settings.arch.lr) for v in grid]
    assert pairs == [(0.5, 0.1), (0.5, 0.2), (0.05, 0.1), (0.05, 0.2)]
    assert len({spec.signature for variant in grid for spec in variant.specs}) == 8
    assert grid[0].label == "darts[weights.lr=0.5, arch.lr=0.1]"


def test_a_grid_of_equal_values_is_one_variant_without_a_note(tmp_path: Path) -> None:
    (one,) = variants.variants(prepared(tmp_path, "--set", "darts.arch.lr=0.1,0.10"), METHODS["darts"])
    assert (one.note, one.label) == ("", "darts")
    (alone,) = variants.variants(prepared(tmp_path), METHODS["darts"])
    assert alone.specs == variants.specs(prepared(tmp_path), METHODS["darts"])


def test_a_list_in_brackets_is_one_value(tmp_path: Path) -> None:
    found = prepared(tmp_path, "--set", "darts.arch.betas=[0.9, 0.99]")
    (one,) = variants.variants(found, METHODS["darts"])
    assert one.specs[0].settings.arch.betas == (0.9, 0.99)


def test_a_wrong_value_of_a_grid_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"arch\.lr"):
        variants.variants(prepared(tmp_path, "--set", "darts.arch.lr=0.1,fast"), METHODS["darts"])
