"""`verify`: two tables row by row."""

import argparse
import math
import sys

from bench.tables.arrow import load
from bench.tables.commands import Command
from bench.tables.commands.finding import named
from bench.tables.compare import differences
from bench.tables.data import columns

EQUAL, DIFFERENT = 0, 1
"""Exit codes."""


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="a file, or a space, whose table a run would find")
    parser.add_argument("b", help="another")
    parser.add_argument("--dataset", help="of a space's table; default: cifar10, else digits")
    parser.add_argument("--tolerance", type=_tolerance, default=0.0, help="how far numbers may be apart; default: 0")
    parser.add_argument("--rows", type=int, default=3, help="rows named for each difference; default: 3")


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return value


def _verify(chosen: argparse.Namespace) -> int:
    one, other = (load(named(word, chosen.dataset)) for word in (chosen.a, chosen.b))
    found = differences(one, other, chosen.tolerance, max(0, chosen.rows))
    for line in found:
        sys.stdout.write(f"{line}\n")
    if found:
        return DIFFERENT
    within = f" within {chosen.tolerance:g}" if chosen.tolerance else ""
    sys.stdout.write(f"equal{within}: {len(one.keys)} rows, {len(columns(one))} columns of numbers\n")
    return EQUAL


VERIFY = Command(
    "Compare two tables row by row; exit code 0 if they are equal, 1 if they differ.", _verify_arguments, _verify
)
