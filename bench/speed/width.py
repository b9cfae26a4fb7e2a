"""The papers' batch, channels and probe with one cell a stage, on noise of CIFAR-10's shape: nothing to prepare.

Seconds of a step do not depend on what the images show. How many products a measurement of λ takes may. Of the
request's options only the space, the device, the precision, the kernels and how λ is measured are taken over.
"""

from dataclasses import replace

import torch

from bench import choice, kernels, precision, replay, spaces
from bench.data import splits
from bench.data.types import Dataset, ImageSet
from bench.presets import SEARCH_IMAGES, paper
from bench.request import Request
from bench.rng import torch_stream
from bench.setup import Bench

SIDE, CLASSES = 32, 10


def prepare(request: Request) -> Bench:
    """Return a bench of that size on the request's space and device."""
    space = spaces.get(request.space)
    preset = replace(paper(space.name), cells=1, dataset="noise", split_rule="first_second")
    preset = preset if request.curvature is None else replace(preset, curvature=request.curvature)
    asked = replace(request, benchmark="paper", table="none")
    device, why = choice.choose_device(request.device), "the papers' width"
    precision.check(request.precision, device)
    replay.check(request.cuda_graphs, device)
    kernels.check(request.kernels, device)
    return Bench(asked, space, preset, noise(preset.train_size), "noise", None, device, why)


def noise(images: int = SEARCH_IMAGES["first_second"]["cifar10"]) -> Dataset:
    """Return images of noise in two halves, every class as often as any other."""
    stream = torch_stream(0, "speed", 0)
    pixels = torch.randint(0, 256, (images, 3, SIDE, SIDE), generator=stream, dtype=torch.uint8)
    pool = ImageSet(pixels, torch.arange(images) % CLASSES)
    middle, spread = (0.5,) * 3, (0.29,) * 3
    return Dataset("noise", pool, *splits.first_second(images), None, None, CLASSES, middle, spread, flip=True)
