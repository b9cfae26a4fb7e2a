"""Training a stand-alone network by a benchmark's protocol, checkpointed after every epoch.

NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635, section 2.4): 108 epochs, RMSProp as TensorFlow has
it, cosine decay every step from 0.2, 40,000 images to train on and 10,000 to validate.
NAS-Bench-201 (Dong and Yang 2020, https://arxiv.org/abs/2001.00326, section 2.2, set H): 200 epochs, SGD with
Nesterov's momentum, cosine decay every epoch from 0.1, 25,000 images each.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.data.augment import Augmentation
from bench.data.feed import Feed, FeedSettings
from bench.data.types import Dataset, balanced
from searchers.base import DataPolicy


@dataclass(frozen=True)
class Protocol:
    """How a cell is trained on its own.

    Attributes:
        cells: cells in each of three stacks.
        clock: how often the learning rate decays.
        train_share: share of the labelled images, from the first on, that is trained on while the rest validates; None
            trains on the half the dataset names for training.
    """

    epochs: int
    batch_size: int
    channels: int
    cells: int
    lr: float
    weight_decay: float
    optimiser: Literal["rmsprop", "sgd"]
    clock: Literal["step", "epoch"]
    train_share: float | None
    augmentation: Augmentation = Augmentation(padding=4, flip=True, cutout_length=0)


NB101 = Protocol(108, 256, 128, 3, 0.2, 1e-4, "rmsprop", "step", 0.8)
NB201 = Protocol(200, 256, 16, 5, 0.1, 5e-4, "sgd", "epoch", None)


class Split(NamedTuple):
    """Images to train on, and the held-out ones accuracies are measured on."""

    train: Dataset
    held_out: dict[str, Dataset]


class Progress(NamedTuple):
    """What is known after an epoch; accuracies are fractions, by name of the held-out images."""

    epoch: int
    train_loss: float
    accuracy: dict[str, float]


class RMSProp(torch.optim.Optimizer):
    """RMSProp with momentum as TensorFlow's: m ← ρm + (1−ρ)g², u ← μu + ηg/√(m + ε), w ← w − u; m starts at one.

    torch's has √m + ε and starts at zero, which with ε = 1 is another optimiser.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "decay": 0.9, "momentum": 0.9, "epsilon": 1.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: nothing here evaluates a loss twice
        """Move the parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["square"], state["update"] = torch.ones_like(parameter), torch.zeros_like(parameter)
                gradient = parameter.grad + group["weight_decay"] * parameter
                state["square"].mul_(group["decay"]).addcmul_(gradient, gradient, value=1 - group["decay"])
                root = (state["square"] + group["epsilon"]).sqrt_()
                state["update"].mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
                parameter.sub_(state["update"])


class Trainer:
    """One training under way."""

    def __init__(self, network: nn.Module, split: Split, protocol: Protocol, seed: int, device: torch.device) -> None:
        self.network, self.protocol, self.device = network.to(device), protocol, device
        self.feed = _feed(split.train, protocol, seed, device)
        self.held_out = {name: _feed(part, protocol, seed, device) for name, part in split.held_out.items()}
        self.optimiser = _optimiser(network, protocol)
        self.epoch = 0

    def train(self) -> Progress:
        """Train for one epoch and measure."""
        self.network.train()
        policy = DataPolicy(val_batches=0)
        steps = self.feed.steps_per_epoch(policy, self.epoch)
        total = torch.zeros((), device=self.device)
        for index, batches in enumerate(self.feed.epoch(policy, self.epoch, self.protocol.epochs)):
            done = self.epoch + (index / steps if self.protocol.clock == "step" else 0)
            for group in self.optimiser.param_groups:
                group["lr"] = self.protocol.lr * (1 + math.cos(math.pi * done / self.protocol.epochs)) / 2
            images, labels = (part[0] for part in batches.train[0])
            loss = cross_entropy(self.network(images), labels)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.detach()
        self.epoch += 1
        accuracy = {name: self._accuracy(feed) for name, feed in self.held_out.items()}
        return Progress(self.epoch, float(total) / steps, accuracy)

    @torch.no_grad()
    def _accuracy(self, feed: Feed) -> float:
        """Return the share of a feed's validation images that is classified correctly, with running statistics."""
        self.network.eval()
        found = [(self.network(batch.images[0]).argmax(-1) == batch.labels[0]) for batch in feed.evaluation("val")]
        return float(torch.cat(found).double().mean())

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = state["epoch"]


def split(dataset: Dataset, protocol: Protocol, train_size: int | None = None) -> Split:
    """Return the images of a protocol; of those to train on, the first `train_size`, class-balanced.

    Raises:
        ValueError: the dataset has no test images, or too few to train on.
    """
    if dataset.test is None:
        raise ValueError(f"expected a dataset with test images, got {dataset.name!r}")
    train, val = dataset.train_indices, dataset.val_indices
    if protocol.train_share is not None:
        everything = torch.cat([train, val]).sort().values
        first = round(protocol.train_share * len(everything))
        train, val = everything[:first], everything[first:]
    if train_size is not None:
        train = _limited(dataset, train, train_size)
    validation = dataset.search if dataset.table_val is None else dataset.table_val
    kept = val if dataset.table_val is None else torch.arange(len(validation.labels))
    return Split(
        replace(dataset, train_indices=train, val_indices=val),
        {
            "val": replace(dataset, search=validation, val_indices=kept),
            "test": replace(dataset, search=dataset.test, val_indices=torch.arange(len(dataset.test.labels))),
        },
    )


def _limited(dataset: Dataset, train: Tensor, size: int) -> Tensor:
    if not dataset.classes <= size <= len(train):
        raise ValueError(f"expected --train-size from {dataset.classes} to {len(train)}, got {size}")
    return train[balanced(dataset.search.labels[train], size, dataset.classes)]


def _feed(dataset: Dataset, protocol: Protocol, seed: int, device: torch.device) -> Feed:
    settings = FeedSettings(protocol.batch_size, protocol.augmentation, eval_batch_size=500, cutout_ramp=False)
    return Feed(dataset, (seed,), settings, device, torch.float32)


def _optimiser(network: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """Return the protocol's optimiser; NAS-Bench-101 decays everything but batch norm."""
    if protocol.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(), protocol.lr, momentum=0.9, weight_decay=protocol.weight_decay, nesterov=True
        )
    norms = {id(p) for module in network.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    plain, decayed = ([p for p in network.parameters() if (id(p) in norms) == norm] for norm in (True, False))
    return RMSProp([{"params": decayed, "weight_decay": protocol.weight_decay}, {"params": plain}], protocol.lr)
