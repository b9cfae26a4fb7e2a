"""Settings are the published numbers unless told otherwise; what a method's own tests rely on is not repeated."""

import dataclasses
from functools import reduce
from typing import Any

import pytest

from searchers.registry import METHODS

PUBLISHED: dict[str, dict[str, Any]] = {
    "gdas": {"gradient": "selected_only", "per_cell": True, "tau": 10.0, "tau_min": 1.0, "arch_clip": 5.0},
    "ms_darts": {"radius.start": 0.025, "radius.end": 0.25, "bandwidth": 1.0, "samples": 3, "rounds": 2,
                 "region": "box", "joint": False, "omega_data": "train", "omega_rule": "softmax", "projected": False},
    "ms_null": {"radius.start": 0.025, "radius.end": 0.25, "samples": 3, "rounds": 2, "projected": False},
    "sdarts_rs_matched": {"radius.start": 0.025, "radius.end": 0.25, "samples": 3, "rounds": 2, "projected": False},
    "sdarts_adv": {"radius.start": 0.03, "radius.end": 0.3, "attack_steps": 7},
    "enas": {"weights.lr": 0.025, "weights.lr_min": 0.001, "weights.momentum": 0.9, "weights.weight_decay": 1e-4,
             "weights.clip": 0.25, "controller.hidden": 64, "controller.layers": 1, "controller.temperature": 5.0,
             "controller.tanh": 2.5, "controller.tanh_op": 0.5, "controller.joint": "mean",
             "controller.off_by_one": True, "reinforce.steps": 300, "reinforce.samples": 1, "reinforce.adam.lr": 3.5e-4,
             "reinforce.adam.betas": (0.1, 0.999), "reinforce.adam.eps": 1e-3, "reinforce.adam.weight_decay": 0.0,
             "reinforce.decay": 0.99, "reinforce.unit": 100.0, "reinforce.entropy": 1e-4, "reinforce.clip": None,
             "ranking.candidates": 1000, "ranking.batches": 1, "ranking.finalists": 1, "ranking.every_epoch": True,
             "batch_size": 64},
    "spos": {"weights.clip": 0.25, "weights.weight_decay": 3e-4, "batch_size": 64},
    "beta_darts": {"weight": 50.0, "arch.lr": 3e-4, "arch.weight_decay": 1e-3},
    "entrannas": {"engine.tau_start": 1.0, "engine.tau_end": 0.1, "share_features": True, "arch.lr": 3e-4},
    "entrannas_dst": {"engine.tau_start": 1.0, "engine.tau_end": 0.1, "pressure": 0.1, "threshold": 0.0},
    "zero_cost_pt": {"proxy": "naswot", "proposals": 10, "validation": 100, "batch_size": 256},
    "pi_nas": {"paths": 2, "momentum": 0.999, "consistency": 1.0},
    "dsnas": {"arch.lr": 1e-3, "arch.betas": (0.5, 0.999), "arch.weight_decay": 0.0, "gap": 0.3, "mean": 1.0,
              "spread": 0.01, "warm_up": 15 / 240},
    "dso_nas": {"scale.lr": 0.1, "scale.gamma": 1e-3, "scale.momentum": 0.9, "weights.weight_decay": 1e-4,
                "weights.nesterov": True, "batch_size": 128},
    "opp_darts": {"add_every": 2 / 50, "choice": "max", "batch_size": 64},
    "pdarts": {"arch.lr": 6e-4, "arch.betas": (0.5, 0.999), "arch.weight_decay": 1e-3, "arch_clip": 5.0,
               "dropout": (0.0, 0.4, 0.7), "warm_up": 10 / 25, "weights.lr": 0.025, "weights.lr_min": 0.0,
               "skip_cap": None, "batch_size": 96},
    "sgas": {"schedule.first": 9, "schedule.every": 5, "schedule.tail": 6, "schedule.rows": None},
    "sgas_2": {"history": 4},
    "da2s": {"weights.lr": 0.05, "weights.lr_min": 0.001, "arch.lr": 3e-3, "arch.weight_decay": 1e-3,
             "arch_momentum": 0.9, "arch_every": 5, "warm_up": 15 / 50, "entropy": 0.5, "batch_size": 256},
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_settings_are_the_published_ones(name: str) -> None:
    settings = METHODS[name].settings()
    found = {path: reduce(getattr, path.split("."), settings) for path in PUBLISHED[name]}
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("name", ["da2s", "dso_nas", "enas", "opp_darts", "pdarts", "spos"])
def test_the_published_batch_size_is_the_policy_s(name: str) -> None:
    """None takes the benchmark's."""
    method = METHODS[name]
    settings = method.settings()
    assert method.policy(settings).batch_size(3, 32) == PUBLISHED[name]["batch_size"]
    assert method.policy(dataclasses.replace(settings, batch_size=None)).batch_size(3, 32) == 32
