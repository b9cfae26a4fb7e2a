"""The files NAS-Bench-201 and NATS-Bench's topology space were published as, read one architecture at a time.

- `NATS-tss-v1_0-3ffb9-simple`: a folder, or a tar of it, of bzip2-ed pickles: `meta.pickle.pbz2` lists the cells,
  `000000.pickle.pbz2` to `015624.pickle.pbz2` are one architecture each; a part of the folder is a table too.
- `NATS-tss-v1_0-3ffb9.pickle.pbz2`: one bzip2-ed pickle of all; unpacked it is read too.
- `NAS-Bench-201-v1_0-e61699.pth`, `-v1_1-096897.pth`: one pickle of all as torch wrote it then (three short pickles,
  then the content) or writes it now (a zip). There is no tensor in them, so torch is not needed.

`pickles` reads them all: nothing a file names is called, and an architecture is forgotten once its numbers are kept.
The published loaders were not used: nas-bench-201's and nats-bench's need all of a single file as objects, 28 GB, and
unpickle whatever it holds.
"""

import bz2
import hashlib
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from bench import pickles
from bench.tables.data import Report, TableData
from bench.tables.results201 import ARCHITECTURES, FAMILIES, Results

META, MEMBER = "meta.pickle.pbz2", re.compile(r"\d{6}\.pickle\.pbz2")
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a file by torch before 1.6: its magic number."""

TORCH_MEMBER = "/data.pkl"
"""Where torch keeps the content since then, behind the name of the archive; the first member of the zip."""

ONE = pickles.Limits(nbytes=32 << 20, operations=2_000_000)
"""Of one architecture, or of the list of cells. The official ones take 0.3 and 1.4 MB, 50,000 operations."""
UNPACKED_BYTES = 32 << 30
"""Of a compressed file; NATS-Bench's takes 5 GB."""


def is_folder(path: Path) -> bool:
    """Return whether this is a folder of architectures, with or without all of them."""
    return path.is_dir() and any(MEMBER.fullmatch(one.name) for one in path.iterdir())


def is_tar(path: Path) -> bool:
    """Return whether this is a tar of such a folder, as far as its first members say."""
    if _head(path, 512)[257:262] != b"ustar":
        return False
    try:
        with tarfile.open(path, "r|") as archive:
            names = [Path(member.name).name for member, _ in zip(archive, range(4), strict=False)]
    except tarfile.TarError:
        return False
    return any(name == META or MEMBER.fullmatch(name) for name in names)


def is_compressed_pickle(path: Path) -> bool:
    if _head(path, 3) != b"BZh":
        return False
    try:
        with bz2.open(path) as file:
            return _begins_a_pickle(file.read(2))
    except (OSError, EOFError):
        return False


def is_pickle(path: Path) -> bool:
    """Return whether this is a bare pickle, as of a file that was unpacked."""
    return _begins_a_pickle(_head(path, 2)) and not is_torch(path)


def is_torch(path: Path) -> bool:
    """Return whether torch wrote this, then or now."""
    head = _head(path, 300)
    return head.startswith(LEGACY_TORCH) or (head[:4] == b"PK\x03\x04" and TORCH_MEMBER.encode() in head)


def _begins_a_pickle(head: bytes) -> bool:
    return len(head) == 2 and head[:1] == b"\x80" and 2 <= head[1] <= 5


def _head(path: Path, length: int) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(length)


def read_folder(path: Path, report: Report) -> TableData:
    """Read a folder of architectures."""
    names = sorted(one.name for one in path.iterdir() if one.name == META or MEMBER.fullmatch(one.name))
    collected, digest = _Collected(path.name), hashlib.sha256()
    for done, name in enumerate(names):
        with (path / name).open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
            file.seek(0)
            collected.member(name, file)
        report(done + 1, len(names))
    return collected.table(digest.hexdigest())


def read_tar(path: Path, report: Report) -> TableData:
    """Read a tar of such a folder; nothing is unpacked to disk, members have names and content, no places."""
    collected, size = _Collected(path.name), path.stat().st_size
    try:
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                _check_place(path, member.name)
                name = Path(member.name).name
                if member.isfile() and (name == META or MEMBER.fullmatch(name)):
                    content = archive.extractfile(member)
                    collected.member(name, cast(pickles.Source, content))
                report(member.offset_data, size)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is a damaged or truncated tar: {error}") from error
    with path.open("rb") as file:
        file.seek(max(0, size - 1024))
        if file.read().strip(b"\0"):
            raise ValueError(f"{path} is truncated at byte {size}: expected a tar to end with 1,024 zero bytes")
    report(size, size)
    return collected.table(None)


def _check_place(path: Path, name: str) -> None:
    if name.startswith("/") or ".." in Path(name).parts:
        raise ValueError(f"{path} has a member {name!r:.80}, which leaves its folder: not read")


def read_compressed_pickle(path: Path, report: Report) -> TableData:
    """Read one bzip2-ed pickle: all architectures, or a single one."""
    collected = _Collected(path.name)
    with path.open("rb") as file, bz2.open(file) as unpacked:
        collected.whole(_Counted(unpacked, lambda: report(file.tell(), path.stat().st_size)))
    return collected.table(None, _published(path))


def read_pickle(path: Path, report: Report) -> TableData:
    """Read one pickle that is not compressed."""
    collected = _Collected(path.name)
    with path.open("rb") as file:
        collected.whole(_Counted(file, lambda: report(file.tell(), path.stat().st_size)))
    return collected.table(None)


