"""The contract between searchers, supernets and the experiment.

An architecture is a set of choices. A searcher owns the logits of the choices; a supernet is a pure function of
(images, choices). Every tensor of a search carries a leading `replicas` axis, so several seeds run as one computation.
`docs/contract.md` says why the shapes are these and what else was tried.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Logits = dict[str, Float[Tensor, "replicas decisions options"]]
"""Group name to the searcher's raw architecture parameters."""

Scores = Mapping[str, Float[np.ndarray, "decisions options"]]
"""Group name to one replica's scores: the highest-scoring options of each decision are kept."""

Active = Mapping[str, Bool[np.ndarray, "cells replicas decisions options"]]
"""Group name to the options that are computed, decided on the host."""


Flat = Float[Tensor, "replicas size"]
"""A network's weights, or a gradient by them, side by side in the order of `named_parameters`."""


@dataclass(frozen=True)
class Group:
    """A table of decisions that share their options.

    Attributes:
        kind: "op" chooses an operation, "edge" chooses inputs.
        keep: options kept per decision when the cell is discretised.
        parametric: per option, whether it has weights of its own.
        targets: per decision, the node its output is summed into; empty where decisions are not edges.
    """

    name: str
    decisions: int
    options: tuple[str, ...]
    kind: Literal["op", "edge"] = "op"
    keep: int = 1
    parametric: tuple[bool, ...] = ()
    targets: tuple[int, ...] = ()

    def index(self, option: str) -> int | None:
        """Return the column of an option, None where this group does not have it."""
        return self.options.index(option) if option in self.options else None

    @property
    def shape(self) -> tuple[int, int]:
        return self.decisions, len(self.options)


@dataclass(frozen=True)
class Choices:
    """Mixing weights of every decision: what a supernet receives.

    Attributes:
        weights: per group "cells replicas decisions options"; `cells` is 1 (shared by all cells) or the number of
            cells. Rows need not lie on a simplex.
        active: host-side booleans of the same shape; an inactive option is left out: the output does not depend
            on it, and neither its weight nor its parameters get a gradient. None: nothing is. A weight that happens to
            be zero has a gradient.
    """

    weights: Mapping[str, Float[Tensor, "cells replicas decisions options"]]
    active: Active | None = None


class Batch(NamedTuple):
    """Images and labels of every replica."""

    images: Float[Tensor, "replicas n c h w"]
    labels: Int[Tensor, "replicas n"]


class StepBatches(NamedTuple):
    """What one step receives, as many of each as the searcher's data policy asks for."""

    train: tuple[Batch, ...]
    val: tuple[Batch, ...]


class StepLosses(NamedTuple):
    """Mean cross-entropy in nats of the batches of one step, before the updates; None where a method has none."""

    train: Float[Tensor, " replicas"]
    val: Float[Tensor, " replicas"] | None


class Observation(NamedTuple):
    """One map inside a forward pass, as a node of its graph: losses can be differentiated by `maps`.

    Attributes:
        kind: "relu": the input of a ReLU; "convolution": the output of a convolution, before its normalisation.
        rows: the replicas the map was computed for; None: all.
    """

    kind: Literal["relu", "convolution"]
    maps: Float[Tensor, "rows n c h w"]
    rows: Int[Tensor, " rows"] | None


@dataclass(frozen=True)
class ForwardInputs:
    """What changes from one forward pass to the next besides the choices.

    Attributes:
        keep: per "op" group, "cells replicas n decisions": factor on the mixed output of a decision for each image
            (drop-path masks, already scaled by 1/(1-p)); None is all ones.
        shift: per "op" group, "cells replicas decisions": added to every pixel of the mixed output of a decision
            (GDAS adds what it did not sample: zero with a gradient); None is zero.
        auxiliary: coefficient of the auxiliary skips; 0 leaves them out.
        observe: called with what the pass computes inside the network, in the order of computation; maps of what is
            left out are not computed and not seen.
        twice: whether derivatives of derivatives will be asked for. They are there anyway: it decides what is fast, and
            changes no output. Such a pass is `exact`.
        exact: whether second derivatives, or the difference between this pass and another that hardly differs, will be
            asked for: narrow images are widened to the type of the weights.
        weights: what to compute with in place of the network's own weights; one tensor is faster to differentiate by
            than each of them. None: the network's own.
    """

    keep: Mapping[str, Float[Tensor, "cells replicas n decisions"]] | None = None
    shift: Mapping[str, Float[Tensor, "cells replicas decisions"]] | None = None
    auxiliary: float = 0.0
    observe: Callable[[Observation], None] | None = None
    twice: bool = False
    exact: bool = False
    weights: Flat | None = None


