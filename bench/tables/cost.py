"""Parameters and multiply-adds of a discrete cell's network."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.spaces.base import Genotype, NetworkSize, Space, discrete_choices
from searchers._optim import touched
from searchers.base import SupernetOptions


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        params: weights that the cell uses, stem and head included.
        flops: multiply-adds of convolutions and products for one image, as NAS-Bench-201 counts them.
    """

    params: int
    flops: int


def cost(space: Space, genotype: Genotype, size: NetworkSize, side: int) -> Cost:
    """Return the cost of one cell's network on images of `side`²; everything that no output needs is left out."""
    network = space.supernet(size, 1, SupernetOptions())
    assert isinstance(network, torch.nn.Module)
    parameters = dict(network.named_parameters())
    choices = discrete_choices(space.groups, [genotype], next(iter(parameters.values())))
    used = touched(network, choices, list(parameters))[0]
    params = sum(values.numel() for values, needed in zip(parameters.values(), used, strict=True) if needed)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, size.image_channels, side, side), choices)
    return Cost(params, counter.get_total_flops() // 4)  # two images, two operations a multiply-add
