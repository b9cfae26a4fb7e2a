"""Text files of this package, written whole or not at all."""

import os
from pathlib import Path


def put(path: Path, text: str) -> Path:
    """Write a text file in place of an old one, make its folder where it is missing, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
