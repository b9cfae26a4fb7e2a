"""The two sets of kernels that a pass is computed with: one is fast to differentiate once, the other twice.

Outputs are the same to the bit and derivatives to rounding, those of second order too. torch's own operations are
recorded without Python in their graph: a step of both levels of DARTS takes .8 (R = 1) and .86 (R = 4) of the time that
it takes with those written by hand, whose second derivatives in turn take a fraction of torch's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bench.batch_norm import batch_norm, torch_batch_norm
from bench.convolution import convolution, torch_convolution
from bench.mixture import mixture, torch_mixture


@dataclass(frozen=True)
class Kernels:
    """Batch normalisation, grouped convolution and weighted sum, each over all replicas of a map."""

    batch_norm: Callable[..., Tensor]
    convolution: Callable[..., Tensor]
    mixture: Callable[..., Tensor]


ONCE = Kernels(torch_batch_norm, torch_convolution, torch_mixture)
"""For what is differentiated once at most."""
TWICE = Kernels(batch_norm, convolution, mixture)
"""For what is differentiated twice."""
