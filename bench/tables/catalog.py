"""Where benchmark tables are found.

In order: the table `<space>-<dataset>.arrow`, or `<space>.arrow` if it has the dataset, in `<cache>/tables`,
`<root>/tables` and `<root>`; the rows of the space in the table of a whole benchmark, `nb101.arrow`, in the same
folders; then a known file in `root`, then the table that comes with the package. All but the first are imported once:
the name in the cache holds a digest of the source, so that a changed source is imported again.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import platformdirs

from bench.tables.arrow import FORMAT, budgets, mapped, write
from bench.tables.forms import PARTS, import_table, sha256

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parent / "embedded"


BIG_BYTES = 1 << 26
"""From this size on a file is known by its name, size and time: reading all of it takes seconds."""


class Known(NamedTuple):
    """A file that holds the tables of some spaces; of a `whole` benchmark, which is imported first, if it says so."""

    name: str
    spaces: frozenset[str]
    datasets: frozenset[str]
    whole: str | None = None


_NB201 = frozenset({"nb201"}), frozenset({"cifar10", "cifar100", "imagenet16", "cifar10-valid"})

KNOWN = (
    Known("nasbench201.parquet", frozenset({"nb201"}), frozenset({"cifar10", "cifar100", "imagenet16"})),
    Known("NATS-tss-v1_0-3ffb9-simple", *_NB201),
    Known("NATS-tss-v1_0-3ffb9-simple.tar", *_NB201),
    Known("NATS-tss-v1_0-3ffb9.pickle.pbz2", *_NB201),
    Known("NAS-Bench-201-v1_1-096897.pth", *_NB201),
    Known("NAS-Bench-201-v1_0-e61699.pth", *_NB201),
    Known("nasbench_full.tfrecord", PARTS["nb101"], frozenset({"cifar10"}), "nb101"),
    Known("nasbench_only108.tfrecord", PARTS["nb101"], frozenset({"cifar10"}), "nb101"),
    Known("nasbench101_slice.parquet", PARTS["nb101"], frozenset({"cifar10"})),
)


class Source(NamedTuple):
    """A file that a table is made from, and the whole benchmark it is imported as first."""

    path: Path
    whole: str | None


SpaceKeys = Callable[[], Mapping[str, int]]
"""Every key of a space to its number of raw encodings; called only when something is imported."""


def default_cache() -> Path:
    """Return the user's cache folder."""
    return platformdirs.user_cache_path("nas-stability")


def find(space: str, dataset: str, root: Path, cache: Path, space_keys: SpaceKeys) -> Path | None:
    """Return the path of the table of a space and dataset, imported into the cache if need be; None: there is none."""
    folders = (cache / "tables", root / "tables", root)
    if (ready := _ready(space, dataset, folders)) is not None:
        return ready
    source = _whole(space, dataset, folders)
    if source is None and (found := _source(space, dataset, root)) is not None:
        source = found.path if found.whole is None else imported(found.path, found.whole, cache, dict)
    return None if source is None else imported(source, space, cache, space_keys)


def known(space: str, dataset: str, root: Path, cache: Path) -> Path | None:
    """Return the table of a space and dataset, or the file that `find` would import; None: there is none."""
    folders = (cache / "tables", root / "tables", root)
    ready = _ready(space, dataset, folders) or _whole(space, dataset, folders)
    source = _source(space, dataset, root) if ready is None else None
    return ready if source is None else source.path


def _ready(space: str, dataset: str, folders: tuple[Path, ...]) -> Path | None:
    for folder in folders:
        if (exact := folder / f"{space}-{dataset}.arrow").is_file():
            return exact
        if (table := folder / f"{space}.arrow").is_file() and dataset in budgets(mapped(table)[1]):
            return table
    return None


def _whole(space: str, dataset: str, folders: tuple[Path, ...]) -> Path | None:
    wholes = [whole for whole, parts in PARTS.items() if space in parts]
    return next(filter(None, (_ready(whole, dataset, folders) for whole in wholes)), None)


def holds(table: Path, space: str) -> bool:
    """Return whether a table is of a whole benchmark that has the rows of a space."""
    return space in PARTS.get(mapped(table)[1]["space"], ())


def _source(space: str, dataset: str, root: Path) -> Source | None:
    for one in KNOWN:
        if space in {*one.spaces, one.whole} and dataset in one.datasets and (root / one.name).exists():
            return Source(root / one.name, one.whole)
    embedded = EMBEDDED / f"{space}-{dataset}.parquet"
    return Source(embedded, None) if embedded.is_file() else None


def imported(source: Path, space: str, cache: Path, space_keys: SpaceKeys) -> Path:
    """Return the table made from a source, imported into the cache if need be; a table of the space is one already."""
    if source.suffix == ".arrow" and mapped(source)[1]["space"] == space:
        return source
    path = cache / "tables" / f"{space}-{source.stem}-{fingerprint(source)[:12]}-v{FORMAT}.arrow"
    if not path.is_file():
        log.info("reading %s once, into %s", source, path)
        multiplicities = space_keys()
        write(path, import_table(source, space, multiplicities, sum(multiplicities.values()) or None))
    return path


def fingerprint(source: Path) -> str:
    """Return a hexadecimal digest that changes when a file or folder does."""
    if source.is_dir():
        return _stamp(source, sorted(source.rglob("*")))
    if source.suffix == ".arrow":
        return mapped(source)[1]["digest"]
    return sha256(source) if source.stat().st_size < BIG_BYTES else _stamp(source.parent, [source])


def _stamp(folder: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
