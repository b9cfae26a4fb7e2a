"""The sets of kernels that a pass is computed with: one is fast to differentiate once, another twice.

Outputs are the same to the bit and derivatives to rounding, those of second order too. torch's own operations are
recorded without Python in their graph: a step of both levels of DARTS takes .8 (R = 1) and .86 (R = 4) of the time that
it takes with those written by hand, whose second derivatives in turn take a fraction of torch's.

Others, for a GPU, are written in Triton (`bench.fused`): mixed operations as one function, and convolutions; their
numbers are those of the first to rounding.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.batch_norm import batch_norm, torch_batch_norm
from bench.convolution import convolution, torch_convolution
from bench.mixture import Branch, Factors, mixture, torch_mixture

NAMES = ("torch", "triton", "triton-all")
"""Of the sets for passes that are differentiated once: the second has mixed operations, the third convolutions too."""

Mixed = Callable[[Sequence[Sequence[Factors]], Sequence[Branch], int], tuple[Tensor, ...]]
"""The factors of every branch, for every edge; the branches; replicas. Returns the mixture of every edge."""


@dataclass(frozen=True)
class Kernels:
    """Batch normalisation, grouped convolution and weighted sum, each over all replicas of a map.

    Attributes:
        name: of the set, as options call it.
        mixed: normalisation, ReLU, weights and sum of mixed operations as one; None: each by itself.
    """

    batch_norm: Callable[..., Tensor]
    convolution: Callable[..., Tensor]
    mixture: Callable[..., Tensor]
    name: str = "torch"
    mixed: Mixed | None = None


ONCE = Kernels(torch_batch_norm, torch_convolution, torch_mixture)
"""For what is differentiated once at most."""
TWICE = Kernels(batch_norm, convolution, mixture)
"""For what is differentiated twice."""


def of(name: str) -> Kernels:
    """Return the kernels of passes that are differentiated once at most.

    Raises:
        ValueError: they are Triton's, which is not there.
    """
    if name == "torch":
        return ONCE
    if importlib.util.find_spec("triton") is None:
        raise ValueError(f"expected the package triton for --kernels {name}: pip install 'nas-stability[triton]'")
    from bench.fused import convolution as own
    from bench.fused.mixed import mixed, mixture

    convolve = own.convolution if name == "triton-all" else torch_convolution
    return Kernels(torch_batch_norm, convolve, mixture, name, mixed)


def check(name: str, device: torch.device) -> None:
    """Raise where kernels of that name cannot run.

    Raises:
        ValueError: they are Triton's, and it is not there, or the device is no GPU and Triton does not interpret.
    """
    if name != "torch" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"expected a GPU for --kernels {name}, got {device}: leave it out there")
    of(name)
