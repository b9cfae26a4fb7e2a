"""Look the cells of searched runs up in another table: `python -m bench.requery A --table FILE --into C`.

No searcher sees the table, so the runs come out as if they had been searched with the other one: the same records but
for what the table says, under the names that those searches have. For runs made where no table was, for a table that
was built again, for another training budget. The runs of A stay as they are; those of C appear whole, or not at all.

Left out, each with its reason: runs that have not ended, and runs that measured the correlation of shared weights with
their own table (`--metrics ranking`), which the records cannot give anew. Searches of a table itself are not touched.

Exit code 0: all runs were looked up; 1: some were left out; 2: the request is wrong.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.again import Tables, look_up
from bench.command import WRONG, Parser, positive

log = logging.getLogger(__name__)

OK, LEFT_OUT = 0, 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    given = _parser().parse_args(arguments)
    try:
        found = look_up(Path(given.folder), Path(given.into), Tables(given.table, given.budget))
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return WRONG
    for reason in found.left_out:
        log.error("left out: %s", reason)
    sys.stdout.write(f"{found.done} of {found.done + len(found.left_out)} runs looked up in {given.into}\n")
    return LEFT_OUT if found.left_out else OK


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench.requery", description="Look the cells of runs up in another table.")
    parser.add_argument("folder", metavar="FOLDER", help="results folder of bench.run")
    parser.add_argument("--into", required=True, metavar="FOLDER", help="another folder, that gets the runs")
    parser.add_argument("--table", metavar="FILE", help="default: for each run the table that bench.run would find")
    parser.add_argument(
        "--budget", type=positive, help="training epochs of the accuracies; default: the most there are"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
