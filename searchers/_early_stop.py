"""When the dominant eigenvalue says stop: its measurement after an epoch, and the two published rules.

Source: Zela, Elsken, Saikia, Marrakchi, Brox, Hutter (2020), Understanding and Robustifying Differentiable Architecture
Search, https://arxiv.org/abs/1909.09656, section 4.3, and the rule of its code. λ is the eigenvalue of largest
magnitude of the validation loss's Hessian by the logits, without its sign, on the fixed probe; the paper's is of one
random batch.

A rule sees the values of one replica at epochs 0, `every`, 2·`every`, …, and returns the index to go back to:
  es_paper: with λ̄ the mean of the last k values, stop where λ̄(i − k)/λ̄(i) < 0.75; back to i − k.
  es_code: every second epoch; with λ̄ the mean of the window centred at a value (cut at the start of the series), stop
    where λ̄ of the newest whole window is over 1.3 times that 4 values earlier, unless the latter's centre lies before
    epoch 10; back to that centre, 12 epochs before the decision.
A comparison with a value that is not a number does not stop. Epochs are counted, not shares of the budget: a rule is a
test on a noisy series, and its noise does not stretch.
Sure: es_code, which was replayed on published series. Our reading: the wording of es_paper (a mean of whole windows
only), and that es_code looks at epochs on its grid only (the code adds the last epoch).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from searchers import _curvature, _relax
from searchers._bilevel import Bilevel
from searchers._part import Part, parts
from searchers.base import Batch, ForwardInputs, Logits

TOLERANCE = 1e-3


@runtime_checkable
class Rule(Protocol):
    """When to stop.

    Attributes:
        every: epochs from one value to the next.
        back: values that a stop goes back.
    """

    @property
    def every(self) -> int: ...

    @property
    def back(self) -> int: ...

    def stop(self, values: Sequence[float]) -> int | None:
        """Return the index of the value to go back to if the newest says stop."""
        ...


@dataclass(frozen=True)
class PaperRule:
    """Zela et al. (2020), section 4.3.

    Attributes:
        window: k, values in a mean, and how far a stop goes back.
        ratio: stop where the mean was below this share of what it is.
    """

    window: int = 5
    ratio: float = 0.75

    @property
    def every(self) -> int:
        return 1

    @property
    def back(self) -> int:
        return self.window

    def stop(self, values: Sequence[float]) -> int | None:
        then = len(values) - 1 - self.window
        if then < self.window - 1:
            return None
        now = _mean(values[-self.window :])
        return then if _mean(values[then + 1 - self.window : then + 1]) < self.ratio * now else None


@dataclass(frozen=True)
class CodeRule:
    """The authors' code.

    Attributes:
        every: epochs from one value to the next.
        window: values in a mean, an odd number.
        delta: values from the earlier centre to the later.
        factor: stop where the mean is over so many times what it was.
        start: first epoch to go back to.
    """

    every: int = 2
    window: int = 5
    delta: int = 4
    factor: float = 1.3
    start: int = 10

    @property
    def back(self) -> int:
        return self.window // 2 + self.delta

    def stop(self, values: Sequence[float]) -> int | None:
        then = len(values) - 1 - self.back
        if then < 0 or then * self.every < self.start:
            return None
        return then if self._around(values, then + self.delta) > self.factor * self._around(values, then) else None

    def _around(self, values: Sequence[float], centre: int) -> float:
        half = self.window // 2
        return _mean(values[max(centre - half, 0) : centre + half + 1])


@dataclass(frozen=True)
class StopSettings:
    """Which rule, and both rules' settings.

    Attributes:
        rule: the code's by default, because it is known exactly.
    """

    rule: Literal["es_code", "es_paper"] = "es_code"
    code: CodeRule = CodeRule()
    paper: PaperRule = PaperRule()


def chosen(settings: StopSettings) -> Rule:
    """Return the rule of the settings.

    Raises:
        ValueError: one of its numbers makes no sense.
    """
    rule = settings.code if settings.rule == "es_code" else settings.paper
    if rule.every < 1 or rule.window < 1:
        raise ValueError(f"expected every and window to be at least 1, got {rule.every} and {rule.window}")
    if isinstance(rule, CodeRule) and (rule.window % 2 == 0 or rule.delta < 1):
        raise ValueError(f"expected an odd window and a delta of at least 1, got {rule.window} and {rule.delta}")
    return rule


def eigenvalue(searcher: Bilevel, epoch: int) -> list[float]:
    """Return |λ| of every replica, nats per squared logit; the search is left as it is.

    The start vectors are drawn anew every epoch, so nothing of a measurement is kept.
    """
    resources = searcher.resources
    probe, streams = resources.probe(), resources.stream("early_stop", epoch)
    every = parts(searcher, resources.replicas, resources.curvature_replicas)
    with _curvature.exact_arithmetic():
        return [value for part in every for value in _eigenvalue(part, part.of(probe), streams[part.rows])]


def _eigenvalue(part: Part, probe: Batch, streams: Sequence[torch.Generator]) -> list[float]:
    logits, weights = part.logits(), part.weights()

    def loss(values: Logits) -> Float[Tensor, " replicas"]:
        return _relax.loss(part.supernet, probe, part.relax(values), weights, ForwardInputs(twice=True))

    point = _curvature.hessian_operator(loss, logits)
    basis, size = _curvature.null_basis(logits, part.shift_invariant), point.gradient.shape[1]
    start = torch.stack([torch.randn(size, generator=stream, dtype=torch.float64) for stream in streams])
    return _curvature.lanczos(point.product, start, basis, TOLERANCE).value.abs().tolist()


def of_each(rows: Sequence[Mapping[str, Float[Tensor, "decisions options"]]], like: Logits) -> Logits:
    """Stack the logits of every replica, in the type and place of `like`."""
    return {name: torch.stack([row[name].to(value) for row in rows]) for name, value in like.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
