"""The plain supernet and the plain search, against normalisation spelled out and against the fast search."""

import labs
import pytest
from test_supernet_plain import close, mean_pool, normal, shuffled, spelled_out_bn
from torch.nn import functional

from bench.speed import plain
from searchers import darts
from searchers._optim import ArchSettings, WeightSettings

SETTINGS = darts.Settings(WeightSettings(clip=0.5), ArchSettings(lr=0.1))


def test_its_pieces_are_what_they_are_called() -> None:
    x, weight, bias = normal(4, 6, 5, 5, seed=0), normal(6, seed=1), normal(6, seed=2)
    close(plain.bn(x, {}), spelled_out_bn(x))
    close(plain.bn(x, {"a.weight": weight, "a.bias": bias}, "a"), spelled_out_bn(x, weight, bias))
    close(plain.shuffled(x, 3), shuffled(x, 3))
    close(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False), mean_pool(x))


@pytest.mark.parametrize("space", ["toy", "s1", "nb201"])
def test_the_plain_search_is_the_fast_one(space: str) -> None:
    """Each seed of a stack, both optimisers, clipping and weight decay: three steps in float64."""
    lab = labs.make(space, seeds=(3, 5), channels=4)
    fast = darts.METHOD.build(SETTINGS, lab)
    weights, logits = dict(fast.supernet.named_parameters()), fast.logits()
    one_by_one = [
        plain.PlainDarts(
            space,
            {name: value.detach()[seed] for name, value in weights.items()},
            {name: value[seed] for name, value in logits.items()},
            (SETTINGS.weights, SETTINGS.arch),
        )
        for seed in (0, 1)
    ]
    fast.begin_epoch(0)
    before = {name: value.clone() for name, value in logits.items()}
    for batches in labs.steps(lab, fast.policy, 3):
        fast.step(batches)
        for seed, search in enumerate(one_by_one):
            search.step(batches.train[0], batches.val[0], seed)
    for seed, search in enumerate(one_by_one):
        for name, value in dict(fast.supernet.named_parameters()).items():
            close(search.parameters[name].detach(), value.detach()[seed], 1e-8)
        for name, value in fast.logits().items():
            close(search.logits[name].detach(), value[seed], 1e-7)
            assert (value - before[name]).abs().max() > 0.1
