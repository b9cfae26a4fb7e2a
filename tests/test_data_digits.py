"""The embedded digits: the same bytes everywhere, balanced classes, no source digit in two parts."""

import hashlib
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from bench.data import digits
from bench.data.digits import DigitsRecipe

PINNED = {
    "search": "96c3d14d890e8c7f51a5cae5d8d679cd76548a06249829d2390a42639c135435",
    "table_val": "982b5c36130b60f73ac750713ee2ea5e5c906a76377fecb5adc3cd6b8399cd17",
    "test": "641d1c727ef35ee5e1d0353707b0994918384910f507bef77368a939269518e0",
}
SMALL = DigitsRecipe(size=12, search_images=40, table_val_images=20, test_images=30, fragments=2, noise_std=12.0)


def sha256(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


def test_bytes_are_pinned() -> None:
    dataset = digits.load()
    assert dataset.table_val is not None
    assert dataset.test is not None
    assert {
        "search": sha256(dataset.search.images, dataset.search.labels),
        "table_val": sha256(dataset.table_val.images, dataset.table_val.labels),
        "test": sha256(dataset.test.images, dataset.test.labels),
    } == PINNED
    assert (dataset.mean, dataset.std) == ((0.3906, 0.3901, 0.3861), (0.2183, 0.2161, 0.2161))


def test_parts_have_the_recipe_s_sizes_and_balanced_classes() -> None:
    dataset = digits.load(DigitsRecipe(size=16, search_images=40, table_val_images=20, test_images=30))
    labels = dataset.search.labels
    assert dataset.search.images.shape == (40, 3, 16, 16)
    assert dataset.table_val is not None
    assert dataset.test is not None
    parts = (labels[dataset.train_indices], labels[dataset.val_indices], dataset.table_val.labels, dataset.test.labels)
    assert [part.bincount().tolist() for part in parts] == [[2] * 10, [2] * 10, [2] * 10, [3] * 10]
    assert not set(dataset.train_indices.tolist()) & set(dataset.val_indices.tolist())
    assert not dataset.flip


def test_the_file_holds_what_scikit_learn_s_function_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    ink, labels = digits._sources()
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda _: None)
    others = digits._sources()
    assert len(labels) == 1797
    np.testing.assert_array_equal(ink, others[0])
    np.testing.assert_array_equal(labels, others[1])


def test_the_digits_are_read_without_importing_scikit_learn() -> None:
    code = "import sys; from bench.data import digits; digits._sources(); print('sklearn' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_no_source_digit_is_in_two_parts_and_all_are_used() -> None:
    labels = np.arange(1797) % 10
    dealt = digits.deal(labels)
    assert not any(set(a.tolist()) & set(b.tolist()) for a, b in combinations(dealt.values(), 2))
    assert sum(len(part) for part in dealt.values()) == 1797
    assert all(np.ptp(np.bincount(labels[part])) <= 1 for part in dealt.values())


def test_parts_are_composed_of_their_own_sources_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part's source digits have an ink of their own here, and that alone must be seen in its images."""
    labels = np.arange(200) % 10
    ink = np.zeros((200, 8, 8))
    levels = {part: (i + 1) / 4 for i, part in enumerate(digits.TENTHS)}
    for part, members in digits.deal(labels).items():
        ink[members] = levels[part]
    seen = {}
    monkeypatch.setattr(digits, "_sources", lambda: (ink, labels))
    monkeypatch.setattr(digits, "_moments", lambda _images: ((0.0,), (1.0,)))
    colour = lambda part, canvas, _recipe: seen.setdefault(part, canvas).astype(np.uint8)[:, None].repeat(3, 1)  # noqa: E731
    monkeypatch.setattr(digits, "_colour", colour)
    digits.load(SMALL)
    assert {part: set(np.unique(canvas)) for part, canvas in seen.items()} == {k: {0.0, v} for k, v in levels.items()}


def test_image_shows_the_whole_digit_of_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clutter, noise and colour, the ink of image i is a source digit of class i % 10, moved."""
    ink, labels = digits._sources()
    monkeypatch.setattr(
        digits, "_colour", lambda _part, canvas, _recipe: (canvas * 16).astype(np.uint8)[:, None].repeat(3, 1)
    )
    monkeypatch.setattr(digits, "_moments", lambda _images: ((0.0,), (1.0,)))
    dataset = digits.load(DigitsRecipe(search_images=40, table_val_images=20, test_images=30, fragments=0))
    windows = dataset.search.images[:, 0].unfold(1, 8, 1).unfold(2, 8, 1).flatten(1, 2)
    sources = torch.from_numpy((ink * 16).astype(np.uint8))
    for image, label in zip(windows, dataset.search.labels.tolist(), strict=True):
        whole = (image[:, None] == sources[labels == label]).all(-1).all(-1)
        assert whole.any()


def test_loading_twice_gives_the_same_bytes_and_leaves_global_randomness_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = digits.load(SMALL), digits.load(SMALL)
    assert torch.equal(first.search.images, second.search.images)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_moments_are_those_of_the_training_half() -> None:
    dataset = digits.load(SMALL)
    pixels = dataset.search.images[dataset.train_indices].double() / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_more_noise_and_more_fragments_change_the_images() -> None:
    plain = DigitsRecipe(search_images=40, table_val_images=20, test_images=30, fragments=0, noise_std=0.0)
    calm = digits.load(plain).search.images
    assert len(calm[0].flatten(1).unique(dim=1).T) < 30
    assert not torch.equal(digits.load(SMALL).search.images, calm)


@pytest.mark.parametrize("wrong", [{"size": 7}, {"fragment_size": 9}])
def test_recipe_refuses_digits_that_do_not_fit(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="size >= 8 >= fragment_size"):
        DigitsRecipe(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"search_images": 30}, {"table_val_images": 25}, {"test_images": 0}])
def test_recipe_refuses_classes_of_unequal_size(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 20 search images and of 10 table_val and test"):
        DigitsRecipe(**wrong)  # type: ignore[arg-type]
