"""What stands below a figure: the protocol of the runs that it shows, read from the records."""

from collections.abc import Callable

import pandas as pd

from analysis.intervals import FEWEST_SEEDS
from analysis.selection import ABSENT, one_per_run, space_order

LAMBDA = (
    "λ: dominant eigenvalue, signed, of the Hessian of the validation cross-entropy on a fixed un-augmented probe of "
    "{probe} images with respect to the architecture logits."
)


def protocol(frame: pd.DataFrame) -> str:
    """Return seeds, epochs, dataset, benchmark, budget, split, batch size and batch-norm mode in a sentence or two."""
    heads = one_per_run(frame)
    trained = heads[heads["epochs"] > 0]  # methods that train nothing have no epochs
    epochs = _by_space(heads if trained.empty else trained, "epochs")
    parts = [_seeds(heads), f"{epochs} epochs", f"dataset {_by_space(heads, 'dataset')}"]
    parts += [f"benchmark {_by_space(heads, 'benchmark')}", f"table budget {_by_space(heads, 'budget')}"]
    parts += [f"{words} {_by_space(heads, column)}" for column, words in OPTIONAL.items() if column in heads]
    return joined(", ".join([*parts, "batch norm: batch statistics"]) + ".", _unfinished(heads))


OPTIONAL = {
    "spec.split_rule": "split",
    "spec.train_size": "training images",
    "spec.batch_size": "batch size",
    "spec.precision": "steps in",
}


def lambda_definition(frame: pd.DataFrame, listed: int | None = None) -> str:
    """Return what λ is, with the size of the probe and the loss, the latter of at most so many methods."""
    heads = one_per_run(frame)
    probe = _by_space(heads, "spec.probe_size") if "spec.probe_size" in heads else "an unrecorded number of"
    if listed is not None and frame["label"].nunique() > listed:
        return joined(LAMBDA.format(probe=probe), "Of which loss each Hessian is, the stability table says.")
    return joined(LAMBDA.format(probe=probe), losses(frame))


def losses(frame: pd.DataFrame) -> str:
    """Return which loss the Hessians are of, the commonest (of equals the shortest) first; nothing where none says."""
    column = "curvature_hessian_of"
    said = frame.dropna(subset=column) if column in frame else frame.iloc[:0]
    by_label = {str(label): " / ".join(dict.fromkeys(rows[column])) for label, rows in said.groupby("label")}
    if not by_label:
        return ""
    given = list(by_label.values())
    usual = max(given, key=lambda loss: (given.count(loss), -len(loss), loss))
    others: dict[str, list[str]] = {}
    for label, loss in by_label.items():
        if loss != usual:
            others.setdefault(loss, []).append(label)
    named = "; ".join(f"{', '.join(labels)}: {loss}" for loss, labels in others.items())
    return f"The Hessian is of the {usual}" + (f"; that of {named}." if named else ".")


def discretisation(frame: pd.DataFrame) -> str:
    """Return what the discretisation gap is, with the number of images, and why some methods have none."""
    column = "discretisation_images"
    known = frame[column].dropna() if column in frame else pd.Series(dtype="float64")
    if known.empty:
        return ""
    images = "/".join(f"{int(number)}" for number in dict.fromkeys(known))
    missing = without(frame, column, lambda rows: first_given(rows, "no_discretisation", "not recorded"))
    return joined(
        "Supernet accuracy − discretised: of the same weights, with the mixing weights of the relaxation and with the "
        f"selected cell alone, nothing trained again, at the end, on {images} un-augmented images of the validation "
        "half.",
        f"Without it: {missing}." if missing else "",
    )


def _by_space(heads: pd.DataFrame, column: str) -> str:
    """Return the value of a column, by space where the spaces differ."""
    values = {}
    for space in space_order(heads):
        present = heads.loc[heads["space"] == space, column].dropna()
        values[space] = "/".join(dict.fromkeys(str(value) for value in present)) or ABSENT
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "(" + ", ".join(f"{space}: {value}" for space, value in values.items()) + ")"


def _seeds(heads: pd.DataFrame) -> str:
    """Return the number of seeds, with the methods that have another."""
    counts = heads.groupby(["space", "label"])["seed"].nunique()
    usual = int(counts.mode().max())
    others = _places(counts[counts != usual])
    return f"n = {usual} seed{'s' if usual > 1 else ''} a method" + (f" ({others})" if others else "")


def _places(counts: pd.Series) -> str:
    """Return numbers by space and label as a phrase."""
    places = counts.rename("n").reset_index()
    return ", ".join(f"{row['label']} on {row['space']}: {row['n']}" for _, row in places.iterrows())


def _unfinished(heads: pd.DataFrame) -> str:
    diverged, others = heads["diverged"], ~heads["finished"] & ~heads["diverged"]
    counts = {"Not finished": others, "Diverged, so without a value at the end": diverged}
    places = {words: _places(heads[chosen].groupby(["space", "label"]).size()) for words, chosen in counts.items()}
    return joined(*(f"{words}: {runs}." for words, runs in places.items() if runs))


def lines(frame: pd.DataFrame, thick: str) -> str:
    """Return what thin and thick lines are, and where the thick ones are missing."""
    counts = one_per_run(frame).groupby(["space", "label"])["seed"].nunique()
    few = f"With fewer than {FEWEST_SEEDS} seeds neither a mean nor an interval is drawn."
    if (counts < FEWEST_SEEDS).all():
        return f"Lines: seeds. {few}"
    drawn = f"Thin lines: seeds; {thick} over seeds."
    return drawn if (counts >= FEWEST_SEEDS).all() else f"{drawn} {few}"


BAND = "thick lines and bands: mean and 95 % bootstrap interval"


def without(frame: pd.DataFrame, column: str, reason: Callable[[pd.DataFrame], str]) -> str:
    """Return the methods that have no value of a column in any space, with reasons; those that share one together."""
    by_reason: dict[str, list[str]] = {}
    for label, rows in frame.groupby("label"):
        if rows[column].isna().all():
            by_reason.setdefault(reason(rows).rstrip("."), []).append(str(label))
    return "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in by_reason.items())


def first_given(rows: pd.DataFrame, column: str, otherwise: str) -> str:
    """Return the first reason on record."""
    given = rows[column].dropna()
    return str(given.iloc[0]) if len(given) else otherwise


def joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
