"""Unpacking a published tar archive: only the files that are expected, checked before they are put in place.

Members are never written where the archive says: their contents are copied to names of our own. An archive with a
member that lies outside of it, is a link or a device, or is far too large, is refused as a whole.
"""

import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bench.data.batches import checksum

LARGEST_BYTES = 1 << 30
"""Of all members together; CIFAR unpacks to 200 MB."""


def unpack(archive: Path, wanted: Mapping[str, str], folder: Path, aside: Path) -> None:
    """Put files of a tar archive into a folder; where one is not as expected, nothing is put there.

    Args:
        archive: compressed or not.
        wanted: member name to algorithm and digest, `md5:…`; a file keeps the last part of its member's name.
        folder: where the files go; files of the same names are replaced one by one.
        aside: a folder of our own on the same disk, emptied before and removed after.

    Raises:
        ValueError: the archive is damaged, dangerous or lacks a file.
    """
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        found = _copy(archive, wanted, aside)
        if missing := sorted(set(wanted) - set(found)):
            raise ValueError(f"expected {', '.join(missing)} in {archive}, found none")
        folder.mkdir(parents=True, exist_ok=True)
        for path in found.values():
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _copy(archive: Path, wanted: Mapping[str, str], aside: Path) -> dict[str, Path]:
    """Return the copies of the wanted members, checked."""
    copies: dict[str, Path] = {}
    total = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name, total = _checked(archive, member), total + member.size
                if total > LARGEST_BYTES:
                    raise ValueError(
                        f"expected at most {LARGEST_BYTES} bytes in {archive}, got more at {member.name!r}"
                    )
                if name in wanted and member.isreg():
                    copies[name] = _write(tar, member, aside / PurePosixPath(name).name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"expected a tar archive in {archive}, got a damaged one: {reason}") from error
    for name, path in copies.items():
        algorithm, _, digest = wanted[name].partition(":")
        if (got := checksum(path, algorithm)) != digest:
            raise ValueError(f"expected {algorithm} {digest} for {name} in {archive}, got {got}")
    return copies


def _checked(archive: Path, member: tarfile.TarInfo) -> str:
    """Return a member's name without a leading `./`.

    Raises:
        ValueError: it lies outside of the archive, or is neither a file nor a folder.
    """
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"expected only files below the archive's own folder in {archive}, got {member.name!r}")
    if not (member.isreg() or member.isdir()):
        raise ValueError(f"expected only files and folders in {archive}, got {member.name!r}, a link or a device")
    return str(path)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Path:
    content = tar.extractfile(member)
    assert content is not None
    with content, path.open("wb") as out:
        shutil.copyfileobj(content, out)
    return path
