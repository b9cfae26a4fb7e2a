"""Unpacking archives: what is wanted, nothing else, and nothing of an archive that is damaged or dangerous."""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from bench.data import unpack as unpacking
from bench.data.unpack import unpack

GOOD = {"data/one": b"one", "data/two": b"two" * 100_000}
WANTED = {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in GOOD.items()}


def archive(path: Path, *more: tarfile.TarInfo, contents: dict[str, bytes] | None = None, mode: str = "w:gz") -> Path:
    """Write the good files and further members."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in (GOOD if contents is None else contents).items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info in more:
            if info.size > 10:  # the header alone: it is refused before anything of it is read
                tar.fileobj.write(info.tobuf())
            else:
                tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.exists() else {}


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_wanted_files_are_unpacked_and_others_left(tmp_path: Path, mode: str) -> None:
    packed = archive(tmp_path / "a.tar", member("data/other", size=5), member("data", tarfile.DIRTYPE), mode=mode)
    unpack(packed, WANTED, tmp_path / "in", tmp_path / "aside")
    assert contents(tmp_path / "in") == {"one": GOOD["data/one"], "two": GOOD["data/two"]}
    assert not (tmp_path / "aside").exists()


def test_names_with_a_leading_dot_are_the_same(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tar", contents={f"./{name}": content for name, content in GOOD.items()})
    unpack(packed, WANTED, tmp_path / "in", tmp_path / "aside")
    assert set(contents(tmp_path / "in")) == {"one", "two"}


def test_damaged_files_are_replaced_and_foreign_ones_left(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one").write_bytes(b"damaged")
    (tmp_path / "in" / "mine").write_bytes(b"mine")
    unpack(archive(tmp_path / "a.tar"), WANTED, tmp_path / "in", tmp_path / "aside")
    assert contents(tmp_path / "in") == {"mine": b"mine", "one": GOOD["data/one"], "two": GOOD["data/two"]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../escaped", size=1), r"below the archive's own folder .*'\.\./escaped'"),
        (member("data/../../escaped", size=1), "below the archive's own folder"),
        (member("/tmp/escaped", size=1), "below the archive's own folder"),
        (member("data/link", tarfile.SYMTYPE, "/etc/passwd"), "only files and folders .*'data/link', a link"),
        (member("data/one", tarfile.SYMTYPE, "/etc/passwd"), "only files and folders .*'data/one', a link"),
        (member("data/hard", tarfile.LNKTYPE, "data/one"), "only files and folders .*'data/hard', a link"),
        (member("data/pipe", tarfile.FIFOTYPE), "only files and folders"),
        (member("data/disk", tarfile.BLKTYPE), "only files and folders"),
        (member("data/huge", size=1 << 40), "expected at most .* bytes in .*'data/huge'"),
    ],
    ids=["up", "inner up", "absolute", "symbolic", "over a file", "hard", "pipe", "device", "huge"],
)
def test_dangerous_archives_are_refused_as_a_whole(tmp_path: Path, bad: tarfile.TarInfo, message: str) -> None:
    (tmp_path / "deep").mkdir()
    packed = archive(tmp_path / "a.tar", bad)
    with pytest.raises(ValueError, match=message):
        unpack(packed, WANTED, tmp_path / "deep" / "in", tmp_path / "deep" / "aside")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "deep"]


def test_many_members_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "LARGEST_BYTES", 300_010)
    with pytest.raises(ValueError, match="expected at most 300010 bytes"):
        unpack(archive(tmp_path / "a.tar", member("x", size=8)), WANTED, tmp_path / "in", tmp_path / "aside")
    unpack(archive(tmp_path / "b.tar", member("x", size=7)), WANTED, tmp_path / "in", tmp_path / "aside")


@pytest.mark.parametrize(
    ("contents_", "message"),
    [
        ({"data/one": b"one"}, r"expected data/two in .*a\.tar, found none"),
        ({**GOOD, "data/one": b"other"}, f"expected md5 {WANTED['data/one'][4:]} for data/one in .*, got"),
        ({}, "expected data/one, data/two in"),
    ],
    ids=["missing", "another", "empty"],
)
def test_incomplete_archives_put_nothing_in_place(tmp_path: Path, contents_: dict[str, bytes], message: str) -> None:
    packed = archive(tmp_path / "a.tar", contents=contents_)
    with pytest.raises(ValueError, match=message):
        unpack(packed, WANTED, tmp_path / "in", tmp_path / "aside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_truncated_archives_are_one_sentence(tmp_path: Path, share: float, mode: str) -> None:
    packed = archive(tmp_path / "a.tar", mode=mode)
    raw = packed.read_bytes()
    packed.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match=r"a\.tar") as caught:
        unpack(packed, WANTED, tmp_path / "in", tmp_path / "aside")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


def damage(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 0x5A]) + raw[place + 1 :]


def test_flipped_bytes_are_one_sentence(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tar")
    raw = packed.read_bytes()
    for place in range(0, len(raw), max(1, len(raw) // 60)):
        packed.write_bytes(damage(raw, place))
        try:
            unpack(packed, WANTED, tmp_path / "in", tmp_path / "aside")
        except ValueError as error:
            assert (str(packed) in str(error), "\n" in str(error)) == (True, False)  # noqa: PT017 - see below
        # Some bytes do not matter, such as the time stamp: then everything is there.
        assert contents(tmp_path / "in") in ({}, {"one": GOOD["data/one"], "two": GOOD["data/two"]})


def test_what_the_decompressor_itself_finds_is_one_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    wanted = {"data/one": f"md5:{hashlib.md5(noise).hexdigest()}"}
    packed = archive(tmp_path / "a.tar", contents={"data/one": noise})
    raw = packed.read_bytes()
    packed.write_bytes(raw[:100_000] + b"\xff" * 70_000 + raw[170_000:])  # over the head of a stored block
    with pytest.raises(ValueError, match=r"a tar archive in .*a\.tar, got a damaged one: Error -3") as caught:
        unpack(packed, wanted, tmp_path / "in", tmp_path / "aside")
    assert isinstance(caught.value.__cause__, zlib.error)
