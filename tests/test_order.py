"""Methods of the robust-DARTS family in the order of their authors' code."""

import dataclasses

import labs
import pytest

from searchers.entry import Method
from searchers.registry import METHODS

pytestmark = pytest.mark.usefixtures("unchecked")
FAMILY = ("rdarts_l2", "rdarts_dp", "darts_es", "darts_ada")


def outcome(method: Method, settings: object) -> dict[str, object]:
    lab = labs.make()
    searcher = method.build(settings, lab)
    return labs.outcome(searcher, labs.drive(searcher, lab, 0, 1))


@pytest.mark.parametrize("name", FAMILY)
def test_in_second_order_without_its_own_part_a_method_is_darts_of_second_order(name: str) -> None:
    method = METHODS[name]
    without = {
        "rdarts_l2": {"weights": METHODS["darts_2nd"].settings().weights},
        "rdarts_dp": {"drop": 0.0},
        "darts_es": {},
        "darts_ada": {},
    }[name]
    plain = outcome(METHODS["darts_2nd"], METHODS["darts_2nd"].settings())
    labs.same(outcome(method, dataclasses.replace(method.settings(), order="second", **without)), plain)


def test_first_order_is_another_search() -> None:
    method = METHODS["darts_ada"]
    one, two = (outcome(method, dataclasses.replace(method.settings(), order=order)) for order in ("first", "second"))
    with pytest.raises(AssertionError, match="logits"):
        labs.same(labs.leaves({"logits": one["/logits/op"]}), labs.leaves({"logits": two["/logits/op"]}))
