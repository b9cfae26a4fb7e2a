"""Parameters and multiply-adds of a discrete cell's network."""

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.spaces.base import Genotype, NetworkSize, Space, discrete_choices
from searchers._touched import touched
from searchers.base import SupernetOptions


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        params: weights that the cell uses, stem and head included.
        flops: multiply-adds of convolutions and products for one image, as NAS-Bench-201 counts them.
    """

    params: int
    flops: int


class Counter(TorchDispatchMode):
    """Adds up the operations of convolutions and products by torch's own formulas.

    torch's `FlopCounterMode` also keeps the counts of every module, which takes a hundred times as long as counting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        self.total += formula(*args, **kwargs, out_val=out) if formula is not None else 0
        return out


def cost(space: Space, genotype: Genotype, size: NetworkSize, side: int) -> Cost:
    """Return the cost of one cell's network on images of `side`²; everything that no output needs is left out."""
    network = space.supernet(size, 1, SupernetOptions())
    assert isinstance(network, torch.nn.Module)
    parameters = dict(network.named_parameters())
    choices = discrete_choices(space.groups, [genotype], next(iter(parameters.values())))
    used = touched(network, choices, list(parameters))[0]
    params = sum(values.numel() for values, needed in zip(parameters.values(), used, strict=True) if needed)
    with torch.no_grad(), Counter() as counter:
        network(torch.zeros(1, 2, size.image_channels, side, side), choices)
    return Cost(params, counter.total // 4)  # two images, two operations a multiply-add