@dataclass(frozen=True)
class SupernetOptions:
    """What a method needs built into its network.

    Attributes:
        partial_channels: K: operations mix the first 1/K of the channels, the rest bypass them, and channels are
            shuffled with K groups (PC-DARTS, Xu et al. 2020, eq. 2). K divides the number of channels.
        edge_weights: every node weighs its incoming edges by a row of its own, a group `in_j` of one decision, where
            the space has no such choice (PC-DARTS, eq. 4). NAS-Bench-1Shot1 has it already.
        auxiliary_skip: every mixed operation has its input added to its output, times `ForwardInputs.auxiliary`
            (DARTS-, Chu et al. 2021, eq. 6).
        shared_features: an operation on a node is computed once, with weights of its own, for all edges out of the node
            (EnTranNAS, Yang et al. 2021), where operations belong to edges.
        groups: further groups, which the searcher reads and the network only carries.
        depth: share of the benchmark's cells a stage, rounded and at least one cell (P-DARTS, Chen et al. 2019).
        normalise: false leaves every batch normalisation out, with its scale and shift; the parameters stay, unused.
    """

    partial_channels: int = 1
    edge_weights: bool = False
    auxiliary_skip: bool = False
    shared_features: bool = False
    groups: tuple[Group, ...] = ()
    normalise: bool = True
    depth: float = 1.0


class Address(NamedTuple):
    """The option a parameter belongs to; option None means any option of the decision.

    A parameter that several decisions share has them all: it is used where any of them uses it.
    """

    cell: int
    group: str
    decision: int | tuple[int, ...]
    option: int | None


@runtime_checkable
class Supernet(Protocol):
    """A pure function of (images, choices); it holds weights and nothing of the search.

    Maps have the type of the images, which may be narrower than that of weights, choices and output
    (docs/precision.md).
    Other weights (unrolled, perturbed, averaged) go in through `ForwardInputs.weights`. Batch normalisation uses
    batch statistics always: no running statistics exist.
    """

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def cells(self) -> int: ...

    @property
    def replicas(self) -> int: ...

    def __call__(
        self, images: Float[Tensor, "replicas n c h w"], choices: Choices, inputs: ForwardInputs = ...
    ) -> Float[Tensor, "replicas n classes"]: ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...

    def address(self, name: str) -> Address | None:
        """Return the option a parameter belongs to, None for a parameter that is always used."""
        ...

    def live(self, active: Active) -> Active:
        """Return the active options without those whose output cannot reach the head."""
        ...


@dataclass(frozen=True)
class DataPolicy:
    """Which data a method sees in a step.

    Attributes:
        split: "halves": weights see the training half, architecture the validation half; "all": both are one set.
        train_batches: training batches per step; 0 for methods that train nothing: an epoch has no steps, a run has
            no epochs, and what the method does it does in `finish`.
        val_batches: validation batches per step; 0 for methods that train weights only.
        batch_size: (epoch, base size) to the size in that epoch.
        classes: (epoch, epochs) to the share of the classes whose images are served in that epoch, those of the lowest
            numbers; probes and evaluations have all classes.
    """

    split: Literal["halves", "all"] = "halves"
    train_batches: int = 1
    val_batches: int = 1
    batch_size: Callable[[int, int], int] = field(default=lambda _epoch, base: base)
    classes: Callable[[int, int], float] = field(default=lambda _epoch, _epochs: 1.0)


class Evaluation(NamedTuple):
    """Un-augmented accuracy (fraction) and mean cross-entropy (nats)."""

    accuracy: Float[Tensor, " replicas"]
    loss: Float[Tensor, " replicas"]


@dataclass(frozen=True)
class Horizon:
    """The budget: `epochs` in all; schedules and stages scale with it."""

    epochs: int


