"""Choose runs that may stand in one panel, and label them.

A protocol is everything a specification fixes but seed, signature, method and settings, and the benchmark table's
digest. Runs of several protocols in one space are refused until the user names the values that may stand together; runs
that differ only in what was measured besides may.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

ABSENT = "absent"
SPACES = ("s1", "s2", "s3", "nb201")
BESIDES = ("spec.landscape", "spec.ranking", "spec.native")
"""Protocol fields that say what was measured besides; no other number of a run depends on them."""
Where = Mapping[str, Sequence[str]]
"""Field to the values that may stand together, as `--where field=value` spells them."""


def select(
    frame: pd.DataFrame, spaces: Sequence[str] = (), methods: Sequence[str] = (), where: Where | None = None
) -> pd.DataFrame:
    """Return the rows of the chosen runs with a `label` column; empty choices keep everything.

    The label is the method, with `[field=value]` for settings (and protocol fields named in `where`) in which the
    method's runs in that space differ.

    Raises:
        ValueError: an unknown space, method, field or value; several protocols, or several runs of one seed, in one
            space.
    """
    return _labelled(*_narrowed(frame, spaces, methods, where or {}))


def select_by_dataset(
    frame: pd.DataFrame, spaces: Sequence[str] = (), methods: Sequence[str] = (), where: Where | None = None
) -> dict[str, pd.DataFrame]:
    """Return `select`'s rows by dataset: parts that may each stand in one panel, by a suffix for the names of files.

    Spaces of one dataset stay together, without a suffix; of a space with several, each dataset is apart (`-cifar10`),
    also where the user names several. No suffix either where only one part is left.

    Raises:
        ValueError: as `select`, within one dataset.
    """
    frame, named = _narrowed(frame, spaces, methods, where or {})
    several = frame.groupby("space")["dataset"].transform("nunique") > 1
    parts = {"": frame[~several]} if not several.all() else {}
    parts |= {f"-{dataset}": part for dataset, part in frame[several].groupby("dataset")}
    return {suffix: _labelled(part, named) for suffix, part in parts.items()}


def _narrowed(
    frame: pd.DataFrame, spaces: Sequence[str], methods: Sequence[str], where: Where
) -> tuple[pd.DataFrame, set[str]]:
    """Return the rows of the chosen runs, and the columns that `where` names."""
    frame = _keep(_keep(frame, "space", spaces), "method", methods)
    columns = {field: _column(frame, field) for field in where}
    for field, values in where.items():
        frame = _keep_where(frame, columns[field], values)
    if frame.empty:
        raise ValueError("no run meets all of the chosen spaces, methods and values of --where")
    return frame, set(columns.values())


def _labelled(frame: pd.DataFrame, named: set[str]) -> pd.DataFrame:
    """Return rows with a `label` column, once it is sure that they may stand together."""
    for space in space_order(frame):
        _refuse_mixed(frame[frame["space"] == space], space, named)
    frame = frame.assign(label=_labels(frame, named))
    _refuse_twice(frame)
    return frame


def space_order(frame: pd.DataFrame) -> list[str]:
    """Return the spaces of a frame, the known ones first and in their usual order."""
    return sorted(frame["space"].unique(), key=lambda s: (SPACES.index(s) if s in SPACES else len(SPACES), s))


def protocol_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that make up the protocol."""
    return [name for name in frame.columns if name.startswith("spec.")] + ["table_digest"]


