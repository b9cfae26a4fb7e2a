"""The tables that come with the package: whole, of today's protocol, found by a run."""

from pathlib import Path

import pytest

import bench.spaces
from bench import data
from bench.tables import catalog
from bench.tables.forms import import_table
from bench.tables.plan import Plan, identity, protocol, set_aside

shipped = pytest.mark.parametrize("path", sorted(catalog.EMBEDDED.glob("*.parquet")), ids=lambda path: path.stem)


@shipped
def test_no_cell_is_missing_and_the_protocol_is_the_builders(path: Path) -> None:
    name, dataset = path.stem.split("-")
    space = bench.spaces.get(name)
    table = import_table(path, name, space.multiplicities(), space.size())
    assert set(table.keys) == set(space.multiplicities())
    assert int(table.multiplicities.sum()) == space.size()
    plan = Plan(space, set_aside(data.load(dataset)), protocol(name))
    assert identity(plan) in table.provenance
    ends = {(slot.budget, slot.epoch) for slot in table.measurements}
    epochs = {"s1": 8, "nb201": 4}[name]
    assert ends == {(epochs, epochs // 4), (epochs, epochs // 2), (epochs, None)}
    for measurement in table.measurements.values():
        assert measurement.runs == ("0", "1")
        assert measurement.present().all()


@shipped
def test_a_run_finds_it_where_nothing_else_is(path: Path, tmp_path: Path) -> None:
    name, dataset = path.stem.split("-")
    found = catalog.find(name, dataset, tmp_path, tmp_path / "cache", bench.spaces.get(name).multiplicities)
    assert found is not None
    assert found.parent == tmp_path / "cache" / "tables"
