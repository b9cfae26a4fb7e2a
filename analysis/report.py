"""Write a report of results: python -m analysis.report [--results results] [--out report].

One HTML file, report.html, with every figure as inline SVG, tables that sort and filter, protocol, warnings, runs and
environments. Where runs of one space are of several datasets, each has figures and tables of its own. It loads nothing
from anywhere. Equal records give equal bytes in the same environment. Exit code 2 with
one sentence when there is nothing to report or the runs must not stand together.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

import pandas as pd

from analysis import _command, _html, _sections
from analysis._files import put
from analysis.load import runs, tidy


def document(options: argparse.Namespace) -> str:
    """Return the report of the chosen runs as HTML.

    Raises:
        ValueError: there are none, or they must not stand together.
    """
    found = runs(options.results)
    parts = _command.chosen_by_dataset(tidy(found), options)
    frame = pd.concat(list(parts.values()), ignore_index=True)
    names = set(frame["run"])
    shown = [run for run in found if run.folder.name in names]
    sections = [
        _sections.head(frame), _sections.protocol(parts), _sections.warnings(parts, shown), _sections.drawn(parts),
        _sections.tabulated(parts), _sections.every_run(parts), _sections.environments(shown),
    ]  # fmt: skip
    return _html.page("Stability of architecture search", "\n".join(sections))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _command.parser("report", "Write a report of results as one HTML file.", "report").parse_args(arguments)
    try:
        path = put(options.out / "report.html", document(options))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"analysis.report: {error}\n")
        return 2
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
