"""Which table is meant: a file, or the one that a run of a space would find."""

from pathlib import Path

from bench.tables import catalog

DATASETS = ("cifar10", "digits")
"""Whose table is looked for, in this order, where none is named."""


def of_space(space: str, dataset: str | None) -> Path:
    """Return the table that a run of a space would find.

    Raises:
        ValueError: there is none.
    """
    from bench.data import data_root  # imports torch

    names = DATASETS if dataset is None else (dataset,)
    for name in names:
        path = catalog.find(space, name, data_root(), catalog.default_cache(), lambda: _keys(space))
        if path is not None:
            return path
    places = f"{data_root()} or {catalog.default_cache()}"
    raise ValueError(
        f"expected a table of {space} on {' or '.join(names)} in {places}, found none; import one, or name its file"
    )


def named(word: str, dataset: str | None) -> Path:
    """Return the file of that name, else the table of the space of that name.

    Raises:
        ValueError: there is neither.
    """
    if Path(word).exists():
        return Path(word)
    from bench.spaces import SPACES  # imports torch

    if word in SPACES:
        return of_space(word, dataset)
    raise ValueError(f"expected the file of a table, or a space out of {', '.join(SPACES)}, found no file {word}")


def _keys(space: str) -> dict[str, int]:
    from bench import spaces

    return spaces.get(space).multiplicities()
