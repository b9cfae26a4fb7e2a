"""What the benchmark writes: its figures as JSON and Markdown, and short runs in folders that go again."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def check(folder: Path, name: str) -> None:
    """Raise where nothing could be kept, before anything is measured.

    Raises:
        ValueError: the name is not one of a file.
        OSError: the folder cannot be made.
    """
    if Path(name).name != name:
        raise ValueError(f"expected a --title that can be a file's name, got {name!r}")
    folder.mkdir(parents=True, exist_ok=True)


def keep(folder: Path, name: str, content: Mapping[str, Any], text: str) -> list[Path]:
    """Write NAME.json and NAME.md; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"{name}.json", folder / f"{name}.md"
    data.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    return [data, page]


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="nas-stability-speed-") as folder:
        yield Path(folder)
