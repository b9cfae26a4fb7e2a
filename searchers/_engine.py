"""One supernet of two kinds of cells: engine cells mix options, transit cells run the derived cell, unweighted.

Source: Yang, You, Li, Wang, Qian, Lin (2021), Towards Improving the Consistency, Efficiency, and Flexibility of
Differentiable Neural Architecture Search (EnTranNAS), https://arxiv.org/abs/2101.11342, sections 3.2 and 3.3.
Only engine cells give the logits a gradient. What a transit cell runs is decided on the host: every mixture reads the
logits from the device, without which nothing could be left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from searchers._descent import Moment
from searchers._hosted import constant
from searchers.base import Choices, Group, Logits

Rows = Mapping[str, Float[Tensor, "replicas decisions options"]]
Host = Mapping[str, Bool[np.ndarray, "replicas decisions options"]]


@dataclass(frozen=True)
class EngineSettings:
    """Where engine cells are, and how sharply they mix; the paper gives neither the place nor the temperatures.

    Attributes:
        cells: numbers of the engine cells, negative ones from the end; None is the last cell of the second stage.
        tau_start: temperature of the first epoch.
        tau_end: temperature of the last epoch, reached exponentially.
    """

    cells: tuple[int, ...] | None = None
    tau_start: float = 1.0
    tau_end: float = 0.1


def check(settings: EngineSettings, cells: int) -> None:
    """Raise where the settings do not fit a network of so many cells.

    Raises:
        ValueError: an engine cell does not exist, or a temperature is not positive.
    """
    if not all(-cells <= cell < cells for cell in settings.cells or ()):
        raise ValueError(f"expected engine cells from {-cells} to {cells - 1}, got {settings.cells}")
    if min(settings.tau_start, settings.tau_end) <= 0:
        raise ValueError(f"expected positive temperatures, got {settings.tau_start} and {settings.tau_end}")


def places(settings: EngineSettings, cells: int) -> Bool[np.ndarray, " cells"]:
    """Return which cells are engines."""
    found = np.zeros(cells, bool)
    found[[2 * cells // 3 - 1] if settings.cells is None else list(settings.cells)] = True
    return found


def temperature(settings: EngineSettings, moment: Moment) -> float:
    """Return τ_start·(τ_end/τ_start)^(e/(E−1))."""
    last = moment.resources.horizon.epochs - 1
    share = moment.epoch / last if last else 0.0
    return float(settings.tau_start * (settings.tau_end / settings.tau_start) ** share)


def assemble(engines: Bool[np.ndarray, " cells"], mixed: Rows, derived: Host, computed: Host | None) -> Choices:
    """Return `mixed` for engine cells, of which `computed` is computed (None: all), and `derived` for the others.

    Where all cells are engines the weights are shared by all. Where none is, the gradient of the logits is zero.
    """
    if engines.all():
        active = None if computed is None else {name: mask[None] for name, mask in computed.items()}
        return Choices({name: value[None] for name, value in mixed.items()}, active)
    first = next(iter(mixed.values()))
    here = constant(engines, first.device)[:, None, None, None]
    weights = {n: torch.where(here, v[None], constant(derived[n], v.device).to(v)[None]) for n, v in mixed.items()}
    inside = {n: np.ones_like(mask) for n, mask in derived.items()} if computed is None else computed
    active = {n: np.where(engines[:, None, None, None], inside[n][None], derived[n][None]) for n in derived}
    return Choices(weights, None if all(mask.all() for mask in active.values()) else active)


def k_hot(groups: Sequence[Group], scores: Logits) -> dict[str, Bool[np.ndarray, "replicas decisions options"]]:
    """Return the highest options of every decision; ties go to the lowest index."""
    return {group.name: _top(values, group.keep) for group, values in zip(groups, read(groups, scores), strict=True)}


def read(groups: Sequence[Group], values: Mapping[str, Tensor]) -> list[np.ndarray]:
    """Return "replicas decisions options" of every group on the host, read from the device at once."""
    flat = torch.cat([values[group.name].detach().flatten(1) for group in groups], 1).cpu().numpy()
    ends = np.cumsum([group.shape[0] * group.shape[1] for group in groups])
    parts = np.split(flat, ends[:-1], 1)
    return [part.reshape(-1, *group.shape) for group, part in zip(groups, parts, strict=True)]


def _top(
    scores: Float[np.ndarray, "replicas decisions options"], keep: int
) -> Bool[np.ndarray, "replicas decisions options"]:
    hot = np.zeros(scores.shape, bool)
    np.put_along_axis(hot, np.argsort(-scores, axis=-1, kind="stable")[..., :keep], values=True, axis=-1)
    return hot
