"""Which files of an output folder earlier calls have written, and which of them the present call makes stale.

The folder's manifest, `.nas-stability.json`, has an entry a file: its kind (`figure regret`, `table accuracy`) and the
SHA-256 of what was written. A name alone would not do: a file of that name may be the user's, or one of ours that the
user has changed since; neither is ever removed. It is JSON, because it is small and a person may want to read it,
without dates, so that equal calls leave equal folders, and hidden, because it is no result.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis import _files

log = logging.getLogger(__name__)

NAME = ".nas-stability.json"
FORMAT = 1


class Written:
    """What a call writes into a folder, of which kind each file is.

    Files are noted as soon as a figure or table is there, so that a later call knows what one that was killed has left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.kinds: set[str] = set()

    def note(self, kind: str, paths: Iterable[Path]) -> list[Path]:
        """Note the files of a kind that have just been written, perhaps none, and return them."""
        found = list(paths)
        entries = {path.name: {"kind": kind, "sha256": _digest(path)} for path in found}
        self.kinds.add(kind)
        self.names |= entries.keys()
        if entries:
            _save(self.folder, _entries(self.folder) | entries)
        return found

    def remove_stale(self) -> None:
        """Remove what earlier calls wrote of the kinds that this call has written, and say so."""
        entries, removed = _entries(self.folder), []
        for name, entry in sorted(entries.items()):
            if name not in self.names and entry["kind"] in self.kinds:
                del entries[name]
                removed += _remove(self.folder / name, entry["sha256"])
        if self.names or removed:
            _save(self.folder, entries)
        if removed:
            log.warning("removed from %s what an earlier call wrote: %s", self.folder, ", ".join(removed))


def _remove(path: Path, digest: str) -> list[str]:
    """Remove a file that is still as it was written; return its name, nothing where it is not."""
    if not path.is_file() or _digest(path) != digest:
        return []
    _files.remove(path)
    return [path.name]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entries(folder: Path) -> dict[str, Any]:
    """Return what a folder's manifest says by file name; nothing where it is none of ours."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    files = content.get("files") if isinstance(content, dict) and content.get("format") == FORMAT else None
    return {name: entry for name, entry in files.items() if _is_ours(name, entry)} if isinstance(files, dict) else {}


def _is_ours(name: str, entry: Any) -> bool:
    """Return whether an entry is as this module writes it; a name with folders in it could be anywhere."""
    return Path(name).name == name and isinstance(entry, dict) and {"kind", "sha256"} <= entry.keys()


def _save(folder: Path, entries: dict[str, Any]) -> None:
    content = {"format": FORMAT, "files": entries}
    _files.put(folder / NAME, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
