"""Early stopping and adaptive weight decay: the rules on published and made-up series, and what a stop does."""

import dataclasses
import itertools
from collections.abc import Iterator

import labs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.metrics import curvature
from bench.spec import replace_settings
from searchers import _early_stop as early
from searchers import darts, darts_ada, darts_es
from searchers._bilevel import Bilevel
from searchers._early_stop import CodeRule, PaperRule, StopSettings
from searchers._optim import SGD, WeightSettings
from searchers.registry import METHODS

unchecked = pytest.mark.usefixtures("unchecked")
RULES = (CodeRule(), PaperRule(), CodeRule(every=1, window=3, delta=2, factor=1.1, start=0), PaperRule(2, 0.9))

# λ at epochs 0, 2, …, 48, 49 of two runs that the authors published (S1 of RobustDARTS, CIFAR-10, weight decay 3e-4).
PUBLISHED = (
    ".1788 .1482 .1703 .1464 .1211 .2488 .2311 .3595 .2246 .3859 .2085 .4298 .5083 .2287 .4098 .5024 .4997 .2500 .4574 "
    ".5168 .6438 .4592 .7071 1.3192 .5272 .5212",
    ".1737 .1465 .2629 .1932 .1675 .2212 .2090 .1505 .2200 .2900 .3138 .4737 .3055 .3624 .3232 .3610 .9003 .2430 .3006 "
    ".6285 .6465 .5168 .8209 .3947 .3950 .3938",
)


def decision(rule: early.Rule, values: list[float]) -> tuple[int, int] | None:
    """The epochs returned and decided at, None where the rule never stops."""
    for count in range(1, len(values) + 1):
        index = rule.stop(values[:count])
        if index is not None:
            return index * rule.every, (count - 1) * rule.every
    return None


@pytest.mark.parametrize("series", PUBLISHED)
def test_the_code_s_rule_on_the_published_series(series: str) -> None:
    values = [float(value) for value in series.split()]
    assert len(values) == 26
    assert decision(CodeRule(), values[:-1]) == (10, 22)  # epoch 49 is not on the grid
    assert decision(CodeRule(start=12), values) == (12, 24)
    assert decision(CodeRule(factor=3.0), values) is None


def test_the_code_s_rule_by_hand() -> None:
    """Means of five around values 4 apart; cut at the start of the series."""
    rule = CodeRule(every=1, start=0, factor=2.0)
    values = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    assert rule.stop([*values, 0.0]) is None  # the newest whole window is centred at 4: mean (3 + 0·4)/5
    assert rule.stop([3.0, 2.0, 1.0, 4.1, 4.0, 3.9, 8.05]) == 0  # (1 + 4.1 + 4 + 3.9 + 8.05)/5 = 4.21 over 2·2
    assert rule.stop([3.0, 2.0, 1.0, 4.1, 4.0, 3.9, 6.9]) is None  # 3.98
    assert rule.stop([3.0, 2.0, 1.0, 4.1, 4.0, 3.9]) is None  # there is no centre 4 values earlier
    assert dataclasses.replace(rule, start=1).stop([3.0, 2.0, 1.0, 4.1, 4.0, 3.9, 8.05]) is None


def test_the_paper_s_rule_by_hand() -> None:
    """Means of five, five apart: 1.5 < .75·m stops where m is over 2."""
    early_values, rule = [1.0, 2.0, 1.5, 1.0, 2.0], PaperRule()
    assert rule.stop([*early_values, 1.0, 2.0, 2.0, 2.0, 3.0]) is None
    assert rule.stop([*early_values, 1.0, 2.0, 2.0, 2.0, 3.1]) == 4
    assert rule.stop([*early_values, 9.0, 9.0, 9.0, 9.0]) is None  # the earlier mean is not whole
    assert decision(rule, [*early_values, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]) == (5, 10)


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_constant_and_falling_series_never_stop(rule: early.Rule, data: st.DataObject) -> None:
    size = st.floats(0.0, 10.0, allow_subnormal=False)
    values = data.draw(st.lists(size, min_size=40, max_size=40))
    assert decision(rule, sorted(values, reverse=True)) is None
    assert decision(rule, [values[0]] * 40) is None
    assert decision(rule, [float("nan")] * 40) is None


