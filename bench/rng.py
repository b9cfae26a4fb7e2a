"""Named random streams: every draw is a pure function of (seed, stream name, step).

Nothing needs checkpointing, and a new consumer never shifts the draws of an old one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, name: str, step: int) -> int:
    """Return the 63-bit seed of a stream at a step."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_stream(seed: int, name: str, step: int) -> torch.Generator:
    """Return a CPU generator; draws are made on the host on every device, so that they are the same."""
    return torch.Generator().manual_seed(derive(seed, name, step))


@contextmanager
def global_stream(seed: int, name: str, step: int) -> Iterator[None]:
    """Seed torch's own generator for code of others that draws from it, and put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, name, step))
        yield


def numpy_stream(seed: int, name: str, step: int) -> np.random.Generator:
    """Return a numpy generator for work that needs no tensors."""
    return np.random.default_rng(derive(seed, name, step))