def one_per_run(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the first row of every run: its run columns are those of all its rows."""
    return frame.drop_duplicates("run")


def _keep(frame: pd.DataFrame, column: str, values: Sequence[str]) -> pd.DataFrame:
    existing = sorted(frame[column].unique())
    for value in values:
        if value not in existing:
            raise ValueError(f"no runs of {column} {value!r}; there are {', '.join(existing)}")
    return frame[frame[column].isin(list(values))] if values else frame


def _column(frame: pd.DataFrame, field: str) -> str:
    """Return the column that holds a field, which users spell without its prefix."""
    plain = [name for name in ("seed", "signature", "run", "table_digest") if name in frame.columns]
    candidates = {name: name for name in plain}
    candidates |= {name.removeprefix("settings."): name for name in frame.columns if name.startswith("settings.")}
    candidates |= {name: name for name in frame.columns if name.startswith("settings.")}
    candidates |= {name.removeprefix("spec."): name for name in frame.columns if name.startswith("spec.")}
    if field not in candidates:
        raise ValueError(f"no run has a field {field!r}; there are {', '.join(sorted(candidates))}")
    return candidates[field]


def _keep_where(frame: pd.DataFrame, column: str, values: Sequence[str]) -> pd.DataFrame:
    """Return the rows with one of the values; a setting does not choose among methods that have no such setting."""
    written = _written(frame[column])
    for value in values:
        if value not in set(written):
            existing = ", ".join(sorted(set(written) - {ABSENT}))
            raise ValueError(f"no run has {_field(column)}={value}; there are {existing}")
    kept = written.isin(list(values))
    if column.startswith("settings."):
        has_setting = (written != ABSENT).groupby(frame["method"]).transform("any")
        kept |= ~has_setting
    return frame[kept]


def _refuse_mixed(frame: pd.DataFrame, space: str, named: set[str]) -> None:
    """Raise unless all runs of a space share every protocol field that the user did not name."""
    heads = one_per_run(frame)
    datasets = heads["dataset"].value_counts().sort_index()
    if len(datasets) > 1:
        raise ValueError(
            f"runs in space {space} are of several datasets: {_counted(datasets)}; choose one with --dataset, for "
            f"example --dataset {datasets.idxmax()}"
        )
    differing = {}
    for column in protocol_columns(frame):
        if column in BESIDES:
            continue
        values = _comparable(heads, column)
        if column not in named and values.nunique() > 1:
            differing[_field(column)] = values.value_counts().sort_index()
    if differing:
        fields = "; ".join(f"{field}: {_counted(counts)}" for field, counts in differing.items())
        choice = " ".join(f"{field}={counts.idxmax()}" for field, counts in differing.items())
        raise ValueError(
            f"runs of different protocols in space {space} differ in {fields}: choose with --where, for example "
            f"--where {choice}"
        )


def _comparable(heads: pd.DataFrame, column: str) -> pd.Series:
    """Return the values of a protocol field that have to agree."""
    if column == "table_digest":  # a run killed before it wrote table.json has none; that is no second table
        return heads[column].dropna()
    values = _written(heads[column])
    return values[values != "0"] if column == "spec.epochs" else values  # a method that trains nothing has no epochs


def _counted(counts: pd.Series) -> str:
    return ", ".join(f"{value} ({n} run{'s' if n > 1 else ''})" for value, n in counts.items())


def _labels(frame: pd.DataFrame, named: set[str]) -> pd.Series:
    """Return each row's label."""
    labels = frame["method"].astype(object).copy()
    fields = [name for name in frame.columns if name.startswith("settings.")]
    fields += sorted(name for name in named if name in protocol_columns(frame))
    for _, group in frame.groupby(["space", "method"]):
        differing = [name for name in fields if _written(group[name]).nunique() > 1]
        if differing:
            parts = pd.DataFrame({name: _field(name) + "=" + _written(group[name]) for name in differing})
            labels[group.index] = group["method"] + "[" + parts.agg(", ".join, axis="columns") + "]"
    return labels


def _refuse_twice(frame: pd.DataFrame) -> None:
    """Raise when a seed of one label occurs in several runs."""
    heads = one_per_run(frame)
    for (space, label, seed), group in heads.groupby(["space", "label", "seed"]):
        if len(group) > 1:
            raise ValueError(
                f"seed {seed} of {label} on {space} occurs in {len(group)} runs ({', '.join(sorted(group['run']))}): "
                f"choose with --where signature=... or run=..."
            )


def _written(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), ABSENT).astype(str)


def _field(column: str) -> str:
    return column.removeprefix("spec.").removeprefix("settings.")
