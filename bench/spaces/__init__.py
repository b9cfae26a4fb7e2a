"""Search spaces by name: `s1`, `s2`, `s3` (NAS-Bench-1Shot1), `nb201` (NAS-Bench-201) and `toy`."""

from collections.abc import Callable

from bench.spaces.base import Space
from bench.spaces.nb201 import NB201Space
from bench.spaces.one_shot import S1, S2, S3, TOY, OneShotSpace

SPACES: dict[str, Callable[[], Space]] = {
    "s1": lambda: OneShotSpace("s1", S1),
    "s2": lambda: OneShotSpace("s2", S2),
    "s3": lambda: OneShotSpace("s3", S3),
    "nb201": NB201Space,
    "toy": lambda: OneShotSpace("toy", TOY),
}


def get(name: str) -> Space:
    """Return the space of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SPACES:
        raise ValueError(f"expected one of the spaces {', '.join(SPACES)}, got {name!r}")
    return SPACES[name]()
