"""Where benchmark tables are found.

In order: the table `<space>-<dataset>.arrow`, or `<space>.arrow` if it has the dataset, in `<cache>/tables`,
`<root>/tables` and `<root>`; then a known file in `root`, then the table that comes with the package. The last two are
imported once: the name in the cache holds the digest of the source, so that a changed source is imported again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import platformdirs

from bench.tables.arrow import FORMAT, budgets, mapped, write
from bench.tables.forms import import_table, sha256

EMBEDDED = Path(__file__).parent / "embedded"


class Known(NamedTuple):
    """A file that holds the tables of some spaces."""

    name: str
    spaces: frozenset[str]
    datasets: frozenset[str]


KNOWN = (
    Known("nasbench201.parquet", frozenset({"nb201"}), frozenset({"cifar10", "cifar100", "imagenet16"})),
    Known("nasbench101_slice.parquet", frozenset({"s1", "s2", "s3"}), frozenset({"cifar10"})),
)

SpaceKeys = Callable[[], Mapping[str, int]]
"""Every key of a space to its number of raw encodings; called only when something is imported."""


def default_cache() -> Path:
    """Return the user's cache folder."""
    return platformdirs.user_cache_path("nas-stability")


def find(space: str, dataset: str, root: Path, cache: Path, space_keys: SpaceKeys) -> Path | None:
    """Return the path of the table of a space and dataset, imported into the cache if need be; None: there is none."""
    ready = _ready(space, dataset, (cache / "tables", root / "tables", root))
    source = _source(space, dataset, root) if ready is None else None
    return ready if source is None else imported(source, space, cache, space_keys)


def known(space: str, dataset: str, root: Path, cache: Path) -> Path | None:
    """Return the table of a space and dataset, or the file that `find` would import; None: there is none."""
    folders = (cache / "tables", root / "tables", root)
    return _ready(space, dataset, folders) or _source(space, dataset, root)


def _ready(space: str, dataset: str, folders: tuple[Path, ...]) -> Path | None:
    for folder in folders:
        if (exact := folder / f"{space}-{dataset}.arrow").is_file():
            return exact
        if (table := folder / f"{space}.arrow").is_file() and dataset in budgets(mapped(table)[1]):
            return table
    return None


def _source(space: str, dataset: str, root: Path) -> Path | None:
    known = [root / one.name for one in KNOWN if space in one.spaces and dataset in one.datasets]
    candidates = [*known, EMBEDDED / f"{space}-{dataset}.parquet"]
    return next((path for path in candidates if path.is_file()), None)


def imported(source: Path, space: str, cache: Path, space_keys: SpaceKeys) -> Path:
    """Return the table made from a source, imported into the cache if it is not there yet."""
    path = cache / "tables" / f"{space}-{source.stem}-{sha256(source)[:12]}-v{FORMAT}.arrow"
    if not path.is_file():
        multiplicities = space_keys()
        write(path, import_table(source, space, multiplicities, sum(multiplicities.values()) or None))
    return path
