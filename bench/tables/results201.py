"""What the official pickles of NAS-Bench-201 and NATS-Bench's topology space say of an architecture, as columns.

Sources: Dong and Yang (2020), NAS-Bench-201, https://arxiv.org/abs/2001.00326; Dong et al. (2021), NATS-Bench,
https://arxiv.org/abs/2009.00437. An architecture is a dictionary of training lengths ("less" and "full" in
NAS-Bench-201, "12" and "200" in NATS-Bench), each with `arch_index`, `arch_str` and `all_results`: one result for
every (dataset, seed), with the accuracies after every epoch in percent. The last epoch's are kept.

| ours | trained on | val | test |
|---|---|---|---|
| cifar10 | val: 25,000; train, test: all 50,000 | x-valid of cifar10-valid | ori-test of cifar10 |
| cifar10-valid | 25,000 | x-valid | ori-test |
| cifar100, imagenet16 | the whole training set | x-valid, half of the official test set | x-test, the other half |
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from bench.tables.data import SPLITS, Measurement, Quantity, Slot, TableData

ARCHITECTURES = 15_625
FAMILIES = {"12": "NATS-Bench topology", "200": "NATS-Bench topology", "less": "NAS-Bench-201", "full": "NAS-Bench-201"}
"""The name of a training length says whose file it is."""

_KEY = re.compile(r"\|{0}~0\|\+\|{0}~0\|{0}~1\|\+\|{0}~0\|{0}~1\|{0}~2\|".format(r"\w+"))
_WHOLE = 0.01
"""A share of images is taken as exact if it is this near to a whole number of them; the files' noise is below 1e-5."""


class _Set(NamedTuple):
    """A set of images that accuracies are of, and where its accuracy goes."""

    name: str
    images: int
    targets: tuple[tuple[str, Quantity], ...]


_SETS: Mapping[str, tuple[_Set, ...]] = {
    "cifar10-valid": (
        _Set("train", 25_000, (("cifar10-valid", "train"),)),
        _Set("x-valid", 25_000, (("cifar10", "val"), ("cifar10-valid", "val"))),
        _Set("ori-test", 10_000, (("cifar10-valid", "test"),)),
    ),
    "cifar10": (_Set("train", 50_000, (("cifar10", "train"),)), _Set("ori-test", 10_000, (("cifar10", "test"),))),
    "cifar100": (
        _Set("train", 50_000, (("cifar100", "train"),)),
        _Set("x-valid", 5_000, (("cifar100", "val"),)),
        _Set("x-test", 5_000, (("cifar100", "test"),)),
    ),
    "ImageNet16-120": (
        _Set("train", 151_700, (("imagenet16", "train"),)),
        _Set("x-valid", 3_000, (("imagenet16", "val"),)),
        _Set("x-test", 3_000, (("imagenet16", "test"),)),
    ),
}
_COSTS = {"cifar10-valid": ("cifar10", "cifar10-valid"), "cifar100": ("cifar100",), "ImageNet16-120": ("imagenet16",)}
"""Whose weights, operations and seconds go where; the seconds of cifar10 are those of the 25,000, as of a search."""

Column = Float64[np.ndarray, " rows"]


