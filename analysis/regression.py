"""Compare runs with a baseline: python -m analysis.regression --baseline FILE --results DIR [--update].

Exit code 0: all agree; 1: a regression; 2: not comparable, or nothing measured; 3: an error, such as an unreadable
baseline. Writes junit.xml, summary.md and verdict.json. `--update` writes the baseline from the runs instead; entries
that it has no runs for stay. `analysis/_compare.py` has the rule, docs/ci.md its error rates.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from analysis import _baseline, _command, _compare, _files, _verdict
from analysis.load import runs, tidy
from analysis.selection import select
from analysis.series import generator

log = logging.getLogger(__name__)
ERROR = 3


class Absent(ValueError):
    """There is nothing to compare."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # the parser ends with 2, which means something else here
        return ERROR if stop.code else 0
    try:
        return _update(options) if options.update else _check(options)
    except Absent as absent:
        sys.stderr.write(f"analysis.regression: {absent}\n")
        return 2
    except (OSError, ValueError) as error:
        sys.stderr.write(f"analysis.regression: {error}\n")
        return ERROR
    except Exception:
        log.exception("analysis.regression: unexpected error")  # Python's own exit code 1 would mean a regression
        return ERROR


def _check(options: argparse.Namespace) -> int:
    limits = _limits(options)
    if not options.baseline.is_file():
        raise ValueError(f"expected a baseline file, got {options.baseline}; write one with --update")
    before = _wanted(_baseline.load(options.baseline), options)
    verdict = _compare.compare(before, _measured(options), limits, generator())
    _files.put(options.out / "junit.xml", _verdict.junit(verdict))
    _files.put(options.out / "verdict.json", _verdict.as_json(verdict))
    _files.put(options.out / "summary.md", _verdict.markdown(verdict))
    sys.stdout.write(_verdict.markdown(verdict))
    return verdict.code


def _update(options: argparse.Namespace) -> int:
    measured = _measured(options)
    kept = _baseline.load(options.baseline) if options.baseline.exists() else {}
    _files.put(options.baseline, _baseline.dumped(kept | measured))
    for space, label in sorted(measured):
        count = len(measured[space, label].seeds)
        sys.stdout.write(f"{options.baseline}: {label} on {space}, {count} seed{'s' if count > 1 else ''}\n")
    return 0


def _measured(options: argparse.Namespace) -> dict[_baseline.Name, _baseline.Entry]:
    """Return the entries of the chosen runs.

    Raises:
        Absent: there are none that have finished, or they must not stand together.
    """
    found = runs(options.results)
    if not any(run.finished and run.records for run in found):
        raise Absent(f"no finished runs under {options.results / 'runs'}; python -m bench.run makes some")
    try:
        spaces, methods = _command.names(options.space), _command.methods(options)
        chosen = select(tidy(found), spaces, methods, _command.where(options))
    except ValueError as error:
        raise Absent(str(error)) from error
    return _baseline.summarise(chosen, found)


def _wanted(entries: dict[_baseline.Name, _baseline.Entry], options: argparse.Namespace) -> dict:
    """Return the entries of the chosen spaces and methods.

    Raises:
        Absent: the baseline has none of them.
    """
    spaces, methods = _command.names(options.space), _command.methods(options)
    found = {
        (space, label): entry
        for (space, label), entry in entries.items()
        if (not spaces or space in spaces) and (not methods or label.split("[")[0] in methods)
    }
    if not found:
        raise Absent(f"{options.baseline} has no entry of the chosen spaces and methods; write one with --update")
    return found


def _limits(options: argparse.Namespace) -> _compare.Limits:
    return _compare.Limits(**{field.name: getattr(options, field.name) for field in fields(_compare.Limits)})


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser("regression", "Compare runs with a baseline.", "regression")
    parser.add_argument("--baseline", type=Path, required=True, help="file to compare with, or to write")
    parser.add_argument("--update", action="store_true", help="write the baseline from the runs")
    default = _compare.Limits()
    for name, words in LIMITS.items():
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{words}; default: {value:g}")
    return parser


LIMITS = {
    "alpha": "probability of any false alarm",
    "factor": "of |λ| that counts as a change",
    "regret": "change of the mean regret that counts, a fraction",
    "share": "change of the share of misses that counts, a fraction",
    "seeds": "fewest seeds that are compared",
    "permutations": "drawn a test",
}


if __name__ == "__main__":
    sys.exit(main())