@pytest.mark.parametrize("rule", RULES)
@given(
    st.lists(st.floats(0.01, 10.0), min_size=30, max_size=60),
    st.integers(-30, 30),
)
def test_scaling_lambda_changes_no_decision(rule: early.Rule, values: list[float], power: int) -> None:
    assert decision(rule, values) == decision(rule, [value * 2.0**power for value in values])


@pytest.mark.parametrize("rule", RULES)
def test_a_rising_series_stops(rule: early.Rule) -> None:
    found = decision(rule, [1.2**i for i in range(40)])
    assert found is not None
    assert found[1] - found[0] == rule.back * rule.every


@unchecked
def test_the_eigenvalue_is_that_of_the_exact_hessian_and_measuring_changes_nothing() -> None:
    lab = labs.make()
    searcher = darts.build(darts.Settings(), lab)
    before = labs.leaves(searcher.state_dict())
    found = early.eigenvalue(searcher, 3)
    labs.same(labs.leaves(searcher.state_dict()), before)
    assert all(value.grad is None for value in searcher.parameters.values())
    settings = curvature.CurvatureSettings(mode="exact")
    probes = curvature.Probes(lab.feed.probe(8))
    records = curvature.measure(searcher, probes, None, lab.stream("x", 0), settings, True).records
    assert found == pytest.approx([abs(record["lambda_dominant"]) for record in records], rel=1e-2)
    assert min(found) > 0


def scripted(monkeypatch: pytest.MonkeyPatch, module: object, *series: list[float]) -> None:
    """One series a replica in place of measured eigenvalues, in the order they are asked for."""
    rows: Iterator[tuple[float, ...]] = zip(*series, strict=True)
    monkeypatch.setattr(module, "eigenvalue", lambda _searcher, _epoch: list(next(rows)))


def stopping(**changes: float) -> StopSettings:
    """Stop when a value is twice the one before; back to the one before."""
    return StopSettings(code=CodeRule(**{"every": 1, "window": 1, "delta": 1, "factor": 2.0, "start": 0, **changes}))


def epochs(searcher: Bilevel, lab: labs.Lab, count: int) -> list[dict[str, Tensor]]:
    """The selected logits after every epoch."""
    found = []
    for epoch in range(count):
        labs.drive(searcher, lab, epoch, epoch + 1)
        selected = searcher.selected()
        assert selected is not None
        found.append(labs.leaves(selected))
    return found


@unchecked
def test_a_stopped_replica_keeps_its_cell_and_the_search_is_darts(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, darts_es, [1, 1, 1, 1, 1], [1, 1, 3, 9, 27], [1, 1, 1, 1, 5])
    lab = labs.make(seeds=(0, 1, 2))
    searcher = darts_es.build(darts_es.Settings(stop=stopping()), lab)
    chosen = epochs(searcher, lab, 5)
    plain = darts.build(darts.Settings(), lab)
    logits = epochs(plain, lab, 5)
    labs.same(labs.outcome(searcher, []) | {f"/selected/{n}": v for n, v in plain.logits().items()},
              labs.outcome(plain, []))  # fmt: skip
    wanted = {0: [0, 1, 2, 3, 4], 1: [0, 1, 1, 1, 1], 2: [0, 1, 2, 3, 3]}  # epoch of the selected logits
    for replica, own in wanted.items():
        for epoch, selected in enumerate(own):
            for name, value in chosen[epoch].items():
                assert torch.equal(value[replica], logits[selected][name][replica]), (replica, epoch)
    memory = searcher.recipe.memory
    assert isinstance(memory, darts_es.Watch)
    assert (memory.returned, memory.decided) == ([None, 1, 3], [None, 2, 4])
    assert memory.values[1] == [1, 1, 3]


@unchecked
def test_lambda_is_measured_on_the_rule_s_grid_until_all_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def eigenvalue(_searcher: Bilevel, epoch: int) -> list[float]:
        asked.append(epoch)
        return [1.0, 10.0 if epoch == 4 else 1.0]

    monkeypatch.setattr(darts_es, "eigenvalue", eigenvalue)
    lab = labs.make()
    searcher = darts_es.build(darts_es.Settings(stop=stopping(every=2)), lab)
    for epoch in range(5):
        searcher.end_epoch(epoch)
    assert asked == [0, 2, 4]
    memory = searcher.recipe.memory
    assert isinstance(memory, darts_es.Watch)
    assert (memory.returned, memory.decided) == ([None, 2], [None, 4])
    memory.returned[0] = 2
    searcher.end_epoch(6)
    assert asked == [0, 2, 4]


