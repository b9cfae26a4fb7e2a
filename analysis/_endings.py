"""Whether a run has come to its end with all its records.

`bench/store.py` reads the same files, to decide what is searched again; these packages cannot import each other, and a
test holds both readings to the same answers.
"""

import json
from pathlib import Path


def ended(folder: Path, name: str) -> bool:
    """Return whether a run has ended as a file says (finished.json, diverged.json), and its records are all there."""
    return (folder / name).exists() and damage(folder, name) is None


def damage(folder: Path, name: str) -> str | None:
    """Return why an end is none, as a sentence; None where there is none, or the records are those that it counts."""
    path, how = folder / name, name.removesuffix(".json")
    if not path.exists():
        return None
    found, written = _counted(folder), _written(path)
    if written is None:
        return f"{path} does not say how many records its run {how} with: not {how}"
    return None if found == written else f"{folder}: {found} of the {written} records it {how} with: not {how}"


def _counted(folder: Path) -> int:
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _written(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["records"])
    except (ValueError, KeyError, TypeError):
        return None
