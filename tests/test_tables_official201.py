"""Every layout NAS-Bench-201 and NATS-Bench were published in: files of our own making, and the real piece if there."""

import bz2
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import official201 as official
from tests.official201 import BRIEF, CELLS, NATS, NB201

from bench import pickles
from bench.tables import Slot, Table, TableData, catalog, write
from bench.tables import official201 as importer
from bench.tables.data import content_digest
from bench.tables.forms import file_form, import_table, space_of
from bench.tables.results201 import shortfall

INDICES, CELLS_HERE = (3, 7, 39), 40
ROOT = Path(os.environ.get("NAS_STABILITY_DATA", "/nonexistent"))
SAMPLE, PARQUET = ROOT / "nats_tss_sample", ROOT / "nasbench201.parquet"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no nats_tss_sample in NAS_STABILITY_DATA")
needs_parquet = pytest.mark.skipif(not PARQUET.is_file(), reason="no nasbench201.parquet in NAS_STABILITY_DATA")


def folder(path: Path) -> Path:
    return official.write_folder(path / "NATS-tss-v1_0-3ffb9-simple", INDICES)


def tar(path: Path) -> Path:
    return official.write_tar(path / "NATS-tss-v1_0-3ffb9-simple.tar", official.members(INDICES))


def single(path: Path) -> Path:
    file = path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    file.write_bytes(official.compressed(official.whole(INDICES, NATS)))
    return file


def bare(path: Path) -> Path:
    file = path / "NATS-tss-v1_0-3ffb9.pickle"
    file.write_bytes(pickle.dumps(official.whole(INDICES, NATS), 4))
    return file


def torch_then(path: Path) -> Path:
    return official.write_torch(path / "NAS-Bench-201-v1_1-096897.pth", official.whole(INDICES, NB201), now=False)


def torch_now(path: Path) -> Path:
    return official.write_torch(path / "NAS-Bench-201-v1_1-096897.pth", official.whole(INDICES, NB201), now=True)


FORMS: dict[str, Callable[[Path], Path]] = {
    "a folder of NATS-Bench": folder,
    "a tar of such a folder": tar,
    "NATS-Bench in one file": single,
    "a bare pickle of them": bare,
    "NAS-Bench-201 by torch": torch_then,
    "NAS-Bench-201 by torch, now": torch_now,
}
every_form = pytest.mark.parametrize("form", FORMS)


def imported(path: Path) -> TableData:
    return import_table(path, "nb201", {}, 15625)


def share(index: int, dataset: str, images: str, seed: int, epochs: int) -> float:
    """The exact accuracy that the files of `official` hold with noise."""
    return official.right(index, dataset, images, seed, epochs) / official.SETS[dataset][images]


@every_form
def test_every_form_is_recognised_and_has_the_same_content(form: str, tmp_path: Path) -> None:
    path = FORMS[form](tmp_path)
    found = file_form(path)
    assert found is not None
    assert form.startswith(found.name)
    assert space_of(path) == "nb201"
    data = imported(path)
    assert data.keys == tuple(CELLS[index] for index in INDICES)
    assert content_digest(data) == content_digest(imported(folder(tmp_path / "other")))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A benchmark of 40 cells with few seeds, so that files are short; `whole_size` takes the official size."""
    if "whole_size" in request.fixturenames:
        return
    monkeypatch.setattr(official, "CELLS", CELLS[:CELLS_HERE])
    monkeypatch.setattr(official, "SEEDS", BRIEF)
    for module in ("official201", "results201"):
        monkeypatch.setattr(f"bench.tables.{module}.ARCHITECTURES", CELLS_HERE)


@pytest.fixture
def whole_size() -> None:
    """Ask for cells, seeds and training lengths as the official files have them."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TableData:
    """Of official size."""
    return imported(folder(tmp_path_factory.mktemp("nats")))


