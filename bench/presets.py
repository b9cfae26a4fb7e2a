"""The two benchmarks: `paper`, as published, and `embedded`, which a laptop finishes offline.

Everything in which `embedded` differs from the papers' settings stands here; it is printed at the start of a run and
enters the run's signature. Values were chosen so that architecture parameters move as far in 100 short epochs as the
published settings move them in 100 long ones; what that does to λ and to the decoded cells is measured, not assumed
(README). There λ, the same to 1e-6, comes from Lanczos: a Hessian-vector product costs as much as a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.data.augment import Augmentation, published
from bench.metrics.ranking import RankingProbe

Overrides = Mapping[str, Mapping[str, Any]]

SEARCH_IMAGES: Mapping[str, Mapping[str, int]] = {
    "first_second": {"cifar10": 50_000, "cifar100": 50_000, "imagenet16": 151_700},
    "nb201": {"cifar10": 50_000, "cifar100": 55_000, "imagenet16": 154_700},
}
"""Split rule and dataset to all images of both halves; NAS-Bench-201 lends half of the official test images."""

CLASSES = {"cifar100": 100, "imagenet16": 120}
"""Of datasets that have more of them than a preset's probe may have images."""


@dataclass(frozen=True)
class Preset:
    """Sizes and settings of a benchmark on one space.

    Attributes:
        train_size: images of both halves together.
        cells: cells a stage.
        curvature: how λ is found every epoch (`CurvatureSettings.mode`).
        curvature_replicas: most seeds of a stack whose λ is measured at once, None: all; see docs/speed.md on memory.
        ranking: size of `--metrics ranking`.
        settings: dotted changes of method settings; those under "*" apply to every method that has the field.
    """

    name: str
    dataset: str
    seeds: tuple[int, ...]
    train_size: int
    batch_size: int
    eval_batch_size: int
    channels: int
    cells: int
    split_rule: str
    augmentation: Augmentation
    probe_size: int
    epochs: int = 100
    curvature: str = "power"
    curvature_replicas: int | None = None
    ranking: RankingProbe = field(default_factory=lambda: RankingProbe(cells=200, top=10))
    settings: Overrides = field(default_factory=dict)


def paper(space: str) -> Preset:
    """CIFAR-10 at the published sizes: NAS-Bench-1Shot1 (Zela et al. 2020) or NATS-Bench (Dong et al. 2021).

    Raises:
        ValueError: the space has no published benchmark.
    """
    if space == "toy":
        raise ValueError(
            "expected s1, s2, s3 or nb201 for the benchmark 'paper', got 'toy', which exists only embedded"
        )
    nb201, rule = space == "nb201", _split_rule(space)
    return Preset(
        name="paper",
        dataset="cifar10",
        seeds=(0, 1, 2, 3),
        train_size=SEARCH_IMAGES[rule]["cifar10"],
        batch_size=64 if nb201 else 96,
        eval_batch_size=500,
        channels=16,
        cells=5 if nb201 else 3,
        split_rule=rule,
        augmentation=published("cifar10"),
        probe_size=250,
        curvature_replicas=2,
        settings=_PAPER_NB201 if nb201 else _PAPER_ONE_SHOT,
    )


# Methods that NATS-Bench's code runs in another way than NAS-Bench-1Shot1's: `searchers.gdas.NATS`.
_NATS: Overrides = {
    "gdas": {
        "gradient": "constant_map",
        "per_cell": False,
        "tau_min": 0.1,
        "tau_reached": True,
        "arch_clip": None,
    },
}

# The weight of Λ-DARTS' term is that of the authors' script for NAS-Bench-201.
_LAMBDA: Mapping[str, Any] = {"weight": 0.25}

_PAPER_ONE_SHOT: Overrides = {"zero_cost_pt": {"batch_size": 128}}

# NATS-Bench's ENAS; at the embedded size its controller takes fewer steps of fewer samples, at a higher rate.
_NATS_ENAS: Mapping[str, Any] = {
    "controller.hidden": 32,
    "controller.layers": 2,
    "controller.tanh_op": 2.5,
    "reinforce.steps": 50,
    "reinforce.samples": 20,
    "reinforce.adam.lr": 1e-3,
    "reinforce.adam.betas": (0.5, 0.999),
    "reinforce.unit": 1.0,
    "reinforce.clip": 5.0,
}
_FEW_STEPS_ENAS: Mapping[str, Any] = {"reinforce.steps": 10, "reinforce.samples": 4, "reinforce.adam.lr": 5e-3}
_NATS_RANKING: Mapping[str, Any] = {
    "ranking.candidates": 100,
    "ranking.batches": 1,
    "ranking.finalists": 1,
    "ranking.every_epoch": False,
}

