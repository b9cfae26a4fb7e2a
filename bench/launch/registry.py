"""The launchers by name; one line each."""

from collections.abc import Callable, Mapping

from bench.cores import Share
from bench.launch import ray, slurm
from bench.launch.local import Local
from bench.launch.unit import Launcher
from bench.launch.work import InProcess, Worker
from bench.request import Request


def _local(request: Request, worker: Worker, share: Share) -> Launcher:
    return InProcess(worker) if share.jobs == 1 else Local(request, worker, share)


def _ray(request: Request, worker: Worker, _share: Share) -> Launcher:
    return ray.OnRay(worker, request.address, request.unit_cpus, request.unit_gpus, request.shared, request.retries)


def _slurm(request: Request, worker: Worker, _share: Share) -> Launcher:
    return slurm.OnSlurm(request, worker)


LAUNCHERS: Mapping[str, Callable[[Request, Worker, Share], Launcher]] = {
    "local": _local,
    "ray": _ray,
    "slurm": _slurm,
}
"""Each is made of the command's request, of this process's worker, which has the data loaded, and of what this machine
has for it."""


CHECKS: Mapping[str, Callable[[Request], None]] = {"ray": ray.check, "slurm": slurm.check}


def check(request: Request) -> None:
    """Raise where the launcher cannot be used.

    Raises:
        ValueError: a package or a program is missing, or an option does not fit.
    """
    if request.launcher in CHECKS:
        CHECKS[request.launcher](request)


def choose(request: Request, worker: Worker, share: Share) -> Launcher:
    """Return the launcher that was asked for."""
    return LAUNCHERS[request.launcher](request, worker, share)
