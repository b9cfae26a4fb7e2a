"""Some replicas of a searcher, for measurements that keep more in memory than a stack can have at once.

A Hessian-vector product keeps several times what a step keeps, of more images: seeds that are searched together need
not be measured together. Replicas are independent, so a part has the numbers of the whole, up to rounding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from searchers._optim import weights_of
from searchers.base import Batch, Choices, Flat, ForwardInputs, Logits, Native, Searcher, Supernet


@dataclass(frozen=True)
class Part:
    """Adjoining replicas of a searcher, as measurements of its loss see one.

    Attributes:
        rows: which replicas.
    """

    searcher: Searcher
    rows: slice

    @property
    def supernet(self) -> Supernet:
        """Return the network of all replicas; with weights of `weights` it computes these."""
        return self.searcher.supernet

    @property
    def hessian_of(self) -> str | None:
        return self.searcher.hessian_of

    @property
    def no_curvature(self) -> str | None:
        return self.searcher.no_curvature

    @property
    def shift_invariant(self) -> tuple[str, ...]:
        return self.searcher.shift_invariant

    def weights(self) -> Flat:
        """Return the detached weights of these replicas, side by side; they move as the network's do."""
        return weights_of(self.searcher.supernet)[self.rows]

    def logits(self) -> Logits:
        return {name: value[self.rows] for name, value in self.searcher.logits().items()}

    def relax(self, logits: Logits) -> Choices:
        """Return the mixing weights of these replicas, whatever the others' are."""
        return _rows(self.searcher.relax(self._among_all(logits)), self.rows)

    def sampled(self, native: Native, logits: Logits, number: int) -> tuple[Choices, ForwardInputs]:
        """Return what these replicas have of a sample of the searcher's own loss."""
        choices, inputs = native.draw(self._among_all(logits), number)
        return _rows(choices, self.rows), replace(
            inputs, keep=_tables(inputs.keep, self.rows), shift=_tables(inputs.shift, self.rows)
        )

    def _among_all(self, logits: Logits) -> Logits:
        """Return the logits of all replicas, in which these have the given ones."""
        whole, first, last = self.searcher.logits(), self.rows.start, self.rows.stop
        return {name: torch.cat([whole[name][:first], value, whole[name][last:]]) for name, value in logits.items()}

    def of(self, batch: Batch) -> Batch:
        """Return what these replicas see of a batch."""
        return Batch(batch.images[self.rows], batch.labels[self.rows])


def parts(searcher: Searcher, replicas: int, together: int | None) -> Iterator[Part]:
    """Return all replicas in parts of at most so many, equal up to one; None: in one part."""
    number = 1 if together is None else -(-replicas // together)
    bounds = [replicas * i // number for i in range(number + 1)]
    return (Part(searcher, slice(*pair)) for pair in pairwise(bounds))


def _rows(choices: Choices, rows: slice) -> Choices:
    weights = {name: table[:, rows] for name, table in choices.weights.items()}
    active = choices.active
    return Choices(weights, None if active is None else {name: mask[:, rows] for name, mask in active.items()})


def _tables(tables: Mapping[str, Tensor] | None, rows: slice) -> Mapping[str, Tensor] | None:
    """Return these replicas' part of tables "cells replicas ..."."""
    return None if tables is None else {name: table[:, rows] for name, table in tables.items()}
