"""A process that searches units: `python -m bench.launch.worker`, started by the local launcher.

Each line on stdin is a unit, each line on stdout a moment or an outcome, as JSON. The end of stdin means that the
launcher has gone or wants it to stop: the process ends at once, the checkpoint of the last epoch stays.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TextIO

from bench import process
from bench.launch.unit import Moment, unit
from bench.launch.work import Worker

STOPPED = 3


def main(arguments: Sequence[str]) -> int:
    """Search what stdin asks for until it ends."""
    parser = argparse.ArgumentParser(prog="python -m bench.launch.worker", description=__doc__)
    parser.add_argument("--device", help="cpu, cuda:1; without: what the units ask for")
    parser.add_argument("--threads", type=int, required=True, help="CPU threads")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    process.begin(given.threads)
    answers = _own_stdout()
    orders: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    _serve(Worker(given.device), orders, answers)
    return STOPPED


def _serve(worker: Worker, orders: "SimpleQueue[str]", answers: TextIO) -> None:
    def watch(moment: Moment) -> None:
        _answer(answers, "moment", moment)

    while True:
        _answer(answers, "outcome", worker.search(unit(json.loads(orders.get())), watch))


def _answer(answers: TextIO, kind: str, content: object) -> None:
    assert dataclasses.is_dataclass(content)
    assert not isinstance(content, type)
    answers.write(json.dumps({kind: dataclasses.asdict(content)}) + "\n")
    answers.flush()


def _listen(orders: "SimpleQueue[str]") -> None:
    """Pass on what comes from the launcher; end with it, whatever the search is doing."""
    for line in sys.stdin:
        orders.put(line)
    os._exit(STOPPED)


def _own_stdout() -> TextIO:
    """Return the stdout that the launcher reads; what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
