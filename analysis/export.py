"""Write all records as one parquet file: python -m analysis.export [--results results] [--out FILE].

By default the file is `results`/records.parquet, from which the other commands then read what has not changed since.
Exit code 2 with one sentence when there is nothing to write.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis import _columnar, _command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = _parser().parse_args(arguments)
    out = options.out or options.results / _columnar.NAME
    try:
        if not (options.results / "runs").is_dir():
            raise ValueError(f"no runs under {options.results / 'runs'}; python -m bench.run makes some")
        frame = _columnar.export(options.results, out)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"analysis.export: {error}\n")
        return 2
    sys.stdout.write(f"{out}: {frame['run'].nunique()} runs, {len(frame)} records\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _command.Parser(
        prog="python -m analysis.export", description="Write all records as parquet.", allow_abbrev=False
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with runs/ in it")
    parser.add_argument("--out", type=Path, help=f"default: {_columnar.NAME} in the results folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