# The authors of SmoothDARTS search NAS-Bench-201 with the optimiser of DARTS. MS-DARTS was built on their code, and its
# control arms are compared with both.
_SMOOTH_SGD: Mapping[str, Any] = {"weights.weight_decay": 3e-4, "weights.nesterov": False, "weights.clip": 5.0}

# NATS-Bench, weight-sharing configuration: Nesterov, weight decay 5e-4, no clipping; ranking of 100 cells on one batch.
# Methods that were published with an optimiser of their own on this space or on the one of DARTS keep it.
_PAPER_NB201: Overrides = {
    "*": {"weights.weight_decay": 5e-4, "weights.nesterov": True, "weights.clip": None},
    "random_ws": {"per_cell": True, **_NATS_RANKING},
    "enas": {**_NATS_ENAS, **_NATS_RANKING},
    "setn": _NATS_RANKING,
    "rdarts_l2": {"weights.weight_decay": 27e-4},
    "sdarts_rs": _SMOOTH_SGD,
    "sdarts_adv": _SMOOTH_SGD,
    **dict.fromkeys(("ms_darts", "ms_null", "sdarts_rs_matched"), _SMOOTH_SGD),
    "dropnas": {"weights.weight_decay": 3e-4, "weights.nesterov": False, "weights.clip": 3.0},
    "dso_nas": {"weights.weight_decay": 1e-4, "weights.clip": 5.0},
    "lambda_darts": _LAMBDA,
    **_NATS,
}


def embedded(space: str) -> Preset:
    """Handwritten digits in colour and clutter and a supernet of one cell a stage, on every space."""
    return Preset(
        name="embedded",
        dataset="digits",
        seeds=(0, 1),
        train_size=256,
        batch_size=32,
        eval_batch_size=256,
        channels=4,
        cells=1,
        split_rule="recipe",
        augmentation=Augmentation(padding=1, flip=False, cutout_length=0),
        probe_size=40,
        curvature="lanczos",
        ranking=RankingProbe(cells=60, top=10),
        settings=_EMBEDDED_NB201 if space == "nb201" else _EMBEDDED,
    )


# An epoch has 4 steps instead of 261: the architecture's rate is 33 times the published one, every method has the
# benchmark's batch size, and ranking is done once, on few cells, 60 for every method that ranks. DA²S has an SGD rate;
# DSO-NAS and GAEA keep their own rates, which are of another kind. The memory of Pi-NAS's teacher is the same share of
# the search.
_FEW_CELLS: Mapping[str, Any] = {"ranking.candidates": 60, "ranking.batches": 1, "ranking.every_epoch": False}
_EMBEDDED: Overrides = {
    "*": {"arch.lr": 1e-2, "batch_size": None},
    "da2s": {"arch.lr": 1e-1},
    "random_ws": _FEW_CELLS,
    "enas": {"reinforce.steps": 10, "reinforce.adam.lr": 1e-2, **_FEW_CELLS},
    "setn": _FEW_CELLS,
    "spos": {"evolution.population": 12, "evolution.generations": 5, "evolution.parents": 5},
    "pi_nas": {"momentum": 0.94, **_FEW_CELLS},
    "zero_cost_pt": {"proposals": 5, "validation": 10},
    "shapley_nas": {"permutations": 2},
    "dsnas": {"arch.lr": 3e-2},
    "fair_darts": {"arch.lr": 1e-1},
    "pdarts": {"arch.lr": 2e-2},
    "lambda_darts": {"arch.lr": 3e-3},
    "bnas_policy": {"every": 1},
}
_EMBEDDED_NB201: Overrides = {
    **_EMBEDDED,
    **_NATS,
    "enas": {**_NATS_ENAS, **_FEW_STEPS_ENAS, **_FEW_CELLS},
    "lambda_darts": {**_EMBEDDED["lambda_darts"], **_LAMBDA},
}


def on_dataset(preset: Preset, dataset: str, space: str) -> Preset:
    """Return a benchmark on another dataset; `paper` takes all of its images, a probe has every class."""
    if dataset == "digits":
        return replace(preset, dataset=dataset, split_rule="recipe")
    rule = _split_rule(space)
    changed = replace(
        preset, dataset=dataset, split_rule=rule, probe_size=max(preset.probe_size, CLASSES.get(dataset, 0))
    )
    if preset.name != "paper":
        return changed
    images = SEARCH_IMAGES[rule].get(dataset, preset.train_size)
    return replace(changed, train_size=images, augmentation=published(dataset))


def _split_rule(space: str) -> str:
    return "nb201" if space == "nb201" else "first_second"


PRESETS = {"paper": paper, "embedded": embedded}