@runtime_checkable
class Resources(Protocol):
    """What the loop lends a searcher."""

    @property
    def groups(self) -> tuple[Group, ...]: ...

    @property
    def replicas(self) -> int: ...

    @property
    def horizon(self) -> Horizon: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def curvature_replicas(self) -> int | None:
        """Return how many replicas' λ may be measured at once, for methods that use λ themselves; None: all."""
        ...

    def build(self, options: SupernetOptions) -> Supernet:
        """Return a freshly initialised network; every call starts from the same named weight streams."""
        ...

    def evaluate(self, network: Supernet, choices: Choices, split: str, batches: range | None) -> Evaluation:
        """Evaluate without gradients on un-augmented batches of "train" or "val"; None is the whole split.

        Batch indices wrap around, so `range(10 * i, 10 * i + 10)` is a sequential stream.
        """
        ...

    def served(self, policy: DataPolicy, epoch: int) -> Iterator[StepBatches]:
        """Return what the steps of an epoch would receive, for methods that read images outside of steps.

        A pure function of (seed, policy, epoch); epochs may go on beyond the horizon.
        """
        ...

    def probe(self) -> Batch:
        """Return the fixed un-augmented validation images that λ is measured on, for methods that use λ themselves."""
        ...

    def stream(self, name: str, step: int) -> tuple[torch.Generator, ...]:
        """Return one CPU generator a replica, a pure function of (seed, name, step)."""
        ...


@runtime_checkable
class Searcher(Protocol):
    """An algorithm that trains a supernet and owns the logits of its choices.

    Attributes:
        policy: the data a step receives.
        supernet: the network whose loss curvature is measured.
        hessian_of: which loss the Hessian is of, for records and captions; None where λ is undefined.
        no_curvature: why λ is undefined, None where it is defined.
        shift_invariant: groups in which adding a constant to a row of logits changes nothing (softmax rows); these
            directions are an exact null space of the Hessian.
    """

    @property
    def policy(self) -> DataPolicy: ...

    @property
    def supernet(self) -> Supernet: ...

    @property
    def hessian_of(self) -> str | None: ...

    @property
    def no_curvature(self) -> str | None: ...

    @property
    def shift_invariant(self) -> tuple[str, ...]: ...

    def logits(self) -> Logits:
        """Return the raw architecture parameters, detached; empty for methods without logits."""
        ...

    def relax(self, logits: Logits) -> Choices:
        """Return the mixing weights λ is defined on: pure, deterministic, differentiable."""
        ...

    def selected(self) -> Logits | None:
        """Return the scores to discretise, None while the method has not selected anything."""
        ...

    def diagnostics(self) -> Mapping[str, Float[Tensor, " replicas"]]:
        """Return numbers of the last epoch that only this method has, for its records; mostly none."""
        ...

    def begin_epoch(self, epoch: int) -> None: ...

    def step(self, batches: StepBatches) -> StepLosses: ...

    def end_epoch(self, epoch: int) -> None: ...

    def finish(self) -> None:
        """Run the selection stage after the last epoch; may change what `selected` returns."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Steady(Protocol):
    """A searcher whose step may be recorded on the device, and played instead of taken (`bench.replay`).

    The steps of an epoch call the same functions, on tensors that stay where they are in memory; what differs are the
    batches and what `searchers._hosted` draws. A step reads nothing from the device, and changes nothing on the host
    but what `skip` changes too. The registry's entry says which methods are steady.
    """

    def step(self, batches: StepBatches) -> StepLosses: ...

    def skip(self) -> None:
        """Count a step that was played."""
        ...


@dataclass(frozen=True)
class Native:
    """The loss that a searcher itself descends on, where it is the mean of a random one.

    Attributes:
        hessian_of: that loss, for records and captions.
        draw: (logits, number) to one sample of the mixing weights and what else its pass receives: pure, as
            differentiable as in a step, of streams that no step draws from.
    """

    hessian_of: str
    draw: Callable[[Logits, int], tuple[Choices, ForwardInputs]]


@runtime_checkable
class Sampling(Protocol):
    """A searcher that may descend on a random loss; λ is defined on a deterministic relaxation besides."""

    @property
    def native(self) -> Native | None: ...
