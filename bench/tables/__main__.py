"""Import, build, inspect, query, compare and export benchmark tables: `python -m bench.tables --help`."""

import argparse
import os
import sys
from collections.abc import Sequence

from bench.command import WRONG, Parser
from bench.tables.commands.building import BUILD
from bench.tables.commands.imports import EXPORT, IMPORT
from bench.tables.commands.info import INFO
from bench.tables.commands.measure import MEASURE, SAMPLE
from bench.tables.commands.query import QUERY
from bench.tables.commands.relate import RELATE
from bench.tables.commands.verify import VERIFY

CUT, INTERRUPTED = 141, 130
"""Exit codes where nobody reads on, as of a command that SIGPIPE ends, and of Ctrl-C."""

COMMANDS = {
    "import": IMPORT,
    "build": BUILD,
    "info": INFO,
    "query": QUERY,
    "verify": VERIFY,
    "relate": RELATE,
    "export": EXPORT,
    "sample": SAMPLE,
    "measure": MEASURE,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; a mistake is one sentence on stderr and exit code 2."""
    chosen = _parser().parse_args(arguments)
    try:
        code = COMMANDS[chosen.command].run(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: finished trainings of a table are kept, the same command goes on from them\n")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench.tables", description="Benchmark tables.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.arguments(commands.add_parser(name, help=command.summary, description=command.summary))
    return parser


if __name__ == "__main__":
    sys.exit(main())
