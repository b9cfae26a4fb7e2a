"""The searcher that README shows is one."""

import re
import types
from pathlib import Path

import labs
import pytest
import torch
from test_replay import compare

from searchers import registry
from searchers.base import Searcher
from searchers.entry import Method

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def shown() -> Method:
    (text,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("searchers.my_method")
    exec(compile(text, "searchers/my_method.py", "exec"), module.__dict__)
    method = module.METHOD
    assert isinstance(method, Method)
    return method


def weights(searcher: Searcher) -> torch.Tensor:
    lab = labs.make()
    labs.drive(searcher, lab, 0, 1)
    return torch.cat([value.flatten() for _, value in searcher.supernet.named_parameters()])


@pytest.mark.usefixtures("unchecked")
def test_it_searches_and_is_darts_where_it_should_be(shown: Method) -> None:
    darts = weights(labs.start(registry.METHODS["darts"], labs.make()))
    assert not torch.equal(weights(labs.start(shown, labs.make())), darts)
    same = shown.build(shown.settings(temperature=1.0), labs.make())
    assert torch.equal(weights(same), darts)


@pytest.mark.usefixtures("unchecked")
def test_its_steps_can_be_played_as_it_says(shown: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown.steady
    monkeypatch.setitem(registry.METHODS, shown.name, shown)
    compare(shown.name, "toy")