def read_torch(path: Path, report: Report) -> TableData:
    """Read a file that torch wrote, without torch."""
    collected, size = _Collected(path.name), path.stat().st_size
    with path.open("rb") as file:
        counted = _Counted(file, lambda: report(file.tell(), size))
        if _head(path, 2) == b"PK":
            _read_zip(collected, file, counted.tell)
        else:
            for part in ("magic number", "protocol version", "sizes"):
                pickles.read_next(
                    file, f"{path.name}, {part}", pickles.CONTAINERS, limits=pickles.Limits(1 << 20, 1000)
                )
            collected.next_of_several(counted)
    report(size, size)
    return collected.table(None, _published(path))


def _read_zip(collected: "_Collected", file: IO[bytes], tell: Callable[[], None]) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            name = next((name for name in archive.namelist() if name.endswith(TORCH_MEMBER)), None)
            if name is None:
                raise ValueError(f"{collected.name}: expected a member that ends with {TORCH_MEMBER}, found none")
            with archive.open(name) as member:
                collected.whole(_Counted(member, tell))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{collected.name} is a damaged or truncated file of torch: {error}") from error


class _Counted:
    """A stream that says how far it is, and stops where a bomb would go on."""

    def __init__(self, stream: pickles.SeekableSource, tell: Callable[[], None]) -> None:
        self.stream, self.tell, self.nbytes = stream, tell, 0

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.nbytes += len(content)
        if self.nbytes > UNPACKED_BYTES:
            raise ValueError(f"unpacks to more than {UNPACKED_BYTES:,} bytes")
        self.tell()
        return content

    def seek(self, offset: int, whence: int) -> int:
        return self.stream.seek(offset, whence)


class _Published(NamedTuple):
    """What the name of a file says of it, and whether its bytes agree: the official names end with their md5."""

    version: str
    note: str


def _published(path: Path) -> _Published | None:
    version, suffix = re.search(r"v\d_\d", path.name), re.search(r"-([0-9a-f]{5,6})\.(?:pth|pickle)", path.name)
    if version is None or suffix is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    length = len(suffix[1])
    agrees = f"its md5 begins {digest[:length]}, as its name says"
    differs = f"its md5 begins {digest[:length]}, its name says {suffix[1]}: not the published file"
    return _Published(version[0], agrees if digest[:length] == suffix[1] else differs)


class _Collected:
    """Architectures from the pickles of one file or folder, and what these promise."""

    def __init__(self, name: str) -> None:
        self.name, self.results = name, Results()
        self.cells: list[str] | None = None
        self.evaluated: int | None = None

    def member(self, name: str, file: pickles.Source) -> None:
        """Read one bzip2-ed file of a folder."""
        place, before = f"{self.name}/{name}", len(self.results.keys)
        with bz2.open(cast(IO[bytes], file)) as unpacked:
            self._read(pickles.read, unpacked, place)
        added = list(self.results.keys)[before:]
        if added != ([] if name == META else [int(name[:6])]):
            raise ValueError(f"{place}: expected what its name says, got architectures {added[:5]}")

    def whole(self, stream: _Counted) -> None:
        """Read a file that is one pickle."""
        self._read(pickles.read, stream, self.name)

    def next_of_several(self, stream: _Counted) -> None:
        """Read one pickle of a file of several."""
        self._read(pickles.read_next, stream, self.name)

    def _read(self, read: Callable[..., Any], stream: pickles.Source, place: str) -> None:
        try:
            self._listed(read(stream, place, pickles.NUMBERS, self.results.take, ONE))
        except OSError as error:
            raise ValueError(f"{place} is damaged: {error}") from error

    def _listed(self, content: Any) -> None:
        """Keep the list of all cells and the number of architectures where a pickle has them."""
        if not isinstance(content, dict) or "meta_archs" not in content:
            return
        cells, evaluated = content["meta_archs"], content.get("evaluated_indexes")
        if not isinstance(cells, list) or len(cells) != ARCHITECTURES or set(map(type, cells)) != {str}:
            count = len(cells) if isinstance(cells, list) else type(cells).__name__
            raise ValueError(f"{self.name}: expected meta_archs to list {ARCHITECTURES} cells as text, got {count}")
        self.cells = cells
        self.evaluated = len(evaluated) if isinstance(evaluated, list | set) and evaluated else None

    def table(self, sha256: str | None, published: _Published | None = None) -> TableData:
        self._check_promises()
        version = re.search(r"v\d_\d", self.name)
        said = f" {version[0]}" if version else ", version unknown"
        family = next(iter(self.results.families), "")
        notes = [_VERSIONS.get(family, "")]
        notes += [published.note] if published else []
        if self.cells is None:
            notes.append("no list of all cells in the file: the cells' own strings are the keys, unchecked")
        data = self.results.table(f"{family}{said}", tuple(notes), self.name)
        return data if sha256 is None else replace(data, source_sha256=sha256)

    def _check_promises(self) -> None:
        found = self.results.keys
        if self.evaluated is not None and self.evaluated != len(found):
            raise ValueError(f"{self.name} promises {self.evaluated} architectures, {len(found)} are in it")
        for index, key in found.items() if self.cells is not None else ():
            if self.cells is not None and self.cells[index] != key:
                raise ValueError(
                    f"{self.name}: architecture {index} is {key}, the list of cells says {self.cells[index]!r:.120}"
                )


_VERSIONS = {
    name: f"{name}: NAS-Bench-201 v1.0, v1.1 and NATS-Bench are different versions of the trainings; "
    "seeds and numbers differ"
    for name in set(FAMILIES.values())
}
