"""Units on a Ray cluster of several nodes, on this machine: what dies is made up for, to the same bytes."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from tests import benches
from tests.benches import record_bytes
from tests.commands import finished, grid, lines, said, started, undisturbed, until

from bench import run
from bench.launch import ray_worker
from bench.launch.ray import probe
from bench.launch.unit import Unreachable

EPOCHS = 24
needs_ray = pytest.mark.skipif(util.find_spec("ray") is None, reason="the extra [ray] is not installed")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unchecked: None) -> None:
    benches.isolate(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return undisturbed(tmp_path_factory.mktemp("whole"), EPOCHS)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs, and two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    for _ in range(2):
        found.add_node(num_cpus=1, **small)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def command(cluster: Any, results: Path, *more: str) -> list[str]:
    return [*grid(results, EPOCHS, "--launcher", "ray", "--address", cluster.address), *more]


def searchers(cluster: Any) -> dict[int, str]:
    """Return the processes that search a unit, by their id, with the unit's label; of this cluster only."""
    nodes = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title, status = (path / "cmdline").read_text(errors="replace"), (path / "stat").read_text()
        except OSError:
            continue
        parent = int(status.rpartition(")")[2].split()[1])
        if title.startswith("ray::toy") and parent in nodes:
            found[int(path.name)] = title.strip("\0")
    return found


def attempts(results: Path) -> list[list[dict[str, Any]]]:
    return [benches.lines(path) for path in sorted(results.glob("runs/*/attempts.jsonl"))]


def kill_a_worker(cluster: Any) -> None:
    os.kill(next(iter(searchers(cluster))), signal.SIGKILL)


def remove_a_node(cluster: Any) -> None:
    """Remove a node that searches, at once, and add another one."""
    pid = next(iter(searchers(cluster)))
    parent = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    (node,) = [n for n in cluster.list_all_nodes() if n.all_processes["raylet"][0].process.pid == parent]
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


@pytest.mark.parametrize("more", [(), ("--shared",)], ids=["sent back", "shared folder"])
@pytest.mark.parametrize("fault", [None, kill_a_worker, remove_a_node])
@needs_ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_cluster_leaves_the_records_of_one_process(
    fault: Any, more: tuple[str, ...], cluster: Any, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    results = tmp_path / "r"
    process = started(command(cluster, results, *more), tmp_path)
    if fault is not None:
        until(lambda: lines(results) >= 10 and bool(searchers(cluster)))
        fault(cluster)
    assert process.wait(timeout=900) == 0, said(tmp_path)
    assert record_bytes(results) == whole
    assert finished(results) == len(whole)
    assert not list((results / "stacks").iterdir())
    counts = sorted(len(found) for found in attempts(results))
    # A node that is removed may have held two units.
    assert counts in ([[1, 1, 1, 1]] if fault is None else [[1, 1, 1, 2], [1, 1, 2, 2]])
    again = [found[-1] for found in attempts(results) if len(found) == 2]
    # A second unit of a removed node may have died before its first checkpoint.
    assert fault is None or any(one["from_epoch"] > 0 for one in again), "it has begun anew"


@needs_ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("more", [(), ("--shared",)], ids=["sent back", "shared folder"])
def test_a_driver_that_was_killed_is_started_again(
    more: tuple[str, ...], cluster: Any, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    results = tmp_path / "r"
    process = started(command(cluster, results, *more), tmp_path)
    until(lambda: lines(results) >= 20)
    process.kill()
    process.wait()
    until(lambda: not searchers(cluster))
    before = lines(results)
    assert finished(results) < len(whole)
    assert started(command(cluster, results, *more), tmp_path).wait(timeout=900) == 0, said(tmp_path)
    assert record_bytes(results) == whole
    assert before >= 20
    assert any(one["from_epoch"] for found in attempts(results) for one in found)


@needs_ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ctrl_c_ends_what_is_searched(cluster: Any, tmp_path: Path, whole: dict[str, bytes]) -> None:
    results = tmp_path / "r"
    process = started(command(cluster, results), tmp_path)
    until(lambda: lines(results) >= 10)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130, said(tmp_path)
    until(lambda: not searchers(cluster))
    assert started(grid(results, EPOCHS), tmp_path / "local").wait(timeout=900) == 0, said(tmp_path / "local")
    assert record_bytes(results) == whole


@needs_ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_driver_holds_the_locks_of_what_is_searched_elsewhere(cluster: Any, tmp_path: Path) -> None:
    results, long = tmp_path / "r", ("--epochs", "1000")
    process = started(command(cluster, results, *long), tmp_path / "first")
    until(lambda: lines(results) >= 1)
    assert started(grid(results, EPOCHS, *long), tmp_path / "second").wait(timeout=900) == 2
    process.kill()
    process.wait()
    assert said(tmp_path / "second").count("is being searched by process") == 4


@needs_ray
@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_method_that_fails_leaves_its_reason_and_the_others_go_on(cluster: Any, tmp_path: Path) -> None:
    """A warm-up of twice the epochs, which the method refuses only when it is built."""
    results = tmp_path / "r"
    more = ("--methods", "pc_darts,random_ws", "--epochs", "2", "--channels", "4", "--set", "pc_darts.warm_up=2")
    assert started(command(cluster, results, *more), tmp_path).wait(timeout=900) == 1, said(tmp_path)
    assert finished(results) == 2
    reasons = [path.read_text(encoding="utf-8") for path in results.glob("runs/toy-pc_darts-*/error.txt")]
    assert len(reasons) == 2
    assert all("warm" in reason for reason in reasons)


def test_without_ray_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _name: None)
    caplog.set_level(logging.WARNING)
    assert run.main(grid(tmp_path / "r", 1, "--launcher", "ray")) == 2
    assert "nas-stability[ray]" in caplog.text
    assert not (tmp_path / "r").exists()


def test_an_address_where_nothing_listens_is_one_sentence() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        probe(address)
    for closed in (address, f"ray://{address}"):
        with pytest.raises(Unreachable, match=f"expected a Ray cluster at {closed}, got: "):
            probe(closed)
    probe(None)
    probe("auto")


def test_a_table_that_was_sent_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "_folder", lambda: tmp_path)
    content = benches.table(tmp_path / "t.arrow").read_bytes()
    path = Path(ray_worker._kept(content))
    before = path.stat()
    assert ray_worker._kept(content) == str(path)
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == before.st_mtime_ns
