"""Units as a job array of a real Slurm of one node: requeueing, preemption, jobs that die, a command given again."""

import contextlib
import logging
import signal
import subprocess
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import pytest
from tests import benches, slurm
from tests.benches import record_bytes
from tests.commands import finished, grid, lines, said, started, undisturbed, until

from bench import run
from bench.launch.slurm import minutes

EPOCHS = 200
"""So many that a search is still under way when Slurm has got round to stopping it, some seconds after it was asked."""
REASON = slurm.absent() or ("" if util.find_spec("submitit") else "the extra [slurm] is not installed")


def real(function: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs a real Slurm."""
    marked = pytest.mark.skipif(bool(REASON), reason=REASON or "Slurm is here")(function)
    return pytest.mark.slow(pytest.mark.xdist_group("slurm")(marked))


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return undisturbed(tmp_path_factory.mktemp("whole"), EPOCHS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("slurm")
    with slurm.cluster(folder) as environment:
        yield environment


def command(results: Path, *more: str) -> list[str]:
    jobs = ("--launcher", "slurm", "--time", "10", "--partition", "low", "--gres", "gpu:0", "--sbatch", "comment=mine")
    return [*grid(results, EPOCHS, *jobs), *more]


def ask(cluster: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=cluster, capture_output=True, text=True, check=True).stdout


def running(cluster: dict[str, str]) -> list[str]:
    return ask(cluster, "squeue", "--noheader", "--array", "--states=RUNNING", "--partition=low", "--format=%i").split()


def attempts(results: Path) -> list[list[benches.Record]]:
    return [benches.lines(path) for path in sorted(results.glob("runs/*/attempts.jsonl"))]


def under_way(cluster: dict[str, str], results: Path) -> None:
    """Wait until a search is somewhere in its middle."""

    def searching() -> bool:
        return lines(results) >= 10 and bool(running(cluster))

    until(searching)


@real
def test_an_array_leaves_the_records_of_one_process(
    cluster: dict[str, str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    results = tmp_path / "r"
    assert started(command(results), tmp_path, cluster).wait(timeout=900) == 0, said(tmp_path)
    assert record_bytes(results) == whole
    assert finished(results) == len(whole)
    (script,) = (results / "slurm").glob("*_submission.sh")
    asked = script.read_text(encoding="utf-8")
    for option in ("array=0-3", "partition=low", "gres=gpu:0", "time=10", "requeue", "comment=mine", "cpus-per-task=1"):
        assert f"#SBATCH --{option}" in asked, option
    assert [len(found) for found in attempts(results)] == [1] * 4
    assert not list((results / "slurm").glob("*.job.json"))
    assert f"epoch {EPOCHS}/{EPOCHS}" in said(tmp_path)


def preempt(cluster: dict[str, str], _results: Path) -> None:
    """A job of a partition that goes first takes the whole node."""
    ask(cluster, "sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")


def near_the_limit(cluster: dict[str, str], _results: Path) -> None:
    """What Slurm sends some time before the limit; scancel itself would try again until the job runs again."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", "--signal=USR2", running(cluster)[0]], env=cluster, check=False, timeout=3)


def requeue(cluster: dict[str, str], _results: Path) -> None:
    """What an administrator does, without any signal to prepare for."""
    ask(cluster, "scontrol", "requeue", running(cluster)[0])


def kill(_cluster: dict[str, str], results: Path) -> None:
    """The process dies, and Slurm takes its job for failed."""
    unfinished = [
        path for path in results.glob("runs/*/attempts.jsonl") if not (path.parent / "finished.json").exists()
    ]
    pids = [benches.lines(path)[-1]["pid"] for path in unfinished]
    (Path("/proc") / str(pids[0])).stat()
    subprocess.run(["kill", "-KILL", str(pids[0])], check=True)


def hurried(cluster: dict[str, str], process: "subprocess.Popen[str]") -> bool:
    """Return whether a command has ended; jobs that were requeued need not wait Slurm's two minutes."""
    for line in ask(cluster, "squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r").splitlines():
        job, reason = line.split(maxsplit=1)
        if reason == "BeginTime":
            ask(cluster, "scontrol", "update", f"JobId={job}", "StartTime=now")
    return process.poll() is not None


@real
@pytest.mark.parametrize("fault", [preempt, near_the_limit, requeue, kill])
def test_a_job_that_is_stopped_goes_on_from_its_checkpoint(
    fault: Callable[[dict[str, str], Path], None],
    cluster: dict[str, str],
    tmp_path: Path,
    whole: dict[str, bytes],
) -> None:
    results = tmp_path / "r"
    process = started(command(results), tmp_path, cluster)
    under_way(cluster, results)
    fault(cluster, results)
    until(lambda: hurried(cluster, process))
    assert process.returncode == 0, said(tmp_path)
    assert record_bytes(results) == whole
    again = [found[-1] for found in attempts(results) if len(found) > 1]
    assert again
    assert all(one["from_epoch"] > 0 for one in again)


@real
def test_a_command_that_is_given_again_follows_the_jobs_of_the_first(
    cluster: dict[str, str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    results = tmp_path / "r"
    process = started(command(results), tmp_path, cluster)
    under_way(cluster, results)
    process.kill()
    process.wait()
    assert started(command(results), tmp_path, cluster).wait(timeout=900) == 0, said(tmp_path)
    assert "are followed" in said(tmp_path)
    assert record_bytes(results) == whole
    assert len(list((results / "slurm").glob("*_submission.sh"))) == 1
    assert [len(found) for found in attempts(results)] == [1] * 4


@real
def test_ctrl_c_takes_the_jobs_out_of_the_queue(
    cluster: dict[str, str], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    results = tmp_path / "r"
    process = started(command(results), tmp_path, cluster)
    under_way(cluster, results)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130, said(tmp_path)
    until(lambda: not ask(cluster, "squeue", "--noheader"))
    assert started(grid(results, EPOCHS), tmp_path / "local").wait(timeout=900) == 0, said(tmp_path / "local")
    assert record_bytes(results) == whole


@real
def test_what_slurm_does_not_take_is_one_sentence(cluster: dict[str, str], tmp_path: Path) -> None:
    assert started(command(tmp_path / "r", "--partition", "nowhere"), tmp_path, cluster).wait(timeout=900) == 2
    last = said(tmp_path).splitlines()[-1]
    assert last.startswith("error: expected Slurm to take the jobs, got: ")
    assert "invalid partition" in last


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("5:30", 6), ("1:30:00", 90), ("2-0", 2880), ("1-2:30", 1590), ("1-0:0:1", 1441)],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--launcher", "slurm"], "expected --time beside --launcher slurm"),
        (["--launcher", "slurm", "--time", "soon"], "got 'soon'"),
        (["--partition", "low"], "expected --launcher slurm beside partition, got local"),
        (["--launcher", "slurm", "--time", "5", "--shared"], "expected --launcher ray beside shared, got slurm"),
        (["--launcher", "slurm", "--time", "5", "--unit-cpus", "0.5"], "expected whole CPUs"),
        (["--launcher", "slurm", "--time", "5", "--sbatch", "account"], "expected --sbatch NAME=VALUE, got 'account'"),
        (["--launcher", "slurm", "--time", "5"], "found no sbatch"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _name: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    caplog.set_level(logging.WARNING)
    assert run.main([*grid(tmp_path / "r", 1), *options]) == 2
    assert sentence in caplog.text
    assert not (tmp_path / "r").exists()
