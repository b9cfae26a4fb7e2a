"""The embedded dataset: one real handwritten digit among fragments of others, in colour and noise; nothing to download.

Images are composed from the 1,797 digits of 8×8 pixels that scikit-learn contains (Alpaydin and Kaynak (1998), Optical
Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49, test part). The label is the digit shown whole.

Steps, for each part of the dataset, from streams named `digits/<part>/<what>` of `bench.rng` with seed 0:

1. Source digits are dealt, class by class in a random order, to four parts that share none: training half, validation
   half, validation set of the table, test set.
2. Image `i` shows class `i % 10`; a class's sources are used in turn, each at a random place of the canvas.
3. Fragments, squares cut at random from other digits of the part, are laid on the canvas; the fuller ink wins.
4. Ink and paper receive random colours; ink is lighter than paper by at least `contrast` in each channel.
5. The picture is scaled by a random brightness, receives noise, and is rounded to whole grey levels.

The bytes are the same on every machine: the one draw used is `Generator.random`, whose definition (53 random bits) does
not depend on the version of numpy or the processor, and everything after it is elementwise arithmetic.
"""

import importlib.util
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8

from bench.data.types import Dataset, ImageSet
from bench.rng import numpy_stream

CLASSES = 10
SEED = 0
SOURCE_SIZE = 8
TENTHS = {"train": 3, "val": 3, "table_val": 2, "test": 2}
"""Part of the dataset to its tenths of each class's source digits."""


@dataclass(frozen=True)
class DigitsRecipe:
    """How the images are made; grey levels run from 0 to 255.

    The defaults were chosen for tables (docs/embedded.md): the smallest canvas, with the digit in its middle, trains
    fastest, and little clutter lets cells differ by more than the runs of one.

    Attributes:
        size: side of the images, at least 8.
        search_images: both halves together.
        fragments: pieces of other digits in an image.
        fragment_size: side of a piece, at most 8.
        noise_std: standard deviation of the noise in grey levels.
        contrast: by how much ink is at least lighter than paper in each channel, before brightness.
        brightness: range of the factor on the picture.
    """

    size: int = 8
    search_images: int = 1600
    table_val_images: int = 2000
    test_images: int = 2000
    fragments: int = 1
    fragment_size: int = 3
    noise_std: float = 6.0
    contrast: int = 96
    brightness: tuple[float, float] = (0.6, 1.0)

    def __post_init__(self) -> None:
        if not self.size >= SOURCE_SIZE >= self.fragment_size:
            raise ValueError(
                f"expected size >= {SOURCE_SIZE} >= fragment_size, got {self.size} and {self.fragment_size}"
            )
        counts = (self.search_images, 2 * self.table_val_images, 2 * self.test_images)
        if any(count <= 0 or count % (2 * CLASSES) for count in counts):
            raise ValueError(
                f"expected positive multiples of {2 * CLASSES} search images and of {CLASSES} table_val and test "
                f"images, got {self.search_images}, {self.table_val_images} and {self.test_images}"
            )


DEFAULT = DigitsRecipe()

Sources = tuple[Float64[np.ndarray, "sources 8 8"], Int64[np.ndarray, " sources"]]
"""Ink in [0, 1] and class of every source digit."""


def load(recipe: DigitsRecipe = DEFAULT) -> Dataset:
    """Return the digits dataset; the halves are the first and the second half of the pool."""
    ink, labels = _sources()
    dealt = deal(labels)
    half = recipe.search_images // 2
    counts = {"train": half, "val": half, "table_val": recipe.table_val_images, "test": recipe.test_images}
    made = {part: _compose(part, (ink[dealt[part]], labels[dealt[part]]), n, recipe) for part, n in counts.items()}
    search = np.concatenate([made["train"], made["val"]])
    mean, std = _moments(made["train"])
    order = torch.arange(2 * half)
    return Dataset(
        "digits",
        _image_set(search),
        order[:half],
        order[half:],
        _image_set(made["table_val"]),
        _image_set(made["test"]),
        CLASSES,
        mean,
        std,
        flip=False,
    )


def _sources() -> Sources:
    """Return scikit-learn's digits, from its file: importing it takes a second that nothing else here needs."""
    package = importlib.util.find_spec("sklearn")
    places = [] if package is None else package.submodule_search_locations or []
    files = [path for path in (Path(place) / "datasets/data/digits.csv.gz" for place in places) if path.exists()]
    values = np.loadtxt(files[0], delimiter=",") if files else _imported()
    return values[:, :-1].reshape(-1, 8, 8) / 16, values[:, -1].astype(np.int64)


def _imported() -> Float64[np.ndarray, "sources 65"]:
    """Return the digits from scikit-learn's own function, wherever another version keeps them: ink, then class."""
    from sklearn.datasets import load_digits

    bundled = load_digits()
    return np.column_stack([bundled.data, bundled.target])


