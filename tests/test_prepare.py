"""Preparing data: from a server on this machine, interrupted, broken, wrong; by hand; and the list of what is there."""

import hashlib
import io
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests import benches, official, servers
from tests.servers import Server

from bench import prepare
from bench.data import cifar100, download
from bench.data.download import locked
from bench.data.sources import CATALOGUE, Catalogue, File, Need, Part, TableSource
from bench.tables.arrow import load
from bench.tables.flat import export

ROOT = Path(__file__).parent.parent
ARCHIVE = "cifar-100-python.tar.gz"
FOLDER = cifar100.BATCHES.folder


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with servers.serving() as found:
        yield found


@pytest.fixture
def catalogue(server: Server, tmp_path: Path) -> Catalogue:
    """A small CIFAR-100 in an archive, its division, files to be got by hand, and results of `toy` as CSV."""
    sums = official.write_cifar100(tmp_path / "official", 100, 100)
    server.files[ARCHIVE] = packed(tmp_path / "official" / FOLDER)
    official.write_split(tmp_path, "halves.txt", {"xvalid": range(50), "xtest": range(50, 100)})
    server.files["halves.txt"] = (tmp_path / "halves.txt").read_bytes()
    export(benches.table(tmp_path / "toy.arrow"), tmp_path / "toy.csv")
    server.files["toy.csv"] = (tmp_path / "toy.csv").read_bytes()
    files = tuple(File(name, checksum=f"md5:{digest}") for name, digest in sums.items())
    by_hand = (File("one", None, md5(b"one"), page="a page"), File("two", None, md5(b"two"), page="a page"))
    parts = (
        Part("hundred", "a hundred classes", FOLDER, files, remote(server, ARCHIVE)),
        Part("split", "its division", "", (remote(server, "halves.txt", None),), division=(cifar100.SPLIT, 100)),
        Part("hand", "two files", "hand", by_hand),
    )
    results = TableSource("results", "made up", (remote(server, "toy.csv"),), ("toy",), ("digits",))
    scan = TableSource("scan", "on paper", (File("a.bin", 3_000_000, page="a drive"),), ("toy",), ("digits",))
    return Catalogue(parts, (results, scan), (Need("toy", "digits", ("hundred", "split")),))


def packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def remote(server: Server, name: str, checksum: str | None = "") -> File:
    known = md5(server.files[name]) if checksum == "" else checksum
    return File(name, len(server.files[name]), known, f"{server.url}{name}")


def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def downloads(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (root(tmp_path) / "downloads").iterdir() if path.name != ".lock")


def test_an_archive_is_fetched_once_and_unpacked(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["hundred"], catalogue) == 0
    for name in ("train", "test", "meta"):
        expected = (tmp_path / "official" / FOLDER / name).read_bytes()
        assert (root(tmp_path) / FOLDER / name).read_bytes() == expected
    assert f"hundred is there now: {root(tmp_path) / FOLDER}" in capsys.readouterr().out
    assert prepare.main(["hundred", "hundred"], catalogue) == 0
    assert capsys.readouterr().out == f"hundred is there: {root(tmp_path) / FOLDER}\n"
    assert server.requests == {ARCHIVE: 1}
    assert server.encodings == {"identity"}, "a server may unzip what it sends"
    assert downloads(tmp_path) == [ARCHIVE]


def test_a_good_archive_that_is_there_is_not_fetched_again(
    server: Server, catalogue: Catalogue, tmp_path: Path
) -> None:
    (root(tmp_path) / "downloads").mkdir(parents=True)
    (root(tmp_path) / "downloads" / ARCHIVE).write_bytes(server.files[ARCHIVE])
    assert prepare.main(["hundred"], catalogue) == 0
    assert (root(tmp_path) / FOLDER / "train").is_file()
    assert not server.requests


def test_a_damaged_archive_and_a_damaged_file_are_replaced(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["hundred"], catalogue) == 0
    (root(tmp_path) / "downloads" / ARCHIVE).write_bytes(server.files[ARCHIVE][:-1])
    (root(tmp_path) / FOLDER / "test").write_bytes(b"damaged")
    prepare.report(catalogue, prepare._line)
    text = capsys.readouterr().out
    assert "2 of 3 files" in text
    assert f"{root(tmp_path) / FOLDER / 'test'} is not the published file" in text
    assert prepare.main(["hundred"], catalogue) == 0
    assert (root(tmp_path) / FOLDER / "test").read_bytes() == (tmp_path / "official" / FOLDER / "test").read_bytes()
    assert server.requests == {ARCHIVE: 2}