@unchecked
def test_going_back_counts_measurements_not_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured after epochs 0, 2 and 4; back to the state after epoch 2."""
    scripted(monkeypatch, darts_ada, [1, 1, 9])
    lab = labs.make(seeds=(0,))
    searcher = darts_ada.build(darts_ada.Settings(stop=stopping(every=2)), lab)
    kept = {}
    for epoch in range(6):
        searcher._logits["op"].fill_(epoch)
        searcher.end_epoch(epoch)
        kept[epoch] = float(searcher.logits()["op"].mean())
    assert kept == {0: 0, 1: 1, 2: 2, 3: 3, 4: 2, 5: 5}


@unchecked
def test_without_a_stop_both_are_darts_to_the_bit() -> None:
    found = []
    for method in (darts, darts_es, darts_ada):
        lab = labs.make()
        searcher = method.build(method.Settings(), lab)
        found.append(labs.outcome(searcher, labs.drive(searcher, lab, 0, 2)))
    labs.same(found[0], found[1])
    labs.same(found[0], found[2])


@unchecked
def test_going_back_restores_a_replica_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, darts_ada, [1, 1, 1, 1], [1, 1, 3, 1])
    lab = labs.make()
    searcher = darts_ada.build(darts_ada.Settings(stop=stopping()), lab)
    plain = darts.build(darts.Settings(), lab)
    kept = {}
    for epoch in range(3):
        for each in (searcher, plain):
            labs.drive(each, lab, epoch, epoch + 1)
        kept[epoch] = labs.leaves(darts_ada.parts(plain))
    now = labs.leaves(darts_ada.parts(searcher))
    assert len(now) == len(searcher.parameters) + 3 + 3 + 1  # logits; Adam's mean, square, count; momentum
    labs.same(labs.replicas(now, [0]), labs.replicas(kept[2], [0]))
    labs.same(labs.replicas(now, [1]), labs.replicas(kept[1], [1]))
    memory = searcher.recipe.memory
    assert isinstance(memory, darts_ada.Rollback)
    assert memory.values == [[1, 1, 1], [1, 1]]
    assert memory.decay == pytest.approx([3e-4, 3e-3], rel=1e-12)
    assert [sorted(snapshots) for snapshots in memory.snapshots] == [[1, 2], [1]]
    decay = searcher.weights.weight_decay
    assert isinstance(decay, Tensor)
    assert decay.tolist() == memory.decay
    for each in (searcher, plain):
        labs.drive(each, lab, 3, 4)
    labs.same(labs.replicas(labs.outcome(searcher, []), [0]), labs.replicas(labs.outcome(plain, []), [0]))


@unchecked
def test_the_search_after_going_back_is_one_that_started_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, from the state after epoch 1, with ten times the weight decay, on the batches of epoch 3."""
    scripted(monkeypatch, darts_ada, [1, 1, 3, 1])
    lab = labs.make(seeds=(4,))
    searcher = darts_ada.build(darts_ada.Settings(stop=stopping()), lab)
    labs.drive(searcher, lab, 0, 4)
    other = darts.build(darts.Settings(weights=WeightSettings(weight_decay=3e-3)), lab)
    other.weights.weight_decay = 3e-4
    labs.drive(other, lab, 0, 2)
    other.weights.weight_decay = 3e-3
    other.steps += 3
    labs.drive(other, lab, 3, 4)
    labs.same(labs.outcome(searcher, []), labs.outcome(other, []))


