"""SETN: uniform cells for the weights, the softmax for the evaluator, cells drawn by it for the ranking."""

import dataclasses
import itertools

import labs
import numpy as np
import torch
from scipy.stats import chisquare
from test_ranking import KnownLab, number
from torch.nn import functional

from searchers import setn
from searchers._bilevel import Bilevel
from searchers._optim import ArchSettings, WeightSettings
from searchers._paths import uniform
from searchers._ranking import RankingSettings
from searchers.base import Choices, Resources
from searchers.setn import Settings, sample

FEW = RankingSettings(5, 2, 2)


def searcher(lab: Resources, **changes: object) -> Bilevel:
    return setn.build(dataclasses.replace(Settings(ranking=FEW), **changes), lab)


def test_defaults_are_those_of_nats_bench() -> None:
    assert Settings().weights == WeightSettings(0.025, 0.001, 0.9, 5e-4, None, nesterov=True)
    assert Settings().arch == ArchSettings()
    assert (Settings().ranking.candidates, Settings().ranking.batches, Settings().per_cell) == (100, 1, True)


def test_a_step_is_the_equations_weights_first() -> None:
    """Two replicas on nb201, every option computed densely; torch's optimisers for each replica."""
    lab = labs.make("nb201")
    mine = searcher(lab, weights=WeightSettings(0.1, 0.0, 0.9, 0.02, None, nesterov=True), arch=ArchSettings(lr=0.1))
    network = lab.build(mine.recipe.options)
    parameters = [
        {name: torch.nn.Parameter(value[[r]].detach().clone()) for name, value in network.named_parameters()}
        for r in range(2)
    ]
    logits = [torch.nn.Parameter(mine.logits()["op"][[r]].clone()) for r in range(2)]
    sgd = [torch.optim.SGD(p.values(), lr=0.1, momentum=0.9, weight_decay=0.02, nesterov=True) for p in parameters]
    adam = [torch.optim.Adam([value], lr=0.1, betas=(0.5, 0.999), weight_decay=1e-3) for value in logits]
    single = labs.make("nb201", (0,)).build(mine.recipe.options)
    mine.begin_epoch(0)
    for step, batches in enumerate(labs.steps(lab, mine.policy, 2)):
        hot = uniform(network, lab, "cell", step, 3)["op"]
        assert (hot[0] != hot[1]).any()
        for r in range(2):
            train, val = batches.train[0], batches.val[0]
            active = {"op": hot[:, [r]] > 0}
            cell = Choices({"op": torch.as_tensor(hot[:, [r]])}, active)
            scores = torch.func.functional_call(single, parameters[r], (train.images[[r]], cell))
            sgd[r].zero_grad()
            functional.cross_entropy(scores[0], train.labels[r]).backward()
            sgd[r].step()
            mixed = Choices({"op": logits[r].softmax(-1)[None]})
            scores = torch.func.functional_call(single, parameters[r], (val.images[[r]], mixed))
            (gradient,) = torch.autograd.grad(functional.cross_entropy(scores[0], val.labels[r]), logits[r])
            logits[r].grad = gradient
            adam[r].step()
        mine.step(batches)
        for r in range(2):
            torch.testing.assert_close(mine.logits()["op"][[r]], logits[r].data, rtol=1e-8, atol=1e-10)
            for name, value in mine.parameters.items():
                torch.testing.assert_close(value[[r]].data, parameters[r][name].data, rtol=1e-8, atol=1e-10, msg=name)


def test_candidates_are_drawn_from_the_softmax() -> None:
    lab = labs.make("s1", (0, 1))
    mine = searcher(lab)
    logits = {
        n: 0.8 * torch.randn(v.shape, generator=labs.rng(3), dtype=torch.float64) for n, v in mine.logits().items()
    }
    drawn = [sample(lab, logits, i) for i in range(1500)]
    for replica in range(2):
        p = logits["op"][replica, 2].softmax(-1).numpy()
        counts = np.sum([hot["op"][0, replica, 2] for hot in drawn], 0)
        assert chisquare(counts, 1500 * p).pvalue > 1e-3
        p = logits["in_4"][replica, 0].softmax(-1).numpy()
        pairs = list(itertools.combinations(range(4), 2))
        kept = [tuple(np.flatnonzero(hot["in_4"][0, replica, 0]).tolist()) for hot in drawn]
        chance = [p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b])) for a, b in pairs]
        assert chisquare([kept.count(pair) for pair in pairs], 1500 * np.array(chance)).pvalue > 1e-3


def test_the_best_candidate_on_the_validation_half_is_selected() -> None:
    known = KnownLab(labs.make(), lambda choices, _batches: [n / 20 for n in number(choices)])
    mine = searcher(known)
    assert mine.selected() is None
    for epoch in range(2):
        before = labs.leaves(mine.state_dict()["parameters"]) | labs.leaves(mine.logits(), "/logits")
        asked = len(known.asked)
        mine.end_epoch(epoch)
        labs.same(labs.leaves(mine.state_dict()["parameters"]) | labs.leaves(mine.logits(), "/logits"), before)
        assert known.asked[asked:] == [*(range(2 * i, 2 * i + 2) for i in range(5)), None, None]
        cells = [sample(known, mine.logits(), 5 * epoch + i) for i in range(5)]
        numbers = [number(Choices({n: torch.as_tensor(v) for n, v in hot.items()})) for hot in cells]
        chosen = mine.selected()
        assert chosen is not None
        assert number(Choices({n: v[None] for n, v in chosen.items()})) == np.max(numbers, 0).tolist()
