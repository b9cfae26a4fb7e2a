"""Make one results folder of several: `python -m bench.merge A B … --into C`.

Runs are named by the hash of everything that decides their records, so the same name in two folders is the same run.
Where both have it, `records.jsonl` must agree to the byte, or the one must be the beginning of the other: the longer is
taken. Timing and environment may differ; those of the run that is taken stay together. A conflict is named, and neither
side is touched. Nothing is written over: files appear in C whole, or not at all. Interrupted runs come with the
checkpoint of their stack, where all of its runs come from one folder. Exit code 0: merged; 1: there are conflicts, the
rest was merged; 2: the request is wrong.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.command import WRONG, Parser
from bench.folders import merge

log = logging.getLogger(__name__)

OK, CONFLICTS = 0, 1


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    given = _parser().parse_args(arguments)
    sources, target = [Path(name) for name in given.folders], Path(given.into)
    try:
        copied, known, conflicts = merge(sources, target)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return WRONG
    for conflict in conflicts:
        log.error("conflict: %s", conflict)
    sys.stdout.write(f"{copied} runs copied, {known} were there already, {len(conflicts)} conflicts\n")
    return CONFLICTS if conflicts else OK


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench.merge", description="Make one results folder of several.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="results folders of bench.run")
    parser.add_argument("--into", required=True, metavar="FOLDER", help="the folder that gets all runs; may have some")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
