"""The images a search sees: per-replica order and augmentation, fixed evaluation batches, and probes.

Every order and every augmentation is a pure function of (seed, stream, epoch, index), so a replica sees the same
images whatever it is stacked with. Streams: `order/train` and `order/val` at step `epoch`, `augment/train` and
`augment/val` at step `epoch * 1_000_000 + index`, where `index` counts the batches of that kind in the epoch. Epochs
count from 0.

The validation half is served with the training augmentation, as in the published searches' code (NAS-Bench-1Shot1,
SmoothDARTS and others do so); `evaluation` and `probe` are un-augmented.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from bench.data import augment
from bench.data.augment import Augmentation, Draws
from bench.data.types import Dataset, balanced
from bench.replay import Recorder, played
from bench.rng import torch_stream
from searchers.base import Batch, DataPolicy, StepBatches

AUGMENT_STRIDE = 1_000_000
"""Steps of an augmentation stream that belong to one epoch."""


@dataclass(frozen=True)
class FeedSettings:
    """How images are served.

    Attributes:
        batch_size: images in a batch of a step, unless the data policy changes it.
        augmentation: images are mirrored only if the dataset allows it too.
        eval_batch_size: most images in an evaluation batch.
        cutout_ramp: true raises the probability of cutout from 0 in the first epoch to 1 in the last; false: always 1.
        step_dtype: type of the images of steps, where it is not that of evaluations and probes.
    """

    batch_size: int
    augmentation: Augmentation
    eval_batch_size: int
    cutout_ramp: bool
    step_dtype: torch.dtype | None = None


class Feed:
    """Serves a dataset that lies on the device as raw bytes."""

    def __init__(
        self,
        dataset: Dataset,
        seeds: tuple[int, ...],
        settings: FeedSettings,
        device: torch.device,
        dtype: torch.dtype,
        recorder: Recorder | None = None,
    ) -> None:
        """Take the data to the device; a recorder records how batches are augmented."""
        flip = settings.augmentation.flip and dataset.flip
        self._seeds = seeds
        self._settings = settings
        self._augmentation = replace(settings.augmentation, flip=flip)
        self._device = device
        self._classes = dataset.classes
        self._name = dataset.name
        self._images = dataset.search.images.to(device)
        self._labels = dataset.search.labels.to(device)
        self._mean, self._std = (
            torch.tensor(moment, dtype=dtype, device=device)[:, None, None] for moment in (dataset.mean, dataset.std)
        )
        self._halves = {"train": dataset.train_indices.to(device), "val": dataset.val_indices.to(device)}
        self._both = torch.cat([self._halves["train"], self._halves["val"]])
        both = torch.cat([dataset.train_indices, dataset.val_indices])
        self._hosted = {"train": dataset.train_indices, "val": dataset.val_indices, "both": both}
        self._hosted_labels = dataset.search.labels
        self._augment = played(self._augmented, recorder)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the images."""
        _, c, h, w = self._images.shape
        return c, h, w

    def images(self, split: str) -> int:
        """Return the number of images of "train" or "val"."""
        return len(self._halves[split])

    def steps_per_epoch(self, policy: DataPolicy, epoch: int, epochs: int = 1) -> int:
        """Return the number of steps in which the training images are passed over once.

        The last batch may be short, down to 2 images (batch normalisation needs them); a step is made of whole
        batches, so batches that do not fill a step of several are left out. A policy that trains nothing has no steps.
        The number of `epochs` matters where the policy's classes depend on it.
        """
        if policy.train_batches == 0:
            return 0
        pool = self._pool("train", policy, (epoch, epochs))
        images, size = len(pool), policy.batch_size(epoch, self._settings.batch_size)
        steps = _batches(images, size) // policy.train_batches
        if steps == 0:
            raise ValueError(
                f"expected enough training images for a step of {policy.train_batches} batches of {size}, got {images}"
            )
        return steps

    def epoch(self, policy: DataPolicy, epoch: int, epochs: int) -> Iterator[StepBatches]:
        """Return the batches of every step of epoch number `epoch` out of `epochs`.

        With split "all" the pool is both halves and there are no validation batches, whatever the policy's number. The
        validation order restarts every epoch, and goes on with a further permutation where it is used up.
        """
        steps, now = self.steps_per_epoch(policy, epoch, epochs), (epoch, epochs)
        val_batches = policy.val_batches if policy.split == "halves" else 0
        size = policy.batch_size(epoch, self._settings.batch_size)
        probability = self._cutout_probability(epoch, epochs)
        pools = {half: self._pool(half, policy, now) for half in ("train", "val")}
        train = self._serve("train", pools["train"], size, (epoch, steps * policy.train_batches, probability))
        val = self._serve("val", pools["val"], size, (epoch, steps * val_batches, probability))
        return (StepBatches(_take(train, policy.train_batches), _take(val, val_batches)) for _ in range(steps))

    def evaluation(self, split: str, batches: range | None = None) -> Iterator[Batch]:
        """Return un-augmented batches in a fixed order, the same for all replicas; None is the whole half, once.

        The half is cut into as few batches as `eval_batch_size` allows, of equal size up to one image; `batches` are
        their numbers and wrap around. `split` is "train" or "val".
        """
        if split not in self._halves:
            raise ValueError(f"expected a split out of {sorted(self._halves)}, got {split!r}")
        chunks = self._chunks(split)
        return (self._plain(chunks[i % len(chunks)]) for i in (range(len(chunks)) if batches is None else batches))

    def evaluation_sizes(self, split: str) -> tuple[int, int]:
        """Return the images of a half, and of its largest evaluation batch."""
        chunks = self._chunks(split)
        return sum(map(len, chunks)), max(map(len, chunks))

    def _chunks(self, split: str) -> tuple[Int64[Tensor, " n"], ...]:
        half = self._halves[split]
        return half.tensor_split(-(-len(half) // self._settings.eval_batch_size))

    def probe(self, size: int) -> Batch:
        """Return un-augmented images of the validation half, class-balanced and fixed by the dataset."""
        half = self._halves["val"]
        labels = self._labels[half].cpu()
        fewest = int(labels.bincount(minlength=self._classes).min())
        if not self._classes <= size <= fewest * self._classes:
            raise ValueError(
                f"expected a probe of {self._classes} to {fewest * self._classes} images (the validation half of "
                f"{self._name} has {fewest} of its rarest class), got {size}"
            )
        return self._plain(half[balanced(labels, size, self._classes).to(self._device)])

    def legacy_probe(self, epoch: int, epochs: int, *, size: int = 40) -> Batch:
        """Return the augmented batch that earlier papers measured the eigenvalue on.

        It is the short last batch of the epoch's validation order, 40 images of 25,000 at batch 96, as a step of one
        batch of each kind receives it; where the batch size leaves no remainder, the last `size` images of that order.
        """
        half, full = self._halves["val"], self._settings.batch_size
        count = len(half) % full if len(half) % full > 1 else size
        if count > len(half):
            raise ValueError(
                f"expected at least {count} validation images, as many as earlier papers measured their eigenvalue on, "
                f"got {len(half)}: raise --train-size or leave λ out with --curvature off"
            )
        chosen = self._order("val", half, epoch, 1)[:, -count:]
        step = epoch * AUGMENT_STRIDE + len(half) // full
        drawn = self._drawn("val", chosen, step, self._cutout_probability(epoch, epochs))
        return Batch(*self._augmented(*drawn))

    def _pool(self, half: str, policy: DataPolicy, now: tuple[int, int]) -> Int64[Tensor, " n"]:
        """Return the images that batches of a half are taken from in this epoch out of so many."""
        name = "both" if half == "train" and policy.split == "all" else half
        share = policy.classes(*now)
        if not 1 / self._classes <= share <= 1:
            raise ValueError(f"expected a share of the {self._classes} classes, one of them at least, got {share}")
        if share == 1:
            return self._both if name == "both" else self._halves[name]
        images = self._hosted[name]
        return images[self._hosted_labels[images] < round(share * self._classes)].to(self._device)

    def _cutout_probability(self, epoch: int, epochs: int) -> float:
        return augment.ramp(epoch, epochs) if self._settings.cutout_ramp else 1.0

    def _serve(self, split: str, pool: Int64[Tensor, " n"], size: int, span: tuple[int, int, float]) -> Iterator[Batch]:
        """Yield one kind of an epoch's batches; `span` is the epoch, their number, and cutout's probability."""
        epoch, needed, probability = span
        each = _batches(len(pool), size)
        if each == 0:
            raise ValueError(f"expected at least 2 images in the {split} half, got {len(pool)}")
        orders = self._order(split, pool, epoch, -(-needed // each))
        for index in range(needed):
            passed, start = index // each * len(pool), index % each * size
            chosen = orders[:, passed + start : passed + min(start + size, len(pool))]
            batch = Batch(*self._augment(*self._drawn(split, chosen, epoch * AUGMENT_STRIDE + index, probability)))
            yield batch._replace(images=batch.images.to(self._settings.step_dtype or batch.images.dtype))

    def _order(
        self, split: str, pool: Int64[Tensor, " n"], epoch: int, passes: int
    ) -> Int64[Tensor, "replicas served"]:
        """Return every replica's permutations of the pool, one pass after the other."""
        order = torch.stack(
            [_permutations(torch_stream(seed, f"order/{split}", epoch), len(pool), passes) for seed in self._seeds]
        )
        return pool[order.to(self._device, non_blocking=True)]

    def _drawn(
        self, split: str, chosen: Int64[Tensor, "replicas n"], step: int, cutout_probability: float
    ) -> tuple[Tensor, ...]:
        """Return what `_augmented` takes."""
        streams = tuple(torch_stream(seed, f"augment/{split}", step) for seed in self._seeds)
        height_width = self.image_shape[1:]
        draws = augment.draw(streams, chosen.shape[1], self._augmentation, height_width, cutout_probability)
        return (chosen, *draws.to(self._device))

    def _augmented(self, chosen: Int64[Tensor, "replicas n"], *draws: Tensor) -> list[Tensor]:
        """Return images and labels."""
        images = augment.apply(self._images[chosen], Draws(*draws), self._augmentation, self._normalised)
        return [images, self._labels[chosen]]

    def _plain(self, chosen: Int64[Tensor, " n"]) -> Batch:
        """Return un-augmented images, one copy for all replicas."""
        replicas = len(self._seeds)
        images = self._normalised(self._images[chosen])
        return Batch(images.expand(replicas, *images.shape), self._labels[chosen].expand(replicas, -1))

    def _normalised(self, raw: UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
        return augment.normalise(raw, self._mean, self._std)


def _permutations(stream: torch.Generator, n: int, passes: int) -> Int64[Tensor, " served"]:
    """Return permutations one after the other; the first does not depend on how many follow."""
    return torch.cat([torch.randperm(n, generator=stream) for _ in range(passes)])


def _batches(images: int, size: int) -> int:
    """Return the number of batches: the full ones, and a short last one of at least 2 images."""
    return images // size + (images % size >= 2)


def _take(served: Iterator[Batch], count: int) -> tuple[Batch, ...]:
    return tuple(next(served) for _ in range(count))
