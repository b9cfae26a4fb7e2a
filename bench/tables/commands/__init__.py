"""The subcommands of `python -m bench.tables`."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

FOUND, MISS = 0, 1
"""Exit codes."""


class Command(NamedTuple):
    """A subcommand: its help, its arguments, and what it does; returns the exit code."""

    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
