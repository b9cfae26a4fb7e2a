"""What the command lines of this package have in common."""

import argparse
from typing import Any, NoReturn

WRONG = 2
"""Exit code of a mistake in what was asked for."""
SEEDS = 2**31
"""Seeds are below this: every reader of records can hold them."""
MOST = 1_000_000
"""Seeds of one command."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"error: {message}\n")


def positive(text: str) -> int:
    """Return a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def seeds_of(value: Any) -> tuple[int, ...]:
    """Return the seeds of a range 0:4 or a list 0,2,5, as text or as YAML has it.

    Raises:
        ValueError: they are not seeds, or not each once.
    """
    try:
        if isinstance(value, str) and ":" in value:
            first, last = (int(part or 0) for part in value.split(":"))
            found = tuple(range(first, last)) if last - first <= MOST else ()
        else:
            found = tuple(int(str(part)) for part in (value if isinstance(value, list) else str(value).split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 0 or max(found) >= SEEDS or len(set(found)) != len(found):
        raise ValueError(f"expected seeds like 0:4 or 0,2,5, below 2³¹, at most {MOST:,} of them, got {value!r}")
    return found


def seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of an option of a command line."""
    try:
        return seeds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
