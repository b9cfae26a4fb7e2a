"""A short campaign of kills; the long one is `python -m tests.campaign --kills 200`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.test_run import ROOT, surroundings


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "jobs"), [(12, 1), (3, 2)])
def test_kills_at_random_moments_leave_the_undisturbed_bytes(kills: int, jobs: int, tmp_path: Path) -> None:
    arguments = ["--kills", str(kills), "--jobs", str(jobs)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", *arguments],
        cwd=ROOT,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.match(r"(\d+) kills, (\d+) specifications to their end, (\d+) of (\d+) runs the same", done.stdout)
    assert found
    dealt, rounds, same, runs = map(int, found.groups())
    assert dealt >= kills
    assert rounds >= 1
    assert same == runs > 0
