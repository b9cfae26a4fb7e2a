"""One thread for the whole session, since these sizes are far too small for two; and a way round the type checks.

Triton's kernels are interpreted: what Triton is, it is from its import on, and torch imports it here and there.
"""

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from jaxtyping import config

os.environ["TRITON_INTERPRET"] = "1"

# No timed assertions, and the same examples in every run.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Run without the checks of shapes and types, for long trajectories whose calls a shorter test has checked.

    They take most of the time of a tiny network, and beartype draws from Python's global random numbers.
    """
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
