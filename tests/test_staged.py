"""Search, then select: the search is what it would be alone, any search goes, and the command line knows both."""

import dataclasses
import logging
from pathlib import Path

import labs
import numpy as np
import pytest
import torch
from tests import benches
from torch import Tensor

from bench import run, setup, variants
from bench.lab import Lab
from bench.request import parse
from searchers._bilevel import Bilevel
from searchers._perturbation import SELECTION, Perturbation, Settings
from searchers._staged import Shorter, Staged, staged
from searchers.base import Choices, Horizon, Resources
from searchers.entry import Method
from searchers.registry import METHODS, SELECTIONS, find

PLAIN = [name for name in METHODS if find(f"{name}+perturbation") is not None]
SEVERAL = ["random_ws", "sdarts_rs", "sgas", "entrannas_dst", "gaea_erm"]
"""No logits; noise; rows decided by the search; groups of its own; all images and another optimiser."""


def pair(name: str) -> Method:
    found = find(f"{name}+perturbation")
    assert found is not None
    return found


def start(name: str, lab: Lab, share: float = 0.5) -> Staged:
    """A search of half the epochs at its quick settings, removals scored on one batch."""
    settings = pair(name).settings(labs.quick(METHODS[name]), Settings(share=share, batches=1))
    searcher = pair(name).build(settings, lab)
    assert isinstance(searcher, Staged)
    return searcher


def longer(space: str, epochs: int) -> Lab:
    return dataclasses.replace(labs.make(space), horizon=Horizon(epochs))


def check(name: str, space: str) -> None:
    """The search is the method alone at its horizon; a resume in the middle of the selection is no interruption."""
    search = 2 if space == "toy" else 1
    lab = longer(space, search + 1)
    searcher = start(name, lab)
    losses = labs.drive(searcher, lab, 0, search)
    alone = METHODS[name].build(labs.quick(METHODS[name]), dataclasses.replace(lab, horizon=Horizon(search)))
    expected = labs.drive(alone, lab, 0, search)
    labs.same(labs.outcome(searcher, losses), labs.outcome(alone, expected))
    labs.same(labs.leaves(searcher.state_dict()), labs.leaves({"search": alone.state_dict(), "select": None}))
    assert (searcher.hessian_of, searcher.shift_invariant) == (alone.hessian_of, alone.shift_invariant)

    searcher.begin_epoch(search)
    first, later, *_ = lab.feed.epoch(searcher.policy, search, search + 1)
    searcher.step(first)
    kept = labs.through_disk(searcher.state_dict())
    resumed = start(name, lab)
    resumed.load_state_dict(kept)
    for each in (searcher, resumed):
        losses = [each.step(later)]
        each.end_epoch(search)
        each.finish()
    assert isinstance(searcher.selection, Perturbation)
    assert searcher.selection.projection.made == searcher.selection.projection.rows
    labs.same(labs.outcome(resumed, losses), labs.outcome(searcher, losses))
    labs.same(labs.leaves(resumed.state_dict()), labs.leaves(searcher.state_dict()))
    selected = searcher.selected()
    assert selected is not None
    for group in lab.groups:
        assert (selected[group.name].sum(-1) == group.keep).all()
        assert ((selected[group.name] == 0) | (selected[group.name] == 1)).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "space"),
    [
        *(("darts", space) for space in ("nb201", "s1")),
        *(
            pytest.param(name, "toy", marks=[] if name in SEVERAL else [pytest.mark.slow])
            for name in PLAIN
            if name != "darts"
        ),
    ],
)
def test_the_search_is_the_method_alone_and_the_selection_can_be_resumed(name: str, space: str) -> None:
    check(name, space)


@pytest.mark.usefixtures("unchecked")
def test_a_used_searcher_goes_back_to_its_search() -> None:
    lab = longer("toy", 3)
    searcher = start("darts", lab)
    labs.drive(searcher, lab, 0, 1)
    kept = labs.through_disk(searcher.state_dict())
    labs.drive(searcher, lab, 1, 3)
    searcher.finish()
    searcher.load_state_dict(kept)
    assert searcher.selection is None
    labs.same(labs.leaves(searcher.state_dict()), labs.leaves(kept))


@pytest.mark.usefixtures("unchecked")
def test_the_search_is_finished_once_when_the_selection_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Bilevel] = []

    def note(search: Bilevel) -> None:
        calls.append(search)

    monkeypatch.setattr(Bilevel, "finish", note)
    for epochs, share in ((2, 0.5), (1, 1.0)):
        lab = longer("toy", epochs)
        searcher = start("darts", lab, share)
        labs.drive(searcher, lab, 0, epochs)
        assert calls == ([searcher.search] if share < 1 else [])
        searcher.finish()
        assert calls == [searcher.search]
        calls.clear()


