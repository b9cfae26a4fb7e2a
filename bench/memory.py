"""How much memory a search may take, how much it has taken, and what it looks like when there is no more."""

import os
import resource
import sys
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CONTAINER = Path("/sys/fs/cgroup")


def peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: of this process on a CPU; on a GPU what torch had allocated since it was reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def held_bytes(device: torch.device) -> int:
    """Return the most GPU memory that torch has held since it was reset; a graph holds what it uses while it lives."""
    return torch.cuda.max_memory_reserved(device)


def limit_bytes(device: torch.device) -> int:
    """Return the most that `peak_bytes` can become: what is free, and what this process has already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return min(_machine(), _container())


def out_of_memory(error: Exception) -> bool:
    """Return whether it is the device's memory, or the host's, that an allocation did not fit into."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _machine() -> int:
    available = _kib(MEMINFO, "MemAvailable:")
    if available is None:  # no Linux: what is installed
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return available + (_kib(STATUS, "VmRSS:") or 0)


def _container() -> int:
    """Return the same of the control group this process is in, where one is limited and tells it."""
    limit, used = CONTAINER / "memory.max", CONTAINER / "memory.current"
    told = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    if not told.isdecimal() or not used.exists():
        return sys.maxsize
    mine = _kib(STATUS, "VmRSS:") or 0
    return int(told) - int(used.read_text(encoding="utf-8")) + mine


def _kib(path: Path, name: str) -> int | None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]
    return values[0] if values else None
