"""Where a process runs, and what the bits of its records depend on."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

SAME_BITS = ("python", "versions", "device", "device_name", "threads", "revision")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow")


def environment(device: torch.device, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what bit-identity depends on beside the specification."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": sys.version.split()[0],
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "seeds": list(seeds),
        "revision": revision(),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what bit-identity depends on and is not the same; one GPU of a name is as good as another."""
    kinds = [{**found, "device": str(found["device"]).partition(":")[0]} for found in (before, now)]
    return [name for name in SAME_BITS if kinds[0][name] != kinds[1][name]]


def place(device: torch.device) -> dict[str, Any]:
    """Return where this process runs."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "device": str(device)}


def revision() -> str | None:
    """Return the git revision of the code, None outside a checkout."""
    try:
        root = Path(__file__).resolve().parent
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