WHERE = {  # ours: dataset and images of theirs
    Slot("cifar10", "train", 0): ("cifar10", "train"),
    Slot("cifar10", "val", 0): ("cifar10-valid", "x-valid"),
    Slot("cifar10", "test", 0): ("cifar10", "ori-test"),
    Slot("cifar10-valid", "train", 0): ("cifar10-valid", "train"),
    Slot("cifar10-valid", "val", 0): ("cifar10-valid", "x-valid"),
    Slot("cifar10-valid", "test", 0): ("cifar10-valid", "ori-test"),
    Slot("cifar100", "train", 0): ("cifar100", "train"),
    Slot("cifar100", "val", 0): ("cifar100", "x-valid"),
    Slot("cifar100", "test", 0): ("cifar100", "x-test"),
    Slot("imagenet16", "train", 0): ("ImageNet16-120", "train"),
    Slot("imagenet16", "val", 0): ("ImageNet16-120", "x-valid"),
    Slot("imagenet16", "test", 0): ("ImageNet16-120", "x-test"),
}


@pytest.mark.parametrize("epochs", [12, 200])
@pytest.mark.usefixtures("whole_size")
def test_every_number_comes_from_its_training_set_seed_and_length(data: TableData, epochs: int) -> None:
    assert len(data.measurements) == 2 * len(WHERE)
    for slot, (dataset, images) in WHERE.items():
        measured = data.measurements[slot._replace(budget=epochs)]
        seeds = official.SEEDS[epochs][dataset]
        assert measured.runs == tuple(map(str, sorted(seeds)))
        expected = [[share(index, dataset, images, seed, epochs) for seed in sorted(seeds)] for index in INDICES]
        assert measured.values.tolist() == expected, slot


@pytest.mark.usefixtures("whole_size")
def test_costs(data: TableData) -> None:
    rows = np.array(INDICES)
    for dataset, factor in (("cifar10", 12), ("cifar10-valid", 12), ("imagenet16", 200)):
        np.testing.assert_array_equal(data.scalars[f"{dataset}/params"], 100_000 + rows)
        np.testing.assert_allclose(data.scalars[f"{dataset}/flops"], (15.5 + rows) * 1e6, rtol=1e-12)
        np.testing.assert_allclose(data.scalars[f"{dataset}/train_time_s/{factor}"], (2.5 + rows) * factor, rtol=1e-12)


@pytest.mark.usefixtures("whole_size")
def test_a_query_has_the_seeds_that_were_run(tmp_path: Path, data: TableData) -> None:
    write(tmp_path / "t.arrow", data)
    entry = Table.open(tmp_path / "t.arrow", "cifar10").query(CELLS[7])
    assert entry is not None
    assert entry.val == tuple(share(7, "cifar10-valid", "x-valid", seed, 200) for seed in (777, 888, 999))
    assert entry.test == tuple(share(7, "cifar10", "ori-test", seed, 200) for seed in (777, 888, 999))
    short = Table.open(tmp_path / "t.arrow", "cifar10", 12).query(CELLS[7])
    assert short is not None
    assert (len(short.val), len(short.test), short.n_runs) == (2, 1, 1)


def test_seeds_that_only_some_architectures_have_are_missing_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {12: {}, 200: dict.fromkeys(official.SETS, (888,))}
    monkeypatch.setattr(official, "SEEDS", {12: {}, 200: dict.fromkeys(official.SETS, (777, 888, 999))})
    path = official.write_folder(tmp_path / "f", [4])
    (path / "000009.pickle.pbz2").write_bytes(official.compressed(official.architecture(9, NATS, some)))
    measured = imported(path).measurements[Slot("cifar100", "test", 200)]
    assert measured.runs == ("777", "888", "999")
    assert np.isnan(measured.values).tolist() == [[False] * 3, [True, False, True]]


def test_the_version_is_said(tmp_path: Path) -> None:
    data = imported(folder(tmp_path))
    assert data.source == "NATS-Bench topology v1_0"
    theirs = imported(torch_then(tmp_path))
    assert theirs.source == "NAS-Bench-201 v1_1"
    for one in (data, theirs):
        assert "NAS-Bench-201 v1.0, v1.1 and NATS-Bench are different versions" in one.provenance[0]
    digest = hashlib.md5((tmp_path / "NAS-Bench-201-v1_1-096897.pth").read_bytes()).hexdigest()
    differs = f"its md5 begins {digest[:6]}, its name says 096897: not the published file"
    assert differs in theirs.provenance
    renamed = tmp_path / f"NAS-Bench-201-v1_1-{digest[:6]}.pth"
    (tmp_path / "NAS-Bench-201-v1_1-096897.pth").rename(renamed)
    assert f"its md5 begins {digest[:6]}, as its name says" in imported(renamed).provenance


