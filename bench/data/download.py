"""Fetching published files: written aside, checked, put in place; a good file that is there is not fetched again.

A transfer that breaks is started again a few times; one that was killed leaves a file under another name, which the
next call removes. A lock on the folder keeps a second process out.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import pooch
import requests

from bench.data.batches import checksum
from bench.data.sources import File

ATTEMPTS = 3
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20


@runtime_checkable
class Bar(Protocol):
    """What a transfer reports to, as pooch calls it; `total` is in bytes."""

    total: int

    def update(self, n: int) -> Any:
        """Note that many bytes more."""

    def reset(self) -> Any:
        """Start at nothing again."""

    def close(self) -> Any:
        """Note the end."""


NewBar = Callable[[str], Bar | None]
"""Returns a bar for a file's name, None where nothing is shown."""


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold a folder of downloads, made if need be, without the leftovers of killed transfers.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"expected no other process to download into {folder}, found one: wait for it") from error
        for leftover in folder.glob("tmp*"):  # pooch's names for files under way
            leftover.unlink()
        yield folder


def fetch(file: File, folder: Path, new_bar: NewBar) -> Path:
    """Return the path of a published file in a folder that is held.

    Raises:
        ValueError: what the server sends is not the published file.
        OSError: it cannot be fetched; the message says what to do.
    """
    path = folder / file.name
    if is_good(path, file.checksum):
        return path
    if file.url is None:
        raise ValueError(f"expected a direct address of {file.name}, there is none")
    instead = f"or put {file.name} into {folder} by hand"
    attempt = 0
    while True:
        attempt += 1
        try:
            return _retrieve(file, file.url, folder, new_bar(file.name))
        except requests.HTTPError as error:
            raise OSError(f"expected {file.url}, the server answered {_status(error)}: try later {instead}") from error
        except requests.RequestException as error:
            if attempt == ATTEMPTS:
                host = urlsplit(file.url).netloc
                raise OSError(
                    f"expected all of {file.url}, the connection to {host} failed {ATTEMPTS} times "
                    f"({_cause(error)}): run the same command again {instead}"
                ) from error
        except ValueError as error:
            raise ValueError(
                f"expected {file.checksum} for {file.url}, the server sent another file, which is not kept; try later "
                f"{instead}"
            ) from error


def _retrieve(file: File, url: str, folder: Path, bar: Bar | None) -> Path:
    downloader = pooch.HTTPDownloader(
        progressbar=bar or False,
        chunk_size=CHUNK_BYTES,
        timeout=TIMEOUT_S,
        headers={"Accept-Encoding": "identity"},  # an archive must arrive as it is
    )
    return Path(pooch.retrieve(url, file.checksum, file.name, folder, downloader=downloader))


def _status(error: requests.HTTPError) -> str:
    return "an error" if error.response is None else f"{error.response.status_code} {error.response.reason}"


def _cause(error: Exception) -> str:
    """Return the class of the innermost reason: the texts around it repeat the address."""
    while isinstance(reason := error.__cause__ or error.__context__, Exception):
        error = reason
    return f"{type(error).__name__}: {error}"


def is_good(path: Path, known: str | None) -> bool:
    """Return whether a file is there, and as published as far as a checksum, `md5:…`, is known."""
    if not path.is_file() or known is None:
        return path.is_file()
    algorithm, _, digest = known.partition(":")
    return checksum(path, algorithm) == digest