def test_another_file_than_the_published_one_is_not_kept(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[ARCHIVE] += b"more"
    assert prepare.main(["hundred"], catalogue) == 1
    error = capsys.readouterr().err
    assert (
        f"for {server.url}{ARCHIVE}, the server sent another file, which is not kept; try later or put {ARCHIVE} into"
        in error
    )
    assert error.count("\n") == 1
    assert downloads(tmp_path) == []
    assert not (root(tmp_path) / FOLDER).exists()
    assert server.requests == {ARCHIVE: 1}


def test_a_transfer_that_breaks_half_way_is_started_again(server: Server, catalogue: Catalogue, tmp_path: Path) -> None:
    server.breaks[ARCHIVE] = 2
    assert prepare.main(["hundred"], catalogue) == 0
    assert server.requests == {ARCHIVE: 3}
    assert downloads(tmp_path) == [ARCHIVE]


def test_a_transfer_that_always_breaks_is_one_sentence(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.breaks[ARCHIVE] = 99
    assert prepare.main(["hundred"], catalogue) == 1
    error = capsys.readouterr().err
    assert "the connection to 127.0.0.1" in error
    assert "failed 3 times (IncompleteRead" in error
    assert "run the same command again or put" in error
    assert error.count("\n") == 1
    assert downloads(tmp_path) == []


def test_nobody_who_answers_is_one_sentence(
    server: Server, catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    part = replace(catalogue.parts[0], archive=replace(remote(server, ARCHIVE), url="http://127.0.0.1:9/x"))
    assert prepare.main(["hundred"], replace(catalogue, parts=(part,))) == 1
    error = capsys.readouterr().err
    assert "the connection to 127.0.0.1:9 failed 3 times (ConnectionRefusedError" in error
    assert error.count("\n") == 1


def test_a_file_that_is_gone_is_one_sentence_and_the_others_go_on(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del server.files[ARCHIVE]
    assert prepare.main(["hundred", "split"], catalogue) == 1
    caught = capsys.readouterr()
    assert f"expected {server.url}{ARCHIVE}, the server answered 404 Not Found: try later or put" in caught.err
    assert caught.err.count("\n") == 1
    assert "split is there now" in caught.out
    assert (root(tmp_path) / "halves.txt").is_file()


def test_leftovers_of_a_killed_transfer_are_removed(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = root(tmp_path) / "downloads"
    (folder / "unpacking").mkdir(parents=True)
    (folder / "tmpk1ll3d").write_bytes(b"half")
    (folder / "unpacking" / "train").write_bytes(b"half")
    assert prepare.main(["hundred"], catalogue) == 0
    assert downloads(tmp_path) == [ARCHIVE]


def test_a_terminal_shows_a_bar(
    server: Server, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    server.breaks[ARCHIVE] = 1
    assert prepare.main(["hundred"], catalogue) == 0
    caught, size = capsys.readouterr(), len(server.files[ARCHIVE])
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", caught.err)
    assert f"{size / 1000:.1f}/{size / 1000:.1f} kB" in shown
    assert "fetching" not in caught.out


def test_an_interrupt_keeps_what_is_whole(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_retrieve", interrupted)
    assert prepare.main(["hundred"], catalogue) == 130
    assert capsys.readouterr().err == "interrupted: what is whole is kept, the same command goes on from it\n"
    monkeypatch.undo()
    benches.isolate(monkeypatch, tmp_path)
    assert prepare.main(["hundred"], catalogue) == 0


KILLED = """
import sys
from bench import prepare
from bench.data.sources import Catalogue, File, Part
name, url, digest = sys.argv[1:]
part = Part("big", "a big file", "", (File(name, None, digest, url),))
sys.exit(prepare.main(["big"], Catalogue((part,), (), ())))
"""


@pytest.mark.slow
def test_a_killed_transfer_starts_again(server: Server, tmp_path: Path) -> None:
    content = bytes(range(256)) * 16_384
    server.files["big.bin"], server.slow_s = content, 0.05
    command = [sys.executable, "-c", KILLED, "big.bin", f"{server.url}big.bin", md5(content)]
    folder = root(tmp_path) / "downloads"
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in folder.glob("tmp*")):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not (root(tmp_path) / "big.bin").exists()
    assert [name.startswith("tmp") for name in downloads(tmp_path)] == [True]
    server.slow_s = 0.0
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0
    assert (root(tmp_path) / "big.bin").read_bytes() == content
    assert downloads(tmp_path) == []
    assert server.requests == {"big.bin": 2}


def test_two_processes_do_not_download_at_once(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(root(tmp_path) / "downloads"):
        assert prepare.main(["hundred"], catalogue) == 2
    assert "expected no other process to download into" in capsys.readouterr().err
    assert prepare.main(["hundred"], catalogue) == 0


def test_a_division_is_checked_by_what_it_divides(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, server.files["halves.txt"] = server.files["halves.txt"], b"<html>moved</html>"
    assert prepare.main(["split"], catalogue) == 1
    assert "expected its division from" in capsys.readouterr().err
    assert (downloads(tmp_path), (root(tmp_path) / "halves.txt").exists()) == ([], False)
    server.files["halves.txt"] = good
    assert prepare.main(["split"], catalogue) == 0
    assert (root(tmp_path) / "halves.txt").read_bytes() == good
    assert capsys.readouterr().out.endswith(f"split is there now: {root(tmp_path) / 'halves.txt'}\n")


def test_what_has_no_direct_address_is_named_with_everything_to_get_it(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root(tmp_path) / "hand"
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(b"one")
    (folder / "two").write_bytes(b"three")
    assert prepare.main(["hand"], catalogue) == 1
    error = capsys.readouterr().err
    assert f"get 1 of its 2 files from a page, and put them into {folder}:" in error
    assert f"  two, md5 {hashlib.md5(b'two').hexdigest()}, the one that is there is another\n" in error
    (folder / "two").write_bytes(b"two")
    assert prepare.main(["hand"], catalogue) == 0
    assert prepare.main(["scan"], catalogue) == 1
    error = capsys.readouterr().err
    assert f"get one of these and put it into {root(tmp_path) / 'downloads'}:\n" in error
    assert "  a.bin, 3 MB, no checksum is published: a drive\n" in error


def test_results_become_tables_once(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "cache" / "nas-stability" / "tables" / "toy.arrow"
    assert prepare.main(["results"], catalogue) == 0
    assert capsys.readouterr().out.endswith(f"27 cells of toy in {table}\n")
    assert load(table).keys == load(tmp_path / "toy.arrow").keys
    before = table.stat().st_mtime_ns
    assert prepare.main(["results"], catalogue) == 0
    assert capsys.readouterr().out == f"{table} is there, of toy.csv\n"
    assert (table.stat().st_mtime_ns, server.requests) == (before, {"toy.csv": 1})


def test_results_put_there_by_hand_become_tables(
    server: Server, catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root(tmp_path) / "downloads").mkdir(parents=True)
    (root(tmp_path) / "downloads" / "a.bin").write_bytes(server.files["toy.csv"])
    assert prepare.main(["scan"], catalogue) == 0
    assert "27 cells of toy in" in capsys.readouterr().out
    (root(tmp_path) / "downloads" / "a.bin").write_bytes(b"PAR1 no table")
    assert prepare.main(["scan"], catalogue) == 1
    assert "a.bin is neither parquet nor CSV that can be read" in capsys.readouterr().err


def test_the_list_says_what_is_there_what_is_missing_and_what_paper_lacks(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main([], catalogue) == 0
    text = capsys.readouterr().out
    assert f"data folder  {root(tmp_path)} (NAS_STABILITY_DATA names another)\n" in text
    assert "  hundred           missing        a hundred classes; " in text
    assert f"by hand, into {root(tmp_path) / 'hand'}: python -m bench.prepare hand says how\n" in text
    assert "3 MB, by hand: python -m bench.prepare scan says how\n" in text
    assert "  toy    digits      hundred, split, a table (results or scan); table: none\n" in text
    assert not root(tmp_path).exists()
    assert prepare.main(["hundred", "split", "results"], catalogue) == 0
    capsys.readouterr()
    assert prepare.main([], catalogue) == 0
    text = capsys.readouterr().out
    table = tmp_path / "cache" / "nas-stability" / "tables" / "toy.arrow"
    assert f"  hundred           present        a hundred classes: {root(tmp_path) / FOLDER}\n" in text
    assert f"  toy    digits      nothing; table: {table}, 27 cells, toy.csv\n" in text
    table.write_bytes(b"no table")
    assert prepare.main([], catalogue) == 0
    assert "a table (results or scan); table: " in capsys.readouterr().out


def test_an_unknown_name_is_one_sentence(catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["hundred", "mnist"], catalogue) == 2
    assert capsys.readouterr().err == "error: expected names out of hundred, split, hand, results, scan, got mnist\n"


def test_the_official_catalogue_is_consistent() -> None:
    names = [item.name for item in (*CATALOGUE.parts, *CATALOGUE.tables)]
    assert len(set(names)) == len(names) == len(CATALOGUE.by_name)
    assert {name for need in CATALOGUE.needs for name in need.parts} == {part.name for part in CATALOGUE.parts}
    lengths = {"md5": 32, "sha256": 64}
    everything = [file for part in CATALOGUE.parts for file in (*part.files, *([part.archive] if part.archive else []))]
    everything += [file for table in CATALOGUE.tables for file in table.files]
    for file in everything:
        if file.checksum is not None:
            algorithm, _, digest = file.checksum.partition(":")
            assert len(bytes.fromhex(digest)) * 2 == lengths[algorithm]
        assert file.url is None or file.url.startswith("https://")
    for part in CATALOGUE.parts:
        assert part.archive is not None or all(file.url or file.page for file in part.files)
    assert all(file.url or file.page for table in CATALOGUE.tables for file in table.files)
