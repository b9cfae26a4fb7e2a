"""Everything that is measured at one instant of a search; nothing of the searcher changes."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from bench.clock import Clock
from bench.lab import Lab
from bench.metrics import cell, curvature, discretisation, landscape, native, ranking
from bench.spec import RunSpec
from searchers.base import Batch, Searcher

Fields = list[dict[str, Any]]
"""Fields of a record, one dictionary a replica."""


class Instruments:
    """The metrics of one stack; remembers the vectors that curvature starts from.

    Attributes:
        vectors: the last eigenvectors, None before the first measurement.
    """

    def __init__(self, spec: RunSpec, lab: Lab, truth: cell.Truth | None, searcher: Searcher) -> None:
        self.spec, self.lab, self.truth, self.searcher = spec, lab, truth, searcher
        self.vectors: Float[Tensor, "replicas size"] | None = None

    def everything(self, epoch: int, clock: Clock) -> list[Fields]:
        """Return all fields of a record after `epoch` epochs."""
        found = cell.supernet(self.searcher, self.lab)
        supernet = [{"supernet": one} for one in found]
        measured = [self._curvature(epoch, clock), self._ranking(epoch), self._landscape(epoch)]
        due = discretisation.due(epoch, self.spec.epochs)
        return [*self._choices(), supernet, *measured, self._discretisation(found, due=due)]

    def cells(self, _epoch: int, _clock: Clock) -> list[Fields]:
        """Return the fields of the selection stage, which changes the cell and little else is measured again."""
        reason = "not measured at stage 'final': see the last epoch"
        reasons = {f"no_{name}": reason for name in ("curvature", "ranking", "landscape")}
        nothing = dict.fromkeys(("supernet", "curvature", "ranking", "landscape")) | reasons
        return [*self._choices(), [nothing] * self.lab.replicas, self._discretisation(None, due=True)]

    def _choices(self) -> list[Fields]:
        found = cell.cells(self.lab.space, self.searcher.selected(), self.lab.replicas, self.truth)
        return [found, cell.choices(self.searcher, self.lab.replicas), self._diagnostics()]

    def _diagnostics(self) -> Fields:
        host = {name: values.tolist() for name, values in self.searcher.diagnostics().items()}
        rows = [{name: values[replica] for name, values in host.items()} for replica in range(self.lab.replicas)]
        return [{"diagnostics": row or None} for row in rows]

    def _discretisation(self, before: list[dict[str, float] | None] | None, *, due: bool) -> Fields:
        reason = discretisation.undefined(self.searcher, self.lab.space)
        if reason is None and not due:
            reason = f"measured every {discretisation.EVERY} epochs"
        if reason is not None:
            return _missing("discretisation", reason, self.lab.replicas)
        found = discretisation.measure(self.searcher, self.lab, before)
        diverged = "the scores are not finite: the search has diverged"
        return [{"discretisation": one, "no_discretisation": diverged if one is None else None} for one in found]

    def _curvature(self, epoch: int, clock: Clock) -> Fields:
        spec, lab = self.spec, self.lab
        reason = self._why_no_curvature(epoch)
        if reason is not None:
            return _missing("curvature", reason, lab.replicas)
        whole = curvature.epoch_wants_spectrum(epoch, spec.epochs, spec.curvature)
        legacy = lab.feed.legacy_probe(max(epoch - 1, 0), spec.epochs) if whole else None
        probes, noise = curvature_probes(lab, legacy), lab.stream("curvature", epoch)
        with clock.curvature():
            found = curvature.measure(self.searcher, probes, self.vectors, noise, spec.curvature, whole)
            besides = self._native(probes) if whole else [{}] * lab.replicas
        self.vectors = found.vectors
        return _present("curvature", [{**one, **more} for one, more in zip(found.records, besides, strict=True)])

    def _native(self, probes: curvature.Probes) -> Fields:
        settings = self.spec.native
        if settings is None:
            return [{}] * self.lab.replicas
        return native.measure(self.searcher, probes.fixed, settings, probes.together)

    def _why_no_curvature(self, epoch: int) -> str | None:
        spec = self.spec
        if self.searcher.no_curvature is not None:
            return self.searcher.no_curvature
        if spec.curvature.mode == "off":
            return "curvature was switched off"
        if epoch % spec.curvature_every and epoch != spec.epochs:
            return f"curvature is measured every {spec.curvature_every} epochs"
        return None

    def _ranking(self, epoch: int) -> Fields:
        spec, lab, truth = self.spec, self.lab, self.truth
        reason = self._why_no_ranking(epoch)
        if reason is not None or spec.ranking is None or truth is None:
            return _missing("ranking", reason, lab.replicas)
        sample = ranking.sample(lab.space, spec.dataset, spec.ranking.cells)
        return _present("ranking", ranking.measure(self.searcher, lab, truth, sample, spec.ranking.top))

    def _why_no_ranking(self, epoch: int) -> str | None:
        spec = self.spec
        if spec.ranking is None:
            return "not asked for: --metrics ranking"
        reason = ranking.undefined(self.searcher, self.lab.space, self.truth)
        if reason is None and not spec.ranking.due(epoch, spec.epochs):
            every = spec.ranking.every
            return "measured after the last epoch" if every is None else f"measured every {every} epochs"
        return reason

    def _landscape(self, epoch: int) -> Fields:
        reason = self._why_no_landscape(epoch)
        if reason is not None or self.spec.landscape is None or self.vectors is None:
            return _missing("landscape", reason, self.lab.replicas)
        probe, noise = self.lab.feed.probe(self.spec.probe_size), self.lab.stream("landscape", epoch)
        return _present("landscape", landscape.measure(self.searcher, probe, self.vectors, noise, self.spec.landscape))

    def _why_no_landscape(self, epoch: int) -> str | None:
        if self.spec.landscape is None:
            return "not asked for: --landscape"
        reason = self._why_no_curvature(epoch)
        return "measured after the last epoch" if reason is None and epoch != self.spec.epochs else reason


def curvature_probes(lab: Lab, legacy: Batch | None = None) -> curvature.Probes:
    """Return what λ is measured on in a stack."""
    return curvature.Probes(lab.probe(), legacy, lab.curvature_replicas)


def _present(name: str, records: list[dict[str, Any]]) -> Fields:
    return [{name: record, f"no_{name}": None} for record in records]


def _missing(name: str, reason: str | None, replicas: int) -> Fields:
    return [{name: None, f"no_{name}": reason}] * replicas