class Results:
    """Collects architectures one at a time, in any order; a row is an index of the benchmark."""

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}
        self.families: Counter[str] = Counter()
        self.inexact = 0
        self._read: set[tuple[int, str]] = set()
        self._accuracies: dict[Slot, dict[int, Column]] = {}
        self._scalars: dict[str, Column] = {}

    def take(self, content: dict[Any, Any]) -> bool:
        """Read a dictionary if it is of an architecture; return whether it is.

        Raises:
            ValueError: it is, and not as the benchmark's are.
        """
        if not content or not content.keys() <= FAMILIES.keys():
            return False
        if not all(isinstance(one, dict) and "all_results" in one for one in content.values()):
            return False
        for length, info in content.items():
            self._training(length, info)
        return True

    def _training(self, length: str, info: dict[Any, Any]) -> None:
        index, key, results = info.get("arch_index"), info.get("arch_str"), info["all_results"]
        if type(index) is not int or not 0 <= index < ARCHITECTURES:
            raise ValueError(f"expected an architecture's index from 0 to {ARCHITECTURES - 1}, got {_said(index)}")
        if type(key) is not str or not _KEY.fullmatch(key):
            raise ValueError(f"architecture {index}: expected |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got {_said(key)}")
        if (index, length) in self._read or self.keys.get(index, key) != key:
            raise ValueError(f"architecture {index} stands in the file twice")
        if not isinstance(results, dict):
            raise ValueError(f"architecture {index}: expected results of every dataset and seed, got none")
        self._read.add((index, length))
        self.keys[index] = key
        self.families[FAMILIES[length]] += 1
        for name, result in results.items():
            _check_name(index, name)
            self._result(index, name, _Result(result, f"architecture {index}, {name[0]}, seed {name[1]}"))
        self._costs(index, results)

    def _result(self, index: int, name: tuple[str, int], result: "_Result") -> None:
        dataset, seed = name
        for one in _SETS[dataset]:
            accuracy = result.accuracy(one.name)
            if accuracy is None:
                continue
            images = accuracy * one.images
            if abs(images - round(images)) < _WHOLE:
                accuracy = round(images) / one.images
            else:
                self.inexact += len(one.targets)
            for target, what in one.targets:
                columns = self._accuracies.setdefault(Slot(target, what, result.epochs), {})
                columns.setdefault(seed, _empty())[index] = accuracy

    def _costs(self, index: int, results: dict[Any, Any]) -> None:
        """Keep weights, operations and mean seconds; all results of a dataset and length are of one network."""
        for dataset, targets in _COSTS.items():
            found = [_Result(result, dataset) for (name, _), result in results.items() if name == dataset]
            seconds = [one.seconds() for one in found]
            for target in targets if found else ():
                self._scalar(f"{target}/params", index, float(round(found[0].number("params") * 1e6)))
                self._scalar(f"{target}/flops", index, found[0].number("flop") * 1e6)
                if None not in seconds:
                    mean = math.fsum(filter(None, seconds)) / len(seconds)
                    self._scalar(f"{target}/train_time_s/{found[0].epochs}", index, mean)

    def _scalar(self, name: str, index: int, value: float) -> None:
        self._scalars.setdefault(name, _empty())[index] = value

    def table(self, source: str, notes: tuple[str, ...], name: str) -> TableData:
        """Return what was collected as a table."""
        rows = sorted(self.keys)
        if not rows:
            raise ValueError(
                f"{name}: expected architectures of NAS-Bench-201 or NATS-Bench's topology space, got none"
            )
        if len(self.families) > 1:
            raise ValueError(
                f"{name} mixes {' and '.join(sorted(self.families))}, whose numbers are different versions"
            )
        measurements, unpaired = _paired(
            {
                slot: Measurement(
                    np.stack([columns[seed][rows] for seed in sorted(columns)], axis=1),
                    tuple(map(str, sorted(columns))),
                )
                for slot, columns in self._accuracies.items()
            }
        )
        return TableData(
            space="nb201",
            keys=tuple(self.keys[row] for row in rows),
            cells=("",) * len(rows),
            multiplicities=np.ones(len(rows), dtype=np.int64),
            measurements=measurements,
            scalars={scalar: values[rows] for scalar, values in self._scalars.items()},
            source=source,
            provenance=(*notes, *_PROTOCOL, *unpaired, *self._notes()),
        )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.inexact:
            notes.append(f"{self.inexact} accuracies are no whole number of images; they are kept as they are")
        if missing := shortfall(set(self.keys)):
            notes.append(missing)
        return tuple(notes)


_PROTOCOL = (
    "cifar10 val: trained on 25,000 images, evaluated on the other 25,000; train and test: trained on all 50,000; "
    "its seconds: of the training on 25,000",
    "cifar10-valid: trained on the 25,000 alone, also for test",
    "cifar100 and imagenet16: val and test are two halves of the official test set (x-valid, x-test)",
    "runs are named by their seeds; a seed that was not run is missing, not guessed",
    "per-epoch curves and losses are not kept",
)