def deal(labels: Int64[np.ndarray, " sources"]) -> dict[str, Int64[np.ndarray, " dealt"]]:
    """Return the source digits of every part: disjoint, and every class in the same proportions."""
    rng = numpy_stream(SEED, "digits/deal", 0)
    cuts = np.cumsum([0, *TENTHS.values()])
    dealt: dict[str, list[np.ndarray]] = {part: [] for part in TENTHS}
    for k in range(CLASSES):
        members = np.flatnonzero(labels == k)
        members = members[np.argsort(rng.random(len(members)), kind="stable")]
        for part, (low, high) in zip(TENTHS, pairwise(cuts * len(members) // cuts[-1]), strict=True):
            dealt[part].append(members[low:high])
    return {part: np.concatenate(pieces) for part, pieces in dealt.items()}


def _below(rng: np.random.Generator, bound: int | Int64[np.ndarray, " n"], n: int) -> Int64[np.ndarray, " n"]:
    """Draw integers from 0 up to, not including, the bound."""
    return (rng.random(n) * bound).astype(np.int64)


def _compose(part: str, sources: Sources, n: int, recipe: DigitsRecipe) -> UInt8[np.ndarray, "n 3 size size"]:
    ink, labels = sources
    targets = _targets(part, labels, n)
    canvas = np.zeros((n, recipe.size, recipe.size))
    _lay(canvas, ink[targets], numpy_stream(SEED, f"digits/{part}/places", 0))
    for piece in range(recipe.fragments):
        rng = numpy_stream(SEED, f"digits/{part}/fragments", piece)
        other = (targets + 1 + _below(rng, len(labels) - 1, n)) % len(labels)
        _lay(canvas, _cut(ink[other], recipe.fragment_size, rng), rng)
    return _colour(part, canvas, recipe)


def _targets(part: str, labels: Int64[np.ndarray, " sources"], n: int) -> Int64[np.ndarray, " n"]:
    """Return the source digit of each image: classes in turn, and the sources of a class in turn."""
    rng = numpy_stream(SEED, f"digits/{part}/targets", 0)
    targets = np.empty(n, dtype=np.int64)
    for k in range(CLASSES):
        members = np.flatnonzero(labels == k)
        members = members[np.argsort(rng.random(len(members)), kind="stable")]
        targets[k::CLASSES] = np.resize(members, n // CLASSES)
    return targets


def _window(
    corners: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]], side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indices (image, row, column) of a square in each image, to be broadcast."""
    offsets = np.arange(side)
    top, left = corners
    return np.arange(len(top))[:, None, None], (top[:, None] + offsets)[:, :, None], (left[:, None] + offsets)[:, None]


def _cut(ink: Float64[np.ndarray, "n 8 8"], side: int, rng: np.random.Generator) -> Float64[np.ndarray, "n side side"]:
    """Return a square cut at random from each digit."""
    corners = tuple(_below(rng, SOURCE_SIZE - side + 1, len(ink)) for _ in range(2))
    return ink[_window((corners[0], corners[1]), side)]


def _lay(
    canvas: Float64[np.ndarray, "n size size"], piece: Float64[np.ndarray, "n side side"], rng: np.random.Generator
) -> None:
    """Lay a square on each canvas at a random place, in place; the fuller ink wins."""
    side = piece.shape[-1]
    corners = tuple(_below(rng, canvas.shape[-1] - side + 1, len(canvas)) for _ in range(2))
    window = _window((corners[0], corners[1]), side)
    canvas[window] = np.maximum(canvas[window], piece)


def _colour(
    part: str, canvas: Float64[np.ndarray, "n size size"], recipe: DigitsRecipe
) -> UInt8[np.ndarray, "n 3 size size"]:
    """Return the painted, lit and noisy picture in whole grey levels."""
    rng = numpy_stream(SEED, f"digits/{part}/colours", 0)
    n, room = len(canvas), 255 - recipe.contrast
    paper = rng.random((n, 3, 1, 1)) * room
    pen = paper + recipe.contrast + rng.random((n, 3, 1, 1)) * (room - paper)
    low, high = recipe.brightness
    lit = (paper + (pen - paper) * canvas[:, None]) * (low + (high - low) * rng.random((n, 1, 1, 1)))
    return np.floor(np.clip(lit + recipe.noise_std * _noise(part, lit.shape) + 0.5, 0, 255)).astype(np.uint8)


def _noise(part: str, shape: tuple[int, ...]) -> Float64[np.ndarray, "n 3 size size"]:
    """Return noise of mean 0 and variance 1: a sum of three uniform draws, bell-shaped and free of `exp` and `log`."""
    draws = numpy_stream(SEED, f"digits/{part}/noise", 0).random((3, *shape))
    return 2 * (draws[0] + draws[1] + draws[2]) - 3


def _moments(images: UInt8[np.ndarray, "n 3 size size"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel's pixels in [0, 1], from exact sums, to four digits."""
    pixels = images.astype(np.int64).transpose(1, 0, 2, 3).reshape(3, -1)
    mean = pixels.sum(1) / pixels.shape[1]
    std = np.sqrt((pixels**2).sum(1) / pixels.shape[1] - mean**2)
    return tuple(round(float(x) / 255, 4) for x in mean), tuple(round(float(x) / 255, 4) for x in std)


def _image_set(images: UInt8[np.ndarray, "n 3 size size"]) -> ImageSet:
    """Return the images with their labels: image `i` of every part shows class `i % 10`."""
    return ImageSet(torch.from_numpy(images), torch.arange(len(images)) % CLASSES)
