"""What is published where: datasets and benchmark tables, their files, sizes and checksums.

Addresses and checksums are those their authors give; where they give none, that is said. Files on Google Drive have no
stable direct address: they are fetched by hand. Sizes are for people and are not checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.data import OFFICIAL
from bench.data.splits import SplitFile

DOWNLOADS = "downloads"
"""Folder below the data folder for archives and table files, fetched or put there by hand."""

TORONTO = "https://www.cs.toronto.edu/~kriz/"
NASBENCH = "https://storage.googleapis.com/nasbench/"
SPLITS = (
    "https://raw.githubusercontent.com/D-X-Y/AutoDL-Projects/a84f48388215d043d94c12c912e6a1defafca891/"
    "configs/nas-benchmark/"
)
DRIVE = "https://drive.google.com/"


@dataclass(frozen=True)
class File:
    """A published file.

    Attributes:
        size_bytes: as far as it is known, rounded where it is published so; None: unknown.
        checksum: algorithm and hexadecimal digest, `md5:…`; None: none is published.
        url: a direct address; None: there is none that is stable.
        page: where a person gets it, in words, where there is no direct address.
    """

    name: str
    size_bytes: int | None = None
    checksum: str | None = None
    url: str | None = None
    page: str = ""


@dataclass(frozen=True)
class Part:
    """Files that a dataset consists of.

    Attributes:
        name: what it is called on the command line.
        title: what it is.
        folder: where the files belong, below the data folder.
        files: all that have to be there.
        archive: holds all of them, in a folder of the same name; None: they are published one by one.
        division: a split file's halves and the number of images they divide; None: it is no split.
    """

    name: str
    title: str
    folder: str
    files: tuple[File, ...]
    archive: File | None = None
    division: tuple[SplitFile, int] | None = None


@dataclass(frozen=True)
class TableSource:
    """A benchmark's official results.

    Attributes:
        files: forms of the same results; one is enough, the first that is there is taken.
        spaces: whose tables are made of it.
        datasets: those it has.
    """

    name: str
    title: str
    files: tuple[File, ...]
    spaces: tuple[str, ...]
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """What `--benchmark paper` needs of a space on a dataset, beside a table: names of parts."""

    space: str
    dataset: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Catalogue:
    """Everything that can be prepared, and what it is for."""

    parts: tuple[Part, ...]
    tables: tuple[TableSource, ...]
    needs: tuple[Need, ...]

    @property
    def by_name(self) -> Mapping[str, Part | TableSource]:
        items: list[Part | TableSource] = [*self.parts, *self.tables]
        return {item.name: item for item in items}


def _batches(dataset: str, title: str, archive: File | None = None, page: str = "") -> Part:
    known = OFFICIAL[dataset].batches
    files = tuple(File(name, checksum=f"md5:{digest}", page=page) for name, digest in known.md5.items())
    return Part(dataset, title, known.folder, files, archive)


def _split(dataset: str, images: int, published: File) -> Part:
    """Return the part of a split file, which keeps the name the readers know."""
    split = OFFICIAL[dataset].split
    title = f"NAS-Bench-201's division of {OFFICIAL[dataset].batches.title}"
    return Part(split.prepared, title, "", (published,), division=(split, images))


PARTS = (
    _batches(
        "cifar10",
        "CIFAR-10, python version",
        File(
            "cifar-10-python.tar.gz",
            170_498_071,
            "md5:c58f30108f718f92721af3b95e74349a",
            f"{TORONTO}cifar-10-python.tar.gz",
        ),
    ),
    _split(
        "cifar10",
        50_000,
        File(
            "nasbench201-cifar-split.txt",
            438_970,
            "sha256:986da6174822048d4c5a25ee8ebdb7e754cd5372b51c633ffd4898ace8db9e32",
            f"{SPLITS}cifar-split.txt",
        ),
    ),
    _batches(
        "cifar100",
        "CIFAR-100, python version",
        File(
            "cifar-100-python.tar.gz",
            169_001_437,
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
            f"{TORONTO}cifar-100-python.tar.gz",
        ),
    ),
    _split(
        "cifar100",
        10_000,
        File("cifar100-test-split.txt", 78_970, None, f"{SPLITS}cifar100-test-split.txt"),
    ),
    _batches(
        "imagenet16",
        "ImageNet at 16×16 pixels, pickled batches, about 1 GB",
        page=f"the folder ImageNet16 of NAS-Bench-201's data, {DRIVE}open?id=1L0Lzq8rWpZLPfiQGd6QR8q5xLV88emU7, or "
        "Imagenet16_train.zip and Imagenet16_val.zip (not the npz ones) of https://image-net.org/download-images, "
        "which needs an account",
    ),
    _split(
        "imagenet16",
        6_000,
        File("imagenet-16-120-test-split.txt", 46_970, None, f"{SPLITS}imagenet-16-120-test-split.txt"),
    ),
)

_ONE_SHOT = ("s1", "s2", "s3")
_EVERY = ("cifar10", "cifar100", "imagenet16")
TABLES = (
    TableSource(
        "nasbench101",
        "NAS-Bench-101 at 108 epochs",
        (
            File(
                "nasbench_only108.tfrecord",
                522_767_376,
                "sha256:4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1",
                f"{NASBENCH}nasbench_only108.tfrecord",
            ),
        ),
        _ONE_SHOT,
        ("cifar10",),
    ),
    TableSource(
        "nasbench101-full",
        "NAS-Bench-101 at 4, 12, 36 and 108 epochs",
        (
            File(
                "nasbench_full.tfrecord",
                1_950_000_000,
                "sha256:3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c",
                f"{NASBENCH}nasbench_full.tfrecord",
            ),
        ),
        _ONE_SHOT,
        ("cifar10",),
    ),
    TableSource(
        "nasbench201",
        "NAS-Bench-201, version 1.1 or 1.0",
        (
            File(
                "NAS-Bench-201-v1_1-096897.pth",
                4_700_000_000,
                page=f"{DRIVE}open?id=16Y0UwGisiouVRxW-W5hEtbxmcHw_0hF_",
            ),
            File(
                "NAS-Bench-201-v1_0-e61699.pth",
                2_200_000_000,
                page=f"{DRIVE}open?id=1SKW0Cu0u8-gb18zDpaAGi0f74UdXeGKs",
            ),
        ),
        ("nb201",),
        _EVERY,
    ),
    TableSource(
        "nats-tss",
        "NATS-Bench, topology space",
        (
            File(
                "NATS-tss-v1_0-3ffb9-simple.tar",
                page=f"{DRIVE}file/d/17_saCsj_krKjlCBLOJEpNtzPXArMCqxU",
            ),
            File("NATS-tss-v1_0-3ffb9-simple", page="the folder in that archive"),
            File("NATS-tss-v1_0-3ffb9.pickle.pbz2", page=f"{DRIVE}file/d/1vzyK0UVH2D3fTpa1_dSWnp1gvGpAxRul"),
        ),
        ("nb201",),
        _EVERY,
    ),
)

NEEDS = (
    *(Need(space, "cifar10", ("cifar10",)) for space in _ONE_SHOT),
    *(Need("nb201", dataset, (dataset, f"{dataset}-split")) for dataset in _EVERY),
)

CATALOGUE = Catalogue(PARTS, TABLES, NEEDS)
