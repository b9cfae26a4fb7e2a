"""What identifies a run, and the hash that names it."""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.data.augment import Augmentation
from bench.metrics.curvature import CurvatureSettings
from bench.metrics.landscape import LandscapeSettings
from bench.metrics.native import NativeSettings
from bench.metrics.ranking import RankingProbe


@dataclass(frozen=True)
class Signed:
    """A specification whose fields decide its records: they name it."""

    UNSAID: ClassVar[tuple[str, ...]] = ()
    """Fields that are left out where they are None, so that they name nothing new."""

    def resolved(self) -> dict[str, Any]:
        """Return the specification as plain values, with its signature."""
        return {**self._said(), "signature": self.signature}

    @functools.cached_property
    def signature(self) -> str:
        return signature(self._said())

    def _said(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if value is not None or name not in self.UNSAID}


def signature(said: Mapping[str, Any]) -> str:
    """Return the hash that names a specification given as plain values."""
    text = json.dumps(said, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RunSpec(Signed):
    """Everything that decides a run's records, but for what it was stacked with, the device and the versions.

    Attributes:
        settings: the method's settings, a frozen dataclass.
        data: fingerprint of the images, labels and halves.
        cells: cells a stage.
        ranking: None: the correlation of shared weights with the table is not measured.
        landscape: None: no slices of the loss are measured.
        native: None: the curvature of sampled losses is not measured.
        table: content digest of the benchmark table, None for a run without accuracies.
        budget: training epochs of the table's accuracies.
        precision: of the steps (`bench.precision`); None: fp32.
    """

    benchmark: str
    space: str
    dataset: str
    data: str
    method: str
    settings: Any
    seed: int
    epochs: int
    train_size: int
    batch_size: int
    eval_batch_size: int
    channels: int
    cells: int
    split_rule: str
    augmentation: Augmentation
    probe_size: int
    curvature: CurvatureSettings
    curvature_every: int
    ranking: RankingProbe | None
    landscape: LandscapeSettings | None
    table: str | None
    budget: int | None
    native: NativeSettings | None = None
    precision: str | None = None

    UNSAID = ("native", "precision")

    @property
    def name(self) -> str:
        return run_name(self.space, self.method, self.seed, self.signature)


def run_name(space: str, method: str, seed: int, signed: str) -> str:
    """Return the name of a run's folder; `signed` is its signature."""
    return f"{space}-{method}-s{seed}-{signed}"


def replace_settings(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Return settings with dotted fields changed, each value of the field's own type.

    Raises:
        ValueError: a field does not exist or a value does not fit.
    """
    for path, value in changes.items():
        settings = _replace(settings, path.split("."), value, path)
    return settings


def _replace(settings: Any, parts: list[str], value: Any, path: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(settings)}
    if parts[0] not in fields:
        raise ValueError(f"expected one of the settings {', '.join(fields)}, got {path!r}")
    old = getattr(settings, parts[0])
    if dataclasses.is_dataclass(old) and len(parts) == 1:
        inner = ", ".join(f"{path}.{field.name}" for field in dataclasses.fields(old))
        raise ValueError(f"expected one of the settings {inner}, got {path!r}")
    if len(parts) > 1:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"expected a setting without parts, got {path!r}")
        return dataclasses.replace(settings, **{parts[0]: _replace(old, parts[1:], value, path)})
    kind = typing.get_type_hints(type(settings))[parts[0]]
    new = _coerce(value, kind, path)
    try:
        return dataclasses.replace(settings, **{parts[0]: new})
    except ValueError as error:  # settings that check themselves know their name, not where they stand
        raise ValueError(f"{error} for the setting {path!r}") from error


def _coerce(value: Any, kind: Any, path: str) -> Any:
    """Return the value in the field's type; a number that is not finite fits nowhere."""
    options = typing.get_args(kind) if _is_union(kind) else (kind,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if option is float and type(value) in {int, float} and math.isfinite(value):
            return float(value)
        if option in {int, bool, str} and type(value) is option:
            return value
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            inner = typing.get_args(option)
            inner = inner[:1] * len(value) if inner[1:] == (...,) else inner
            if len(value) == len(inner):
                return tuple(_coerce(v, k, path) for v, k in zip(value, inner, strict=True))
        if typing.get_origin(option) is typing.Literal and value in typing.get_args(option):
            return value
    raise ValueError(f"expected {_spelled(kind)} for the setting {path!r}, got {value!r}")


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in {typing.Union, types.UnionType}


def _spelled(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
