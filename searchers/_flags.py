"""torch's switches of arithmetic, set for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

Switches = Mapping[tuple[str, str], bool]
"""Part of `torch.backends` and the name of its switch, to whether it is on."""
TF32 = (("cuda.matmul", "allow_tf32"), ("cudnn", "allow_tf32"))
EXACT: Switches = {**dict.fromkeys(TF32, False), ("cudnn", "deterministic"): True, ("cudnn", "benchmark"): False}
"""Neither TF32 nor kernels whose results differ from call to call."""


@contextmanager
def switched(wanted: Switches) -> Iterator[None]:
    """Set switches, and restore them."""
    owners = {"cuda.matmul": torch.backends.cuda.matmul, "cudnn": torch.backends.cudnn}
    places: list[tuple[Any, str, bool]] = [(owners[part], name, on) for (part, name), on in wanted.items()]
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, on in places:
            setattr(owner, name, on)
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