@pytest.mark.usefixtures("whole_size")
def test_missing_architectures_are_named(data: TableData) -> None:
    assert "15622 of 15625 architectures are missing: 0 to 2, 4 to 6, 8 to 38, 40 to 15624" in data.provenance
    assert shortfall(set(range(15625))) is None
    assert shortfall(set(range(15625)) - {5, 7, 9, 11, 13, 15}) == (
        "6 of 15625 architectures are missing: 5, 7, 9, 11, 13 and 1 more spans"
    )


def test_twelve_epochs_of_version_1_0_have_no_test_after_training_on_all(tmp_path: Path) -> None:
    """There only cifar10-valid was trained for 12 epochs: without test, cifar10 has no entry, not a guess."""
    seeds = {12: {"cifar10-valid": (111,)}, 200: BRIEF[200]}
    path = official.write_torch(tmp_path / "x.pth", official.whole([1, 2], NB201, seeds), now=False)
    data = imported(path)
    assert {slot.budget for slot in data.measurements if slot.dataset == "cifar10"} == {200}
    assert {slot.budget for slot in data.measurements if slot.dataset == "cifar10-valid"} == {12, 200}
    assert "2 architectures have only one of val and test of cifar10 at 12 epochs: left out" in data.provenance


def test_an_accuracy_that_is_no_number_of_images_is_kept_and_counted(tmp_path: Path) -> None:
    one = official.architecture(0, NATS)
    one["200"]["all_results"]["cifar10", 888]["eval_acc1es"]["ori-test@199"] = 50.0051
    path = official.write_folder(tmp_path / "f", [])
    (path / "000000.pickle.pbz2").write_bytes(official.compressed(one))
    data = imported(path)
    assert data.measurements[Slot("cifar10", "test", 200)].values[0, 0] == 0.500051
    assert "1 accuracies are no whole number of images; they are kept as they are" in data.provenance