EXCLUDING = ["entrannas", "fair_darts", "gaea_bilevel", "oles", "pdarts", "sgas", "shapley_nas"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "allowed"), [*((name, False) for name in EXCLUDING), ("darts", True)])
def test_removals_decide_for_none_only_where_the_search_might(
    name: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but `none` may go: where it is asked about, its removal hurts most."""
    monkeypatch.setattr(Perturbation, "score", lambda _self, choices: none_computed(choices))
    lab = longer("nb201", 2)
    searcher = start(name, lab)
    labs.drive(searcher, lab, 0, 1)
    searcher.finish()
    selected = searcher.selected()
    assert selected is not None
    assert (selected["op"].argmax(-1) == 0).all() == allowed
    assert (selected["op"].argmax(-1) == 0).any() == allowed


def none_computed(choices: Choices) -> Tensor:
    """In how many cells and rows of each replica `none` is computed."""
    shape = choices.weights["op"].shape
    active = np.ones(shape, bool) if choices.active is None else choices.active["op"]
    return torch.as_tensor(active[..., 0].sum((0, 2))).double()


@pytest.mark.usefixtures("unchecked")
def test_without_an_epoch_left_the_end_decides() -> None:
    """A share of 1, and a budget of one epoch."""
    for epochs, share in ((2, 1.0), (1, 0.5)):
        lab = longer("toy", epochs)
        searcher = start("darts", lab, share)
        labs.drive(searcher, lab, 0, epochs)
        assert searcher.selection is None
        searcher.finish()
        assert isinstance(searcher.selection, Perturbation)
        assert searcher.selection.projection.made == searcher.selection.projection.rows


def test_a_search_that_a_selection_cannot_follow_is_refused_before_it_begins() -> None:
    method = staged("x", METHODS["zero_cost_pt"], SELECTION)
    with pytest.raises(ValueError, match="expected a search that trains its weights by SGD, got ZeroCostPT"):
        method.build(method.settings(), labs.make())


def test_the_search_sees_its_own_horizon_only() -> None:
    lab = longer("toy", 10)
    shorter = Shorter(lab, Horizon(4))
    assert isinstance(shorter, Resources)
    assert (shorter.horizon, shorter.replicas, shorter.dtype) == (Horizon(4), 2, torch.float64)
    draws = [[torch.rand(1, generator=stream).item() for stream in each.stream("a", 1)] for each in (lab, shorter)]
    assert draws[0] == draws[1]


def test_combinations_are_found_by_name() -> None:
    assert "darts+perturbation" not in METHODS
    found = pair("sdarts_rs")
    assert found is pair("sdarts_rs")  # equal settings are of one type
    assert (found.name, found.search) == ("sdarts_rs+perturbation", METHODS["sdarts_rs"])
    assert found.settings() == found.settings(METHODS["sdarts_rs"].settings(), Settings())
    assert find("darts") is METHODS["darts"]
    for wrong in (
        "dart+perturbation",
        "darts+",
        "darts+perturbations",
        "+perturbation",
        "darts_pt+perturbation",
        "zero_cost_pt+perturbation",  # trains nothing
        "none",
    ):
        assert find(wrong) is None
    assert staged("other", METHODS["darts"], SELECTION).settings is not METHODS["darts_pt"].settings
    assert list(SELECTIONS) == ["perturbation"]


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.mark.usefixtures("isolated", "unchecked")
def test_the_search_has_the_settings_of_the_benchmark_and_of_the_command() -> None:
    request = parse([
        *benches.TINY, "--methods", "darts_pt,random_ws+perturbation",
        "--set", "darts_pt.select.tune_epochs=2", "--set", "*.weights.lr=0.5", "--set", "*.share=0.6",
        "--set", "random_ws+perturbation.search.ranking.finalists=3",
        "--set", "random_ws+perturbation.select.lr=0.1,0.2",
    ])  # fmt: skip
    with pytest.raises(ValueError, match=r"expected one of the settings .*, got share"):
        variants.methods(request)
    request = dataclasses.replace(request, set={**request.set, "*": {"weights.lr": 0.5, "select.share": 0.6}})
    bench = setup.prepare(request)
    darts, random = variants.methods(request)
    preset = bench.preset.settings
    found = variants.specs(bench, darts)[0].settings
    assert (found.search.arch.lr, found.search.weights.lr) == (preset["*"]["arch.lr"], 0.5)
    assert (found.select.tune_epochs, found.select.share) == (2, 0.6)
    one, two = variants.variants(bench, random)
    assert [each.specs[0].settings.select.lr for each in (one, two)] == [0.1, 0.2]
    assert one.label == "random_ws+perturbation[select.lr=0.1]"
    assert one.specs[0].settings.search.ranking.candidates == preset["random_ws"]["ranking.candidates"]
    assert (one.specs[0].settings.search.ranking.finalists, one.specs[0].settings.search.batch_size) == (3, None)


@pytest.mark.usefixtures("isolated", "unchecked")
def test_a_combination_runs_by_name_and_an_unknown_one_is_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = [*benches.TINY, "--results", str(tmp_path), "--curvature", "off"]
    assert run.main([*tiny, "--methods", "sdarts_rs+perturbation"]) == 0
    names = [path.name.rsplit("-", 1)[0] for path in sorted((tmp_path / "runs").iterdir())]
    assert names == ["toy-sdarts_rs+perturbation-s0", "toy-sdarts_rs+perturbation-s1"]
    for wrong in ("sdarts_rs+perturb", "darts_pt+perturbation"):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert run.main([*tiny, "--methods", wrong]) == 2
        (message,) = (record.getMessage() for record in caplog.records)
        assert f"a search with +perturbation behind it, or all, got {wrong!r}; did you mean" in message
        assert wrong not in message.partition("did you mean ")[2].removesuffix("?").split(" or ")
        assert "\n" not in message
    assert run.main([*tiny, "--methods", "darts_pt", "--set", "darts_pt.select.share=2"]) == 2
