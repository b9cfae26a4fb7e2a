"""Augmentation of stacked images on their device: random crop, mirror image, cutout.

The order is that of the searches' reference code: crop and mirror the raw image (so that the padding is black, not the
mean colour), normalise, then cutout (so that the hole is zero, the mean colour). Draws are made on the host, one
generator a replica, and are the same on every device; applying them is indexing and masking and waits for nothing.

Source of cutout: DeVries and Taylor (2017), Improved Regularization of Convolutional Neural Networks with Cutout,
https://arxiv.org/abs/1708.04552.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images; defaults of the searches on CIFAR-10 without cutout.

    Attributes:
        padding: width in pixels of the black border that images are cropped from.
        flip: true mirrors half of the images.
        cutout_length: side in pixels of the hole, 0 for none; it may reach over the image's edge.
    """

    padding: int = 4
    flip: bool = True
    cutout_length: int = 0


def published(dataset: str) -> Augmentation:
    """Return what is done to a dataset's training images in searches and in NAS-Bench-201 (section 2.3 there)."""
    return Augmentation(padding=2 if dataset == "imagenet16" else 4)


class Draws(NamedTuple):
    """What was drawn for a batch.

    Attributes:
        offsets: row and column of the crop's corner in the padded image.
        flips: whether the crop is mirrored.
        centres: row and column of the hole's centre.
        holes: whether the image gets a hole.
    """

    offsets: Int64[Tensor, "replicas n 2"]
    flips: Bool[Tensor, "replicas n"]
    centres: Int64[Tensor, "replicas n 2"]
    holes: Bool[Tensor, "replicas n"]

    def to(self, device: torch.device) -> "Draws":
        """Return the draws on a device, without waiting for it."""
        return Draws(*(drawn.to(device, non_blocking=True) for drawn in self))


def ramp(epoch: int, epochs: int) -> float:
    """Return the probability of cutout: from 0 in epoch 0 linearly to 1 in the last, epoch `epochs - 1`."""
    return epoch / max(1, epochs - 1)


def draw(
    streams: tuple[torch.Generator, ...],
    n: int,
    augmentation: Augmentation,
    height_width: tuple[int, int],
    cutout_probability: float,
) -> Draws:
    """Return draws for `n` images of each replica, on the CPU."""
    drawn = [_draw_one(stream, n, augmentation, height_width, cutout_probability) for stream in streams]
    return Draws(*(torch.stack(part) for part in zip(*drawn, strict=True)))


def _draw_one(
    stream: torch.Generator,
    n: int,
    augmentation: Augmentation,
    height_width: tuple[int, int],
    cutout_probability: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one replica's draws; the same numbers are drawn whatever is switched on."""
    offsets = torch.randint(0, 2 * augmentation.padding + 1, (n, 2), generator=stream)
    flips = (torch.rand(n, generator=stream) < 0.5) & augmentation.flip
    centres = torch.stack([torch.randint(0, side, (n,), generator=stream) for side in height_width], dim=1)
    holes = torch.rand(n, generator=stream) < cutout_probability
    return offsets, flips, centres, holes


def normalise(
    raw: UInt8[Tensor, "*n c h w"], mean: Float[Tensor, "c 1 1"], std: Float[Tensor, "c 1 1"]
) -> Float[Tensor, "*n c h w"]:
    """Return (raw / 255 - mean) / std in the type of `mean`."""
    return raw.to(mean.dtype).div_(255).sub_(mean).div_(std)


def apply(
    raw: UInt8[Tensor, "replicas n c h w"],
    draws: Draws,
    augmentation: Augmentation,
    normalised: Callable[[UInt8[Tensor, "replicas n c h w"]], Float[Tensor, "replicas n c h w"]],
) -> Float[Tensor, "replicas n c h w"]:
    """Return cropped, mirrored, normalised images with holes, in this order; the draws are on the images' device."""
    return cutout(normalised(crop(raw, draws, augmentation)), draws, augmentation)


def crop(
    raw: UInt8[Tensor, "replicas n c h w"], draws: Draws, augmentation: Augmentation
) -> UInt8[Tensor, "replicas n c h w"]:
    """Return a crop of the original size out of each image with a black border, mirrored where drawn."""
    replicas, n, c, h, w = raw.shape
    top, left = (draws.offsets - augmentation.padding).unbind(-1)
    rows = torch.arange(h, device=raw.device) + top[..., None]
    columns = torch.arange(w, device=raw.device).expand(replicas, n, w)
    columns = torch.where(draws.flips[..., None], columns.flip(-1), columns) + left[..., None]
    inside = _within(rows, h)[..., :, None] & _within(columns, w)[..., None, :]
    taken = raw.gather(3, rows.clamp(0, h - 1)[:, :, None, :, None].expand(-1, -1, c, -1, w))
    taken = taken.gather(4, columns.clamp(0, w - 1)[:, :, None, None, :].expand(-1, -1, c, h, -1))
    return taken * inside[:, :, None]


def cutout(
    images: Float[Tensor, "replicas n c h w"], draws: Draws, augmentation: Augmentation
) -> Float[Tensor, "replicas n c h w"]:
    """Return the images with a square of zeros around the centre where drawn, cut off at the image's edge."""
    length = augmentation.cutout_length
    if length == 0:
        return images
    top, left = (draws.centres - length // 2).unbind(-1)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    hole = (
        _within(rows - top[..., None], length)[..., :, None] & _within(columns - left[..., None], length)[..., None, :]
    )
    return images.masked_fill((hole & draws.holes[..., None, None])[:, :, None], 0)


def _within(positions: Int64[Tensor, "replicas n side"], bound: int) -> Bool[Tensor, "replicas n side"]:
    return (positions >= 0) & (positions < bound)
