"""Plain data out of pickles that may be hostile or larger than memory: a pickle machine of our own.

`pickle.Unpickler` with an allow-list is not enough for benchmark tables: a memo index in five bytes makes it allocate
gigabytes, and a table of 15,625 architectures in one pickle becomes 28 GB of objects before the first can be looked at.
This machine knows the opcodes of plain data and calls nothing that a pickle names: a global is either in the list of
builders, functions of ours that make a value out of checked arguments, or an error that says where it stands. `read`
hands every finished dictionary to its caller and forgets those that the caller has taken.

Files of tables are mostly curves: runs of (epoch, number) pairs, which a regular expression finds and numpy decodes at
once, so that reading is as fast as the C unpickler. The opcodes are those of the standard library's `pickletools`.
"""

from typing import Any

from bench.pickles.builders import ARRAYS, CONTAINERS, NUMBERS
from bench.pickles.machine import Builder, Builders, Finished, Limits, Machine, SeekableSource, Source
from bench.pickles.operations import run

__all__ = [
    "ARRAYS", "CONTAINERS", "NUMBERS", "Builder", "Builders", "Finished", "Limits", "SeekableSource", "Source",
    "read", "read_next",
]  # fmt: skip


def read(
    source: Source,
    name: str,
    builders: Builders,
    finished: Finished = lambda _: False,
    limits: Limits = Limits(),  # noqa: B008 - a named tuple cannot change
) -> Any:
    """Return the content of a file that is one pickle and nothing more.

    Args:
        source: at the pickle's first byte.
        name: of the file, for messages.
        builders: the globals the pickle may name.
        finished: called with every dictionary once it is filled.
        limits: what the pickle may ask for.

    Raises:
        ValueError: the pickle is damaged, names a global that is not in the list, or passes a limit; one sentence with
            the byte it was found at.
    """
    machine = Machine(source, builders, finished, limits)
    content = _guarded(machine, name)
    if machine.at < len(machine.data) or source.read(1):
        raise ValueError(f"{name}: expected the file to end with its pickle at byte {machine.offset}, got more bytes")
    return content


def read_next(
    source: SeekableSource,
    name: str,
    builders: Builders,
    finished: Finished = lambda _: False,
    limits: Limits = Limits(),  # noqa: B008 - a named tuple cannot change
) -> Any:
    """Return the content of one of several pickles in a file that can seek; it stands behind the pickle then."""
    machine = Machine(source, builders, finished, limits)
    content = _guarded(machine, name)
    source.seek(machine.at - len(machine.data), 1)
    return content


def _guarded(machine: Machine, name: str) -> Any:
    try:
        return run(machine)
    except EOFError as error:
        raise ValueError(f"{name}: the pickle ends at byte {machine.offset}, expected more: it is truncated") from error
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
        detail = str(error) if isinstance(error, ValueError) else f"a damaged pickle ({type(error).__name__})"
        raise ValueError(f"{name}, byte {machine.offset} of the pickle: {detail}") from error
