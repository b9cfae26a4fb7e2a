"""A process that trains a share of a table: `python -m bench.tables.share`, started by `build`.

The end of its stdin means that whoever started it has gone: it ends at once, finished stacks stay.
"""

import os
import sys
import threading
from collections.abc import Sequence

from bench.tables.commands.building import train_share

STOPPED = 3


def main(arguments: Sequence[str]) -> int:
    """Train the share; a mistake is one sentence and exit code 2."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        train_share(arguments)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _end_with_stdin() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock the interpreter waits for when it ends
        pass
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
