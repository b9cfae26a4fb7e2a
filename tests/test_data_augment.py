"""Augmentation equals a slow reference that treats one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import augment
from bench.data.augment import Augmentation, Draws
from bench.rng import torch_stream

MEAN = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)[:, None, None]
STD = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)[:, None, None]


def normalised(raw: torch.Tensor) -> torch.Tensor:
    return augment.normalise(raw, MEAN, STD)


def streams(*seeds: int) -> tuple[torch.Generator, ...]:
    return tuple(torch_stream(seed, "augment/train", 3) for seed in seeds)


def slow(raw: torch.Tensor, draws: Draws, augmentation: Augmentation, at: tuple[int, int]) -> np.ndarray:
    """Treat image `at` = (replica, number) alone: pad, cut, mirror, normalise, dig the hole pixel by pixel."""
    image = raw[at].numpy()
    _, h, w = image.shape
    border = augmentation.padding
    padded = np.pad(image, ((0, 0), (border, border), (border, border)))
    top, left = draws.offsets[at].tolist()
    cut = padded[:, top : top + h, left : left + w]
    cut = cut[:, :, ::-1] if draws.flips[at] else cut
    out = (cut / 255 - MEAN.numpy()) / STD.numpy()
    if draws.holes[at] and augmentation.cutout_length:
        row, column = (int(centre) - augmentation.cutout_length // 2 for centre in draws.centres[at])
        for i in range(max(row, 0), min(row + augmentation.cutout_length, h)):
            for j in range(max(column, 0), min(column + augmentation.cutout_length, w)):
                out[:, i, j] = 0
    return out


@settings(max_examples=40, deadline=None)
@given(
    padding=st.integers(0, 3),
    flip=st.booleans(),
    length=st.integers(0, 5),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    seed=st.integers(0, 1000),
)
def test_equals_the_slow_reference(padding: int, flip: bool, length: int, size: tuple[int, int], seed: int) -> None:
    augmentation = Augmentation(padding, flip, length)
    raw = torch.randint(1, 256, (2, 3, 3, *size), dtype=torch.uint8, generator=torch_stream(seed, "images", 0))
    draws = augment.draw(streams(seed, seed + 1), 3, augmentation, size, 0.5)
    out = augment.apply(raw, draws, augmentation, normalised)
    for at in np.ndindex(2, 3):
        np.testing.assert_allclose(out[at].numpy(), slow(raw, draws, augmentation, at), rtol=0, atol=1e-15)


def test_border_is_black_and_hole_is_the_mean_colour() -> None:
    raw = torch.full((1, 1, 3, 4, 4), 255, dtype=torch.uint8)
    draws = Draws(torch.tensor([[[0, 2]]]), torch.tensor([[False]]), torch.tensor([[[3, 3]]]), torch.tensor([[True]]))
    out = augment.apply(raw, draws, Augmentation(padding=1, cutout_length=2), normalised)[0, 0, 0]
    black, white = (0 - 0.5) / 0.25, (1 - 0.5) / 0.25
    expected = [[black] * 4, *[[white, white, white, black]] * 1, [white, white, 0, 0], [white, white, 0, 0]]
    assert out.tolist() == expected


def test_draws_cover_every_offset_and_both_mirror_images() -> None:
    draws = augment.draw(streams(0), 2000, Augmentation(2, True, 4), (5, 3), 0.25)
    assert draws.offsets.flatten(0, 1).unique(dim=0).shape[0] == 25
    assert draws.offsets.max() == 4
    assert 0.45 < draws.flips.double().mean() < 0.55
    assert 0.2 < draws.holes.double().mean() < 0.3
    assert draws.centres.flatten(0, 1).unique(dim=0).shape[0] == 15
    assert draws.centres.amax((0, 1)).tolist() == [4, 2]


@pytest.mark.parametrize(("probability", "holes"), [(0.0, 0), (1.0, 50)])
def test_cutout_probability_at_its_ends(probability: float, holes: int) -> None:
    assert augment.draw(streams(0), 50, Augmentation(), (4, 4), probability).holes.sum() == holes


def test_settings_do_not_shift_the_other_draws() -> None:
    plain = augment.draw(streams(5), 8, Augmentation(flip=False), (4, 4), 0.0)
    full = augment.draw(streams(5), 8, Augmentation(flip=True, cutout_length=2), (4, 4), 1.0)
    assert not plain.flips.any()
    assert full.flips.any()
    assert torch.equal(plain.offsets, full.offsets)
    assert torch.equal(plain.centres, full.centres)


def test_replicas_draw_from_their_own_streams() -> None:
    together = augment.draw(streams(7, 8), 6, Augmentation(), (8, 8), 0.5)
    for r, seed in enumerate((7, 8)):
        alone = augment.draw(streams(seed), 6, Augmentation(), (8, 8), 0.5)
        assert all(torch.equal(a[r], b[0]) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together.offsets[0], together.offsets[1])


def test_raw_images_are_not_changed() -> None:
    raw = torch.randint(0, 256, (1, 4, 3, 6, 6), dtype=torch.uint8, generator=torch_stream(0, "images", 0))
    before = raw.clone()
    augmentation = Augmentation(cutout_length=3)
    augment.apply(raw, augment.draw(streams(1), 4, augmentation, (6, 6), 1.0), augmentation, normalised)
    assert torch.equal(raw, before)


def test_cutout_ramps_from_nothing_to_always() -> None:
    assert [augment.ramp(epoch, 5) for epoch in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert augment.ramp(0, 1) == 0