@unchecked
def test_a_replica_that_went_back_does_not_go_back_beyond_that_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back to the third value at the fifth; the rule says the second at the next, which waits until it is the third."""
    scripted(monkeypatch, darts_ada, [1, 1, 1, 1, 3, 5, 5])
    lab = labs.make(seeds=(0,))
    searcher = darts_ada.build(darts_ada.Settings(stop=stopping(delta=2)), lab)
    memory = searcher.recipe.memory
    assert isinstance(memory, darts_ada.Rollback)
    decays = []
    for epoch in range(7):
        searcher.end_epoch(epoch)
        decays.append(memory.decay[0])
    assert decays == pytest.approx([3e-4] * 4 + [3e-3] * 2 + [0.03])
    assert memory.values == [[1, 1, 1]]


@unchecked
def test_weight_decay_ends_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second measurement says stop: 3e-4, 3e-3, 0.03, and then the search goes on."""
    script = list(itertools.accumulate([3.0] * 12, lambda a, b: a * b, initial=1.0))
    scripted(monkeypatch, darts_ada, script)
    lab = labs.make(seeds=(0,))
    searcher = darts_ada.build(darts_ada.Settings(stop=stopping()), lab)
    memory = searcher.recipe.memory
    assert isinstance(memory, darts_ada.Rollback)
    decays = []
    for epoch in range(6):
        searcher.end_epoch(epoch)
        decays.append(memory.decay[0])
    assert decays == pytest.approx([3e-4, 3e-3, 0.03, 0.03, 0.03, 0.03])
    assert memory.values[0] == [script[0], *script[3:6]]
    code = darts_ada.CODE
    steps = list(itertools.takewhile(lambda d: d <= code.most * (1 + 1e-9), (3e-4 * code.factor**i for i in range(9))))
    assert len(steps) == 5  # 3e-4, 9e-4, 27e-4, 81e-4, 243e-4


@unchecked
@pytest.mark.parametrize("module", [darts_es, darts_ada])
def test_a_resumed_search_stops_as_the_whole_one(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted between the measurements that make the stop, and after it."""
    assert module in {darts_es, darts_ada}
    found = []
    for breaks in ((), (2, 3)):
        scripted(monkeypatch, module, [1, 1, 1, 1], [1, 1, 3, 1])
        lab = labs.make()
        searcher = module.build(module.Settings(stop=stopping()), lab)
        for epoch in range(4):
            if epoch in breaks:
                state = labs.through_disk(searcher.state_dict())
                searcher = module.build(module.Settings(stop=stopping()), lab)
                searcher.load_state_dict(state)
            labs.drive(searcher, lab, epoch, epoch + 1)
        found.append(labs.outcome(searcher, []) | labs.leaves(searcher.state_dict(), "/state"))
    labs.same(*found)


def test_sgd_decays_each_replica_by_its_own() -> None:
    stream = labs.rng(1)
    values = {"a": torch.randn(3, 2, 2, generator=stream), "b": torch.randn(3, 5, generator=stream)}
    gradients = {name: torch.randn(value.shape, generator=stream) for name, value in values.items()}
    decays = (0.0, 0.01, 0.3)

    def stepped(decay: float | Tensor) -> dict[str, Tensor]:
        parameters = {name: value.clone() for name, value in values.items()}
        optimiser = SGD(parameters, WeightSettings(weight_decay=0.5))
        optimiser.weight_decay = decay
        for _ in range(2):
            optimiser.step(gradients, 0.1)
        again = SGD(parameters, WeightSettings())
        again.load_state_dict(optimiser.state_dict())
        return {**parameters, "ahead": again.lookahead(gradients, 0.1)}

    stacked = stepped(torch.tensor(decays))
    for replica, decay in enumerate(decays):
        labs.same(labs.replicas(stacked, [replica]), labs.replicas(stepped(decay), [replica]))


def test_settings() -> None:
    assert METHODS["darts_es"].settings().stop == StopSettings() == METHODS["darts_ada"].settings().stop
    assert (darts_ada.Settings().factor, darts_ada.Settings().most) == (10.0, 0.03)
    paper = replace_settings(darts_es.Settings(), {"stop.rule": "es_paper", "stop.paper.ratio": 0.5})
    assert early.chosen(paper.stop) == PaperRule(ratio=0.5)
    assert early.chosen(StopSettings()) == CodeRule()
    for settings, message in (
        (StopSettings(code=CodeRule(every=0)), "expected every and window to be at least 1, got 0 and 5"),
        (StopSettings(code=CodeRule(window=4)), "expected an odd window and a delta of at least 1, got 4 and 4"),
        (
            StopSettings("es_paper", paper=PaperRule(window=0)),
            "expected every and window to be at least 1, got 1 and 0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            darts_es.build(darts_es.Settings(stop=settings), labs.make())
    with pytest.raises(ValueError, match=r"expected a factor over 1, got 1\.0"):
        darts_ada.build(darts_ada.Settings(factor=1.0), labs.make())
