"""The launchers by name; one line each."""

from collections.abc import Callable, Mapping

from bench.launch.unit import Launcher
from bench.launch.work import InProcess, Worker
from bench.request import Request


def _local(request: Request, worker: Worker) -> Launcher:
    return InProcess(worker)


LAUNCHERS: Mapping[str, Callable[[Request, Worker], Launcher]] = {"local": _local}
"""Each is made of the command's request and of this process's worker, which has the data loaded."""


def choose(request: Request, worker: Worker) -> Launcher:
    """Return the launcher that was asked for."""
    return LAUNCHERS[request.launcher](request, worker)