class _Result:
    """One training: what `all_results` has under a dataset and a seed."""

    def __init__(self, content: Any, name: str) -> None:
        if not isinstance(content, dict) or type(content.get("epochs")) is not int or content["epochs"] < 1:
            raise ValueError(f"{name}: expected a result with its number of epochs")
        self.content, self.name, self.epochs = content, name, content["epochs"]

    def accuracy(self, images: str) -> float | None:
        """Return the share of right answers after the last epoch, None where the file does not have it."""
        curve = "train_acc1es" if images == "train" else "eval_acc1es"
        last = self.epochs - 1 if images == "train" else f"{images}@{self.epochs - 1}"
        values = self.content.get(curve)
        if not isinstance(values, dict):
            raise ValueError(f"{self.name}: expected {curve} after every epoch, got {type(values).__name__}")
        value = values.get(last)
        if value is not None and not (isinstance(value, float | int) and 0 <= value <= 100):
            raise ValueError(f"{self.name}: expected {images} in percent, got {_said(value)}")
        return None if value is None else value / 100

    def seconds(self) -> float | None:
        """Return the seconds of the whole training, None where the file does not have them."""
        times = self.content.get("train_times")
        if not isinstance(times, dict) or len(times) != self.epochs:
            return None
        if not all(isinstance(value, float | int) for value in times.values()):
            raise ValueError(f"{self.name}: expected train_times in seconds")
        return float(sum(times.values()))

    def number(self, field: str) -> float:
        value = self.content.get(field)
        if not isinstance(value, float | int) or not 0 <= value < np.inf:
            raise ValueError(f"{self.name}: expected {field} as a number, got {_said(value)}")
        return float(value)


def _check_name(index: int, name: Any) -> None:
    plain = type(name) is tuple and len(name) == 2 and type(name[1]) is int and type(name[0]) is str
    if not plain or name[0] not in _SETS:
        raise ValueError(
            f"architecture {index}: expected a dataset of {', '.join(_SETS)} and a seed, got {_said(name)}"
        )


def _said(value: Any) -> str:
    """Return a value in at most 60 characters; of a container only its kind, which may be deep."""
    return f"{value!r:.60}" if isinstance(value, str | int | float | bytes | None) else f"a {type(value).__name__}"


def _empty() -> Column:
    return np.full(ARCHITECTURES, np.nan)


def _paired(found: Mapping[Slot, Measurement]) -> tuple[dict[Slot, Measurement], tuple[str, ...]]:
    """Leave out what has only one of validation and test, and say how much that is."""
    kept, notes = {}, []
    for dataset, budget in sorted({(slot.dataset, slot.budget) for slot in found}):
        of = {what: found.get(Slot(dataset, what, budget)) for what in SPLITS.values()}
        val, test = (m.present() if (m := of[s]) is not None else np.array([False]) for s in ("val", "test"))
        both = val & test
        if lonely := int((val ^ test).sum()):
            notes.append(
                f"{lonely} architectures have only one of val and test of {dataset} at {budget} epochs: left out"
            )
        for what, measurement in of.items():
            if measurement is not None and both.any():
                values = np.where(both[:, None], measurement.values, np.nan)
                kept[Slot(dataset, what, budget)] = Measurement(values, measurement.runs)
    return kept, tuple(notes)


def shortfall(found: set[int]) -> str | None:
    """Return which architectures of the benchmark are missing, None where none is."""
    missing = sorted(set(range(ARCHITECTURES)) - found)
    if not missing:
        return None
    spans: list[list[int]] = []
    for index in missing:
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    names = [str(first) if first == last else f"{first} to {last}" for first, last in spans[:5]]
    more = f" and {len(spans) - 5} more spans" if len(spans) > 5 else ""
    return f"{len(missing)} of {ARCHITECTURES} architectures are missing: {', '.join(names)}{more}"