def test_a_form_reads_one_architecture_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine ever holds a second architecture: what was taken is empty when the next is."""
    alive: list[dict] = []
    take = importer.Results.take

    def watched(results: importer.Results, content: dict) -> bool:
        taken = take(results, content)
        if taken:
            assert not any(alive)
            alive.append(content)
        return taken

    monkeypatch.setattr(importer.Results, "take", watched)
    imported(single(tmp_path))
    assert len(alive) == len(INDICES)


def test_how_far_it_is_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for write_form in (folder, tar, single, torch_then, torch_now):
        told.clear()
        path = write_form(tmp_path / write_form.__name__)
        form = file_form(path)
        assert form is not None
        form.read(path, lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1]
        assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    for name in ("other", "folder", "tar", "single", "torch_then", "torch_now"):
        (tmp_path / name).mkdir()


def one_wrong(tmp_path: Path, change: Callable[[dict], None], name: str = "000005") -> Path:
    content = official.architecture(5, NATS)
    change(content)
    path = official.write_folder(tmp_path / "f", [])
    (path / f"{name}.pickle.pbz2").write_bytes(official.compressed(content))
    return path


def result(content: dict) -> dict:
    return content["200"]["all_results"]["cifar10", 888]


WRONG: dict[str, Callable[[dict], object]] = {
    "expected an architecture's index from 0 to 39, got 40": lambda c: c["12"].update(arch_index=40),
    r"architecture 5: expected \|op~0\|\+.* got '\|none~0\|'": lambda c: c["12"].update(arch_str="|none~0|"),
    "architecture 5: expected a dataset of cifar10-valid, .* and a seed, got 'x'": lambda c: c["12"][
        "all_results"
    ].update(x={}),
    "architecture 5: expected results of every dataset": lambda c: c["12"].update(all_results=[]),
    "architecture 5, cifar10, seed 888: expected a result with its number of epochs": lambda c: result(c).pop("epochs"),
    "architecture 5, cifar10, seed 888: expected eval_acc1es after every epoch, got NoneType": lambda c: result(
        c
    ).update(eval_acc1es=None),
    "architecture 5, cifar10, seed 888: expected train in percent, got 101.0": lambda c: result(c)[
        "train_acc1es"
    ].update({199: 101.0}),
    "cifar10-valid: expected params as a number, got None": lambda c: c["12"]["all_results"][
        "cifar10-valid", 777
    ].update(params=None),
    "expected architecture|expected what its name says": lambda c: c["12"].update(arch_index=6),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_not_as_the_benchmark_is_one_sentence(message: str, tmp_path: Path) -> None:
    path = one_wrong(tmp_path, WRONG[message])
    with pytest.raises(ValueError, match=rf"f/000005\.pickle\.pbz2.*(?:{message})"):
        imported(path)


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    path = one_wrong(tmp_path, lambda _: None, name="000006")
    with pytest.raises(ValueError, match=r"f/000006.*: expected what its name says, got architectures \[5\]"):
        imported(path)


def test_the_list_of_cells_must_agree(tmp_path: Path) -> None:
    content = official.whole([1], NATS)
    content["meta_archs"] = [*CELLS[:1], CELLS[2], *CELLS[2:CELLS_HERE]]
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"x\.pickle: architecture 1 is \|none~0\|.*, the list of cells says '\|none"):
        imported(path)
    path.write_bytes(pickle.dumps(official.whole([1], NATS) | {"meta_archs": CELLS[:9]}))
    with pytest.raises(ValueError, match="expected meta_archs to list 40 cells as text, got 9"):
        imported(path)


def test_fewer_architectures_than_promised_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(official.whole([1, 2], NATS) | {"evaluated_indexes": {1, 2, 3}}))
    with pytest.raises(ValueError, match=r"x\.pickle promises 3 architectures, 2 are in it"):
        imported(path)


def test_another_pickle_and_a_mixed_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps({"labels": [1, 2]}))
    with pytest.raises(
        ValueError, match=r"x\.pickle: expected architectures of NAS-Bench-201 or NATS-Bench's topology"
    ):
        imported(path)
    mixed = {1: official.architecture(1, NATS), 2: official.architecture(2, NB201)}
    path.write_bytes(pickle.dumps({"arch2infos": mixed}))
    with pytest.raises(ValueError, match=r"x\.pickle mixes NAS-Bench-201 and NATS-Bench topology"):
        imported(path)
    path.write_bytes(pickle.dumps([official.architecture(1, NATS), official.architecture(1, NATS)]))
    with pytest.raises(ValueError, match="architecture 1 stands in the file twice"):
        imported(path)


def test_a_tar_with_a_place_outside_is_refused(tmp_path: Path) -> None:
    for place in ("../../etc", "/etc"):
        path = official.write_tar(tmp_path / "x.tar", official.members([1]), place)
        with pytest.raises(ValueError, match=rf"x\.tar has a member '{place}.*', which leaves its folder: not read"):
            imported(path)


def test_a_published_name_in_the_data_folder_is_found_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path)
    keys = dict.fromkeys(CELLS[:CELLS_HERE], 1)
    found = catalog.find("nb201", "cifar10", tmp_path, tmp_path / "cache", lambda: keys)
    assert found is not None
    assert Table.open(found, "cifar10").query(CELLS[7]) is not None
    monkeypatch.setattr(catalog, "import_table", None)
    assert catalog.find("nb201", "cifar10-valid", tmp_path, tmp_path / "cache", lambda: keys) == found


class Shell:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch marker",)


@every_form
def test_a_file_that_would_run_something_is_refused(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(official, "architecture", lambda *_: {"12": Shell(), "200": Shell()})
    with pytest.raises(ValueError, match=r"names \w+\.system, which is not plain data: nothing was run"):
        imported(FORMS[form](tmp_path / "other"))
    assert not list(tmp_path.rglob("marker"))


@pytest.mark.parametrize("form", [name for name in FORMS if "folder of" not in name])
def test_a_truncated_file_is_refused_wherever_it_ends(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(official, "whole", official.unlisted)
    path = FORMS[form](tmp_path)
    content = path.read_bytes()
    read = file_form(path)
    assert read is not None
    ends = np.linspace(20, len(content) - 1, 12, dtype=int).tolist()
    ends += [end for end in range(512, len(content), 512) if content[end + 257 : end + 262] == b"ustar"]
    if form == "a tar of such a folder":
        padding = len(content) - len(content.rstrip(b"\0"))
        ends = [end for end in ends if end < len(content) - padding + 512]
    if form == "NAS-Bench-201 by torch":
        ends = ends[:-1]  # the last bytes are of tensors, of which there are none
    for end in ends:
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"NAS-|NATS-"):
            read.read(path, lambda _done, _total: None)


def test_a_truncated_member_of_a_folder_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    member = path / "000007.pickle.pbz2"
    content = member.read_bytes()
    for end in (0, 3, 100, len(content) - 1):
        member.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"simple/000007\.pickle\.pbz2"):
            imported(path)


def content_or_sentence(path: Path) -> str | None:
    """What is wrong with a file, in words; anything but ValueError is not caught."""
    try:
        imported(path)
    except ValueError as error:
        return str(error)
    return None


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_is_a_table_or_a_sentence(draw: st.DataObject, tmp_path: Path) -> None:
    seeds = {12: {"cifar10": (1,), "cifar10-valid": (1,)}}
    raw = pickle.dumps({3: official.architecture(3, {"12": 12}, seeds)})
    place = draw.draw(st.integers(2, len(raw) - 1))
    junk = draw.draw(st.binary(min_size=1, max_size=3))
    path = tmp_path / "x.pickle"
    path.write_bytes(raw[:place] + junk + raw[place + len(junk) :])
    wrong = content_or_sentence(path)
    assert wrong is None or "x.pickle" in wrong


@pytest.mark.parametrize("content", [b"", b"BZh9junk", b"PK\x03\x04junk", b"\x80", b"x" * 600, bz2.compress(b"text")])
def test_other_files_are_not_taken_for_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert file_form(path) is None
    assert file_form(tmp_path / "absent") is None
    assert file_form(tmp_path) is None


def test_a_bomb_in_a_member_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "ONE", pickles.Limits(nbytes=1 << 20))
    path = official.write_folder(tmp_path / "f", [])
    bomb = bz2.compress(b"\x80\x04" + b"\x8e" + (1 << 22).to_bytes(8, "little") + bytes(1 << 22) + b"N.")
    assert len(bomb) < 4096
    (path / "000001.pickle.pbz2").write_bytes(bomb)
    with pytest.raises(
        ValueError, match=r"f/000001\.pickle\.pbz2.*4,194,304 bytes in one value, expected at most 1,048,576"
    ):
        imported(path)
    monkeypatch.setattr(importer, "UNPACKED_BYTES", 1 << 20)
    monkeypatch.setattr(importer, "ONE", pickles.Limits(nbytes=1 << 30))
    (tmp_path / "x.pickle.pbz2").write_bytes(bomb)
    with pytest.raises(ValueError, match="unpacks to more than 1,048,576 bytes"):
        imported(tmp_path / "x.pickle.pbz2")


@pytest.mark.usefixtures("whole_size")
def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = torch_then(tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\nfrom bench.tables.forms import import_table\n"
        f"print(len(import_table(Path({str(path)!r}), 'nb201', {{}}, None).keys), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.stdout, done.returncode) == ("3 False\n", 0), done.stderr[-500:]


@needs_sample
@needs_parquet
@pytest.mark.usefixtures("whole_size")
def test_the_real_architectures_agree_with_the_table_made_elsewhere() -> None:
    ours, theirs = imported(SAMPLE), import_table(PARQUET, "nb201", {}, 15625)
    rows = [theirs.keys.index(key) for key in ours.keys]
    assert len(rows) == 3
    for slot, other in theirs.measurements.items():
        mine = ours.measurements[slot]
        if slot.budget == 200 and slot.dataset == "cifar10":
            assert mine.runs == other.runs
            np.testing.assert_array_equal(mine.values, other.values[rows])
        else:
            np.testing.assert_allclose(mine.values.mean(1), other.values[rows, 0], rtol=0, atol=1e-7, err_msg=slot.name)
    for name, values in theirs.scalars.items():
        np.testing.assert_allclose(ours.scalars[name], values[rows], rtol=1e-12, err_msg=name)


@needs_sample
@needs_parquet
@pytest.mark.usefixtures("whole_size")
def test_halves_of_the_real_test_sets_average_to_the_whole() -> None:
    ours = imported(SAMPLE)
    rows = {row["arch_str"]: row for row in pq.read_table(PARQUET).to_pylist()}
    for dataset, stem in (("cifar100", "c100"), ("imagenet16", "in16")):
        val, test = (ours.measurements[Slot(dataset, split, 200)].values for split in ("val", "test"))
        whole = [[rows[key][f"{stem}_valtest_s{seed}"] / 100 for seed in (777, 888, 999)] for key in ours.keys]
        np.testing.assert_allclose((val + test) / 2, whole, rtol=0, atol=1e-7)
