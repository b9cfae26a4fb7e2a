"""Extracts of NAS-Bench-201 and NAS-Bench-101 with named columns of their own, as parquet or CSV.

- `nasbench201.parquet`: NAS-Bench-201 / NATS-tss (Dong and Yang 2020, https://arxiv.org/abs/2001.00326), percent;
- `nasbench101_slice.parquet`: NAS-Bench-101 (Ying et al. 2019, https://arxiv.org/abs/1902.09635), fractions.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from bench.tables import flat
from bench.tables.cells101 import PAIRS, Cells
from bench.tables.data import MEAN, Measurement, Slot, TableData

SEEDS_201 = ("777", "888", "999")
RUNS_101 = ("0", "1", "2")

_STEMS_201 = {"cifar10": ("c10v_valid", "c10_test"), "cifar100": ("c100_valid", "c100_test")}
_STEMS_201 |= {"imagenet16": ("in16_valid", "in16_test")}


def read_201(table: pa.Table, _unit: str) -> TableData:
    keys = tuple(table["arch_str"].to_pylist())
    measurements: dict[Slot, Measurement] = {}
    scalars = {"cifar10/params": np.round(flat.numbers(table, "c10_params_M") * 1e6)}
    for dataset, (val, test) in _STEMS_201.items():
        measurements[Slot(dataset, "val", 200)] = _measured_201(table, val)
        measurements[Slot(dataset, "test", 200)] = _measured_201(table, test)
        measurements[Slot(dataset, "val", 12)] = Measurement(_fractions(table, (f"{val}_ep12",)), ("0",))
        measurements[Slot(dataset, "test", 12)] = Measurement(_fractions(table, (f"{test}_ep12",)), ("0",))
        scalars[f"{dataset}/flops"] = flat.numbers(table, f"{test.removesuffix('_test')}_flops_M") * 1e6
        scalars[f"{dataset}/train_time_s/200"] = flat.numbers(table, f"{val.removesuffix('_valid')}_train_time_s")
    return TableData(
        space="nb201",
        keys=keys,
        cells=("",) * len(keys),
        multiplicities=np.ones(len(keys), dtype=np.int64),
        measurements=measurements,
        scalars=scalars,
        source="NAS-Bench-201",
        provenance=_notes_201(table),
    )


def _measured_201(table: pa.Table, stem: str) -> Measurement:
    """Return the single runs where the file has them, else their mean."""
    names = tuple(f"{stem}_s{seed}" for seed in SEEDS_201)
    if set(names) <= set(table.column_names):
        # A run is a multiple of 1/25,000 or 1/10,000 that the file rounded to float32; six digits are exact again.
        return Measurement(np.round(_fractions(table, names), 6), SEEDS_201)
    return Measurement(_fractions(table, (stem,)), (MEAN,), flat.numbers(table, "n_runs").astype(np.int64))


def _fractions(table: pa.Table, names: tuple[str, ...]) -> Float64[np.ndarray, "rows runs"]:
    return np.stack([flat.numbers(table, name) for name in names], axis=1) / 100


def _notes_201(table: pa.Table) -> tuple[str, ...]:
    derived_runs = int((flat.numbers(table, "c10_test_derived_run") < 255).sum())
    derived_means = int(flat.numbers(table, "valid_derived_c100_in16").sum())
    return (
        "cifar10 val: trained on 25,000 images, evaluated on the other 25,000; test: trained on all 50,000",
        f"{derived_runs} cifar10 test runs were derived from the mean and the other runs",
        f"{derived_means} cifar100 and imagenet16 val means were derived as 2 valtest - test",
        "cifar100 and imagenet16: means of n_runs runs, the single runs of the halves are not in the file",
        "12 epochs: one value a cell; the file does not say over how many runs",
    )


def read_101(table: pa.Table, _unit: str) -> TableData:
    keys = tuple(table["hash"].to_pylist())
    bits, digits = table["adj_bits"].to_pylist(), table["ops"].to_pylist()
    measurements = {}
    for split in ("val", "test"):
        runs = np.stack([flat.numbers(table, f"{split}_{run}") for run in RUNS_101], axis=1)
        measurements[Slot("cifar10", split, 108)] = Measurement(runs, RUNS_101)
    return TableData(
        space="",
        keys=keys,
        cells=Cells(np.array([_number_101(*pair) for pair in zip(bits, digits, strict=True)], dtype=np.uint32)),
        multiplicities=np.ones(len(keys), dtype=np.int64),
        measurements=measurements,
        scalars={"params": flat.numbers(table, "params")},
        source="NAS-Bench-101, a part",
        provenance=("not every cell of the space is in the file: misses are normal",),
    )


def _number_101(bits: int, digits: str) -> int:
    """Return the number of a cell of seven vertices."""
    return bits | sum(int(digit) << (len(PAIRS) + 2 * place) for place, digit in enumerate(digits))
