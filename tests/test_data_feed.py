"""What a search is served: orders, step counts, evaluation batches and probes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tape import Tapes

from bench.data import Dataset, ImageSet
from bench.data.augment import Augmentation
from bench.data.feed import Feed, FeedSettings
from bench.replay import Recorder
from searchers.base import Batch, DataPolicy, StepBatches

PLAIN = Augmentation(padding=0, flip=False)
CPU = torch.device("cpu")
HALVES, ALL = DataPolicy(), DataPolicy(split="all", val_batches=0)


def make_dataset(train: int, val: int, side: int = 2, flip: bool = True) -> Dataset:
    """Make images whose first three bytes spell their number; the halves are interleaved, label = number % 3."""
    n = train + val
    number = torch.arange(n)
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, :, 0, 0] = torch.stack([number // 65536, number // 256 % 256, number % 256], 1).to(torch.uint8)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    pool = ImageSet(images, number % 3)
    moments = (0.0,) * 3, (1.0,) * 3
    return Dataset("made", pool, order[:train], order[train:], None, None, 3, *moments, flip=flip)


def make_feed(
    dataset: Dataset,
    seeds: tuple[int, ...] = (0,),
    batch_size: int = 4,
    augmentation: Augmentation = PLAIN,
    recorder: Recorder | None = None,
) -> Feed:
    return Feed(dataset, seeds, FeedSettings(batch_size, augmentation, 5, False), CPU, torch.float64, recorder)


def numbers(batch: Batch, replica: int = 0) -> list[int]:
    """Return the numbers that un-augmented images spell."""
    red, green, blue = (batch.images[replica, :, :, 0, 0] * 255).round().long().T
    return (65536 * red + 256 * green + blue).tolist()


def flat(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


def served(steps: list[StepBatches], kind: str, replica: int = 0) -> list[list[int]]:
    return [numbers(batch, replica) for step in steps for batch in getattr(step, kind)]


def same(a: StepBatches, b: StepBatches, replica: int) -> bool:
    pairs = [*zip(a.train, b.train, strict=True), *zip(a.val, b.val, strict=True)]
    return all(torch.equal(x[replica], y[0]) for s, t in pairs for x, y in zip(s, t, strict=True))


def test_cifar10_s_half_at_batch_96_is_261_steps_the_last_of_40_images() -> None:
    feed = make_feed(make_dataset(25000, 25000, side=1), batch_size=96)
    steps = list(feed.epoch(HALVES, 0, 1))
    assert feed.steps_per_epoch(HALVES, 0) == len(steps) == 261
    assert [step.train[0].images.shape[1] for step in steps[-2:]] == [96, 40]
    assert [step.val[0].images.shape[1] for step in steps[-2:]] == [96, 40]


@settings(max_examples=60, deadline=None)
@given(train=st.integers(2, 30), val=st.integers(2, 30), size=st.integers(2, 9), per_step=st.integers(1, 3))
def test_an_epoch_has_as_many_whole_steps_as_promised(train: int, val: int, size: int, per_step: int) -> None:
    feed = make_feed(make_dataset(train, val), batch_size=size)
    policy = DataPolicy(train_batches=per_step, val_batches=2)
    expected = len([chunk for chunk in torch.arange(train).split(size) if len(chunk) > 1]) // per_step
    if expected == 0:
        with pytest.raises(ValueError, match=f"step of {per_step} batches of {size}, got {train}"):
            feed.steps_per_epoch(policy, 0)
        return
    steps = list(feed.epoch(policy, 0, 1))
    assert feed.steps_per_epoch(policy, 0) == len(steps) == expected
    assert all(len(step.train) == per_step and len(step.val) == 2 for step in steps)
    assert all(2 <= len(batch) <= size for kind in ("train", "val") for batch in served(steps, kind))


def test_each_training_image_is_served_once_with_its_label() -> None:
    dataset = make_dataset(11, 10)
    steps = list(make_feed(dataset).epoch(HALVES, 0, 1))
    assert sorted(flat(served(steps, "train"))) == sorted(dataset.train_indices.tolist())
    assert sorted(flat(served(steps, "val"))) == sorted(dataset.val_indices.tolist())
    for step in steps:
        assert [n % 3 for n in numbers(step.train[0])] == step.train[0].labels[0].tolist()


def test_split_all_is_both_halves_and_no_validation_batches() -> None:
    dataset = make_dataset(11, 9)
    steps = list(make_feed(dataset).epoch(replace(ALL, val_batches=1), 0, 1))
    assert sorted(flat(served(steps, "train"))) == list(range(20))
    assert all(step.val == () for step in steps)


def test_validation_wraps_around_with_a_second_permutation() -> None:
    dataset = make_dataset(24, 9)
    val = served(list(make_feed(dataset).epoch(HALVES, 0, 1)), "val")
    assert [len(batch) for batch in val] == [4] * 6
    first, second, third = (val[i] + val[i + 1] for i in (0, 2, 4))
    assert all(
        len(set(part)) == 8 and set(part) <= set(dataset.val_indices.tolist()) for part in (first, second, third)
    )
    assert first != second != third


def test_validation_order_does_not_depend_on_how_often_it_wraps() -> None:
    dataset = make_dataset(24, 9)
    once = served(list(make_feed(dataset).epoch(HALVES, 0, 1)), "val")
    twice = served(list(make_feed(dataset).epoch(DataPolicy(val_batches=2), 0, 1)), "val")
    assert twice[:6] == once


def test_orders_differ_between_epochs_seeds_and_halves() -> None:
    feed = make_feed(make_dataset(12, 12), seeds=(0, 1))
    first, second = (list(feed.epoch(HALVES, epoch, 2)) for epoch in (0, 1))
    assert served(first, "train") != served(second, "train")
    assert served(first, "val") != served(second, "val")
    assert served(first, "train", 0) != served(first, "train", 1)
    position = {n: i for half in (feed._halves["train"], feed._halves["val"]) for i, n in enumerate(half.tolist())}
    places = [[position[n] for n in flat(served(first, kind))] for kind in ("train", "val")]
    assert places[0] != places[1]


def test_policy_sets_the_batch_size_of_an_epoch() -> None:
    feed = make_feed(make_dataset(20, 20))
    policy = DataPolicy(batch_size=lambda epoch, base: base * (1 + epoch))
    assert [feed.steps_per_epoch(policy, epoch) for epoch in (0, 1)] == [5, 3]
    assert [len(batch) for batch in served(list(feed.epoch(policy, 1, 2)), "train")] == [8, 8, 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_replica_sees_the_same_bits_stacked_or_alone(dtype: torch.dtype) -> None:
    dataset = make_dataset(13, 7, side=8)
    policy = DataPolicy(train_batches=2, val_batches=3)
    given = FeedSettings(4, Augmentation(2, True, 3), 5, True)
    stacked = Feed(dataset, (3, 1, 2), given, CPU, dtype)
    for r, seed in enumerate((3, 1, 2)):
        alone = Feed(dataset, (seed,), given, CPU, dtype)
        pairs = zip(stacked.epoch(policy, 1, 3), alone.epoch(policy, 1, 3), strict=True)
        assert all(same(a, b, r) for a, b in pairs)
        assert torch.equal(stacked.legacy_probe(1, 3).images[r], alone.legacy_probe(1, 3).images[0])


def test_validation_images_are_augmented_too_and_not_like_the_training_images() -> None:
    dataset = make_dataset(8, 8, side=8)
    dataset = replace(dataset, val_indices=dataset.train_indices)
    plain, moved = (make_feed(dataset, batch_size=8, augmentation=a) for a in (PLAIN, Augmentation(3, True, 0)))
    a, b = next(plain.epoch(HALVES, 0, 1)), next(moved.epoch(HALVES, 0, 1))
    assert torch.equal(a.val[0].labels, b.val[0].labels)
    assert not torch.equal(a.val[0].images, b.val[0].images)
    shifts = [
        (x.images[0].sum((1, 2, 3)) - y.images[0].sum((1, 2, 3)))
        for x, y in ((a.val[0], b.val[0]), (a.train[0], b.train[0]))
    ]
    assert not torch.equal(shifts[0], shifts[1])


def test_augmentation_differs_between_steps() -> None:
    dataset = make_dataset(2, 2, side=8)
    feed = make_feed(dataset, batch_size=2, augmentation=Augmentation(3, True, 0))
    drawn = [feed._drawn("train", dataset.train_indices[None], step, 0.0) for step in range(5)]
    seen = {tuple(feed._augmented(*draws)[0].flatten().tolist()) for draws in drawn}
    assert len(seen) == 5


def test_steps_and_epochs_count_into_one_augmentation_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, int]] = []
    feed = make_feed(make_dataset(8, 8), seeds=(5,))
    from bench.data import feed as module

    original = module.torch_stream
    monkeypatch.setattr(module, "torch_stream", lambda *key: asked.append(key) or original(*key))
    list(feed.epoch(HALVES, 2, 3))
    assert Counter(asked) == Counter(
        [(5, f"order/{kind}", 2) for kind in ("train", "val")]
        + [(5, f"augment/{kind}", 2_000_000 + i) for kind in ("train", "val") for i in range(2)]
    )


@pytest.mark.parametrize(("allowed", "seen"), [(True, 2), (False, 1)])
def test_images_are_mirrored_only_where_the_dataset_allows_it(allowed: bool, seen: int) -> None:
    feed = make_feed(make_dataset(2, 2, side=6, flip=allowed), batch_size=2, augmentation=Augmentation(0, True, 0))
    first = [next(feed.epoch(HALVES, epoch, 1)).train[0] for epoch in range(20)]
    views = {
        tuple(b.images[0, i].flatten().tolist()) for b in first for i in range(2) if b.labels[0, i] == b.labels[0].min()
    }
    assert len(views) == seen


@pytest.mark.parametrize(("ramped", "holes"), [(True, [0, 12]), (False, [12, 12])])
def test_cutout_is_ramped_over_the_epochs_if_asked(ramped: bool, holes: list[int]) -> None:
    dataset = replace(make_dataset(12, 12, side=4), mean=(2.0,) * 3)
    feed = Feed(dataset, (0,), FeedSettings(12, Augmentation(0, False, 2), 5, ramped), CPU, torch.float64)
    batches = [next(feed.epoch(HALVES, epoch, 2)).train[0] for epoch in (0, 1)]
    assert [int((batch.images[0] == 0).flatten(1).any(1).sum()) for batch in batches] == holes


def test_images_are_normalised_by_channel_in_the_feed_s_type() -> None:
    dataset = replace(make_dataset(4, 4), mean=(0.5, 0.25, 0.125), std=(0.25, 0.5, 0.75))
    feed = Feed(dataset, (0,), FeedSettings(4, PLAIN, 5, False), CPU, torch.float32)
    batch = next(feed.evaluation("train"))
    raw = dataset.search.images[dataset.train_indices].double() / 255
    expected = (raw - torch.tensor(dataset.mean)[:, None, None]) / torch.tensor(dataset.std)[:, None, None]
    assert batch.images.dtype == torch.float32
    torch.testing.assert_close(batch.images[0].double(), expected, rtol=0, atol=1e-6)


def test_evaluation_serves_the_half_once_in_order_uncopied() -> None:
    dataset = make_dataset(11, 9)
    feed = make_feed(dataset, seeds=(0, 1), augmentation=Augmentation(1, True, 1))
    batches = list(feed.evaluation("train"))
    assert [len(numbers(batch)) for batch in batches] == [4, 4, 3]
    assert flat(numbers(batch, 1) for batch in batches) == dataset.train_indices.tolist()
    assert batches[0].images.stride(0) == batches[0].labels.stride(0) == 0
    assert flat(batch.labels[0].tolist() for batch in batches) == [n % 3 for n in dataset.train_indices.tolist()]


def test_evaluation_of_numbered_batches_wraps_around() -> None:
    feed = make_feed(make_dataset(11, 9))
    once = [numbers(batch) for batch in feed.evaluation("val")]
    assert len(once) == 2
    assert [numbers(batch) for batch in feed.evaluation("val", range(3, 6))] == [once[1], once[0], once[1]]


def test_evaluation_of_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'train', 'val'.*got 'test'"):
        make_feed(make_dataset(4, 4)).evaluation("test")


def test_probe_is_balanced_un_augmented_and_the_same_for_all_seeds() -> None:
    dataset = make_dataset(20, 40)
    feeds = [make_feed(dataset, seeds, augmentation=Augmentation(1, True, 1)) for seeds in ((0, 1), (9,))]
    first, second = (feed.probe(12) for feed in feeds)
    assert first.labels[0].bincount().tolist() == [4, 4, 4]
    assert numbers(first, 0) == numbers(first, 1) == numbers(second, 0)
    assert set(numbers(first)) <= set(dataset.val_indices.tolist())
    assert first.images.stride(0) == 0


def test_probe_that_cannot_be_balanced_is_refused() -> None:
    dataset = make_dataset(20, 40)
    fewest = int(dataset.search.labels[dataset.val_indices].bincount().min())
    feed = make_feed(dataset)
    assert feed.probe(3 * fewest).images.shape[1] == 3 * fewest
    for size in (3 * fewest + 1, 2):
        with pytest.raises(ValueError, match=rf"probe of 3 to {3 * fewest} images .*got {size}"):
            feed.probe(size)


def test_legacy_probe_is_the_last_validation_batch_the_search_was_served() -> None:
    feed = make_feed(make_dataset(14, 14, side=8), seeds=(0, 1), augmentation=Augmentation(2, True, 3))
    for epoch in (0, 1):
        *_, last = feed.epoch(HALVES, epoch, 2)
        probe = feed.legacy_probe(epoch, 2)
        assert probe.images.shape[1] == 2
        assert torch.equal(probe.images, last.val[0].images)
        assert torch.equal(probe.labels, last.val[0].labels)


@pytest.mark.parametrize("images", [12, 13])
def test_legacy_probe_without_a_remainder_is_the_end_of_the_order(images: int) -> None:
    dataset = make_dataset(12, images)
    feed = make_feed(dataset)
    order = flat(served(list(feed.epoch(HALVES, 0, 1)), "val"))
    order += list(set(dataset.val_indices.tolist()) - set(order))
    assert numbers(feed.legacy_probe(0, 1, size=7)) == order[-7:]
    with pytest.raises(ValueError, match=f"at least 40 validation images.*got {images}"):
        feed.legacy_probe(0, 1)


def test_serving_leaves_global_randomness_and_the_dataset_alone() -> None:
    dataset = make_dataset(9, 9, side=6)
    before = dataset.search.images.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    feed = make_feed(dataset, augmentation=Augmentation(2, True, 3))
    list(feed.epoch(HALVES, 0, 1))
    list(feed.evaluation("val"))
    feed.probe(3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(dataset.search.images, before)


def test_serving_reads_nothing_back_from_the_device() -> None:
    """On the meta device tensors have no values: any read by the host would fail."""
    given = FeedSettings(4, Augmentation(2, True, 3), 5, True)
    feed = Feed(make_dataset(9, 9, side=6), (0, 1), given, torch.device("meta"), torch.float32)
    *_, last = feed.epoch(HALVES, 1, 3)
    assert last.train[0].images.shape == (2, 4, 3, 6, 6)
    assert {batch.images.device.type for batch in feed.evaluation("val")} == {"meta"}
    assert feed.legacy_probe(1, 3, size=5).images.shape == (2, 5, 3, 6, 6)


def test_the_classes_of_an_epoch_are_those_the_policy_says() -> None:
    """Images of a third, two thirds and all of three classes; all are served once, and the last epoch is the usual."""
    dataset = make_dataset(30, 21)
    shares = {(0, 3): 1 / 3, (1, 3): 2 / 3, (2, 3): 1.0}
    for split in ("halves", "all"):
        feed, plain = make_feed(dataset, (0, 1)), DataPolicy(split=split)
        policy = replace(plain, classes=lambda epoch, epochs: shares[epoch, epochs])
        for epoch in range(3):
            steps, again = (list(feed.epoch(policy, epoch, 3)) for _ in range(2))
            assert len(steps) == feed.steps_per_epoch(policy, epoch, 3)
            assert all(same(one, other, 0) for one, other in zip(steps, again, strict=True))
            halves = {"train": dataset.train_indices, "val": dataset.val_indices}
            if split == "all":
                halves = {"train": torch.cat(list(halves.values()))}
            for half, images in halves.items():
                allowed = sorted(n for n in images.tolist() if n % 3 <= epoch)
                found = flat(served(steps, half))
                assert set(found) <= set(allowed)
                assert half == "val" or len(allowed) - 1 <= len(set(found)) == len(found)
        assert all(same(a, b, 0) for a, b in zip(steps, feed.epoch(plain, 2, 3), strict=True))
    with pytest.raises(ValueError, match=r"expected a share of the 3 classes, one of them at least, got 0\.1"):
        feed.steps_per_epoch(DataPolicy(classes=lambda _epoch, _epochs: 0.1), 0)


def test_recorded_augmentation_serves_the_same_images() -> None:
    """Batches of both halves, a short last one, a probe in between."""
    tapes, augmentation = Tapes(), Augmentation(padding=1, cutout_length=2)
    dataset = make_dataset(10, 12, side=6)
    feeds = [make_feed(dataset, (0, 1), augmentation=augmentation, recorder=recorder) for recorder in (tapes, None)]
    for epoch in range(2):
        probes = [feed.legacy_probe(epoch, 2, size=3) for feed in feeds]
        assert all(torch.equal(one, other) for one, other in zip(*probes, strict=True))
        steps = [list(feed.epoch(DataPolicy(), epoch, 2)) for feed in feeds]
        assert len(steps[0]) == len(steps[1]) == 3
        for step, other in zip(*steps, strict=True):
            pairs = zip((*step.train, *step.val), (*other.train, *other.val), strict=True)
            assert all(torch.equal(x, y) for pair in pairs for x, y in zip(*pair, strict=True))
    assert tapes.played == 2 * (2 + 3) - 2  # but the first two of full size
