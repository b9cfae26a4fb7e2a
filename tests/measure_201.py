"""Made-up files as large as those NAS-Bench-201 and NATS-Bench were published in, and what reading them takes.

    python -m tests.measure_201 FOLDER                     files of all 15,625 architectures in FOLDER (10 GB), timed
    python -m tests.measure_201 FOLDER --compressed 1000   fewer in the bzip2-ed forms, which take longest to make
    python -m tests.measure_201 FOLDER --peers PYTHON      also nats-bench and nas-bench-201, in that interpreter

Numbers in the files are made up; sizes, fields, curves and the order of opcodes are those of the published files.
"""

import argparse
import bz2
import io
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests import official201 as official
from tests.official201 import CELLS, NATS, NB201

MARK, INDEX, FIRST = "@cell@", 15_000, 1_000
"""Stand for an architecture's cell and number in the template; the template's memo begins at FIRST."""


class Template:
    """An architecture's opcodes, to be repeated with other numbers, cells and memo entries."""

    def __init__(self, names: dict[str, int], protocol: int) -> None:
        content = official.architecture(0, names)
        for info in content.values():
            info["arch_str"], info["arch_index"] = MARK, INDEX
        raw = opcodes(content, protocol, FIRST)
        self.raw = np.frombuffer(raw, np.uint8)
        found = list(pickletools.genops(b"\x80\x04" + raw + b"."))
        at = [(opcode.name, argument, place - 2) for opcode, argument, place in found if place >= 2]
        self.floats = self._bytes([place + 1 for name, _, place in at if name == "BINFLOAT"], 8)
        self.memo = self._bytes([place + 1 for name, _, place in at if name in {"LONG_BINPUT", "LONG_BINGET"}], 4)
        self.index = self._bytes([place + 1 for name, number, place in at if number == INDEX], 2)
        self.size = sum(name in {"LONG_BINPUT", "MEMOIZE"} for name, _, _ in at)
        self.values = self.raw[self.floats].copy().view(">f8").ravel()
        self.entries = self.raw[self.memo].copy().view("<u4").ravel()

    @staticmethod
    def _bytes(places: list[int], width: int) -> np.ndarray:
        return np.array(places)[:, None] + np.arange(width)

    def architecture(self, index: int, memo_size: int) -> bytes:
        """The opcodes of an architecture whose first memo entry is `memo_size`."""
        raw = self.raw.copy()
        raw[self.floats] = (self.values * (1 - index / 40_000)).astype(">f8").view(np.uint8).reshape(-1, 8)
        raw[self.memo] = (
            (self.entries.astype(np.int64) + (memo_size - FIRST)).astype("<u4").view(np.uint8).reshape(-1, 4)
        )
        raw[self.index] = np.frombuffer(index.to_bytes(2, "little"), np.uint8)
        text = raw.tobytes()
        for head in (b"X" + len(MARK).to_bytes(4, "little"), b"\x8c" + bytes([len(MARK)])):
            cell = CELLS[index].encode()
            width = len(head) - 1
            text = text.replace(head + MARK.encode(), head[:1] + len(cell).to_bytes(width, "little") + cell)
        return text


def opcodes(value: Any, protocol: int, first: int) -> bytes:
    """A value's opcodes without frame and end, its memo counted from `first`."""
    file = io.BytesIO()
    pickler = pickle._Pickler(file, protocol)
    pickler.memo = {-1 - entry: (entry, None) for entry in range(first)}
    pickler.save(value)
    return file.getvalue()


def whole(names: dict[str, int], protocol: int, count: int) -> Iterator[bytes]:
    """One pickle of `count` architectures, in pieces."""
    template, size = Template(names, protocol), 0
    parts = ("meta_archs", CELLS, "evaluated_indexes", list(range(count)), "arch2infos")
    listed = [opcodes(part, protocol, FIRST) for part in parts]
    yield b"\x80" + bytes([protocol]) + b"}("
    for part in listed:
        shifted = bytearray(part)
        puts = [(o.name, place - 2) for o, _, place in pickletools.genops(b"\x80\x04" + part + b".") if place >= 2]
        for name, place in puts:
            if name in {"LONG_BINPUT", "MEMOIZE"}:
                if name == "LONG_BINPUT":
                    shifted[place + 1 : place + 5] = size.to_bytes(4, "little")
                size += 1
        yield bytes(shifted)
    yield b"}("
    for index in range(count):
        yield b"M" + index.to_bytes(2, "little") + template.architecture(index, size)
        size += template.size
        if index % 1000 == 999 and index + 1 < count:
            yield b"u("
    yield b"uu."


def write_torch(path: Path, count: int) -> None:
    """As torch wrote it when NAS-Bench-201 was published."""
    import torch

    empty = io.BytesIO()
    torch.save({}, empty, _use_new_zipfile_serialization=False)
    empty.seek(0)
    for _ in range(3):
        pickle.load(empty)
    with path.open("wb") as file:
        file.write(empty.getvalue()[: empty.tell()])
        file.writelines(whole(NB201, 2, count))
        file.write(pickle.dumps([], 2))


def write_single(path: Path, count: int) -> None:
    with bz2.open(path, "wb") as file:
        file.writelines(whole(NATS, 4, count))


def write_members(folder: Path, count: int) -> None:
    folder.mkdir()
    meta = {"meta_archs": CELLS, "total_archs": len(CELLS), "arch2infos": None, "evaluated_indexes": set()}
    (folder / "meta.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(meta, 4)))
    template = Template(NATS, 4)
    for index in range(count):
        raw = b"\x80\x04" + template.architecture(index, 0) + b"."
        (folder / f"{index:06d}.pickle.pbz2").write_bytes(bz2.compress(raw))


MEMORY = """
import sys, time
from pathlib import Path
def peak_MB():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")
    return peak_MB()
"""

NATS_BENCH = """
from nats_bench import create
start = time.process_time()
api = create(sys.argv[1], "tss", fast_mode=True, verbose=False)
opened = time.process_time()
indices = [int(path.name[:6]) for path in Path(sys.argv[1]).glob("0*")][:100]
before = forget_peak()
def ask():
    begin = time.process_time()
    for index in indices:
        api.get_more_info(index, "cifar10", hp="200", is_random=False)
    return (time.process_time() - begin) / len(indices)
first, grown, again = ask(), (peak_MB() - before) / len(indices), ask()
print(f"nats-bench on {sys.argv[1]}: opens in {opened - start:.2f} CPU s; {1e3 * first:.1f} CPU ms and {grown:.2f} MB "
      f"an architecture ({len(indices)} asked), then {1e6 * again:.0f} us a query")
"""

NAS_BENCH_201 = """
import contextlib, io, torch
from nas_201_api import NASBench201API
try:
    with contextlib.redirect_stdout(io.StringIO()):
        NASBench201API(sys.argv[1], verbose=False)
    print("nas-bench-201, given the path: starts")
except Exception as error:
    print(f"nas-bench-201, given the path: {type(error).__name__}: {str(error).splitlines()[0][:60]}")
before, start = forget_peak(), time.process_time()
content = torch.load(sys.argv[1], weights_only=False)
n, loaded = len(content["arch2infos"]), time.process_time()
api = NASBench201API(content, verbose=False)
built, grown = time.process_time(), (peak_MB() - before) / n
for index in range(n):
    api.get_more_info(index, "cifar10", hp="200", is_random=False)
asked = (time.process_time() - built) / n
print(f"nas-bench-201, given the dict of {n} architectures: {1e3 * (loaded - start) / n:.1f} CPU ms to load, "
      f"{1e3 * (built - loaded) / n:.1f} to build and {grown:.2f} MB an architecture, {1e6 * asked:.0f} us a query")
"""


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout or done.stderr[-300:])
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", type=Path, help="an interpreter that has nats-bench, nas-bench-201 and torch")
    parser.add_argument("--count", type=int, default=len(CELLS), help="architectures in the .pth")
    parser.add_argument("--compressed", type=int, default=len(CELLS), help="architectures in the bzip2-ed forms")
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    folder.mkdir(exist_ok=True)
    names = ("NAS-Bench-201-v1_1-made-up.pth", "NATS-tss-simple", "NATS-tss-simple.tar", "NATS-tss.pickle.pbz2")
    torch_file, members, tar, single = (folder / name for name in names)
    if not torch_file.exists():
        write_torch(torch_file, chosen.count)
    if not members.exists():
        write_members(members, chosen.compressed)
        official.write_tar(tar, {one.name: one.read_bytes() for one in sorted(members.iterdir())})
        write_single(single, chosen.compressed)
    run(sys.executable, "-m", "bench.tables", "measure", torch_file, members, tar, single)
    if chosen.peers:
        small = folder / "small.pth"
        write_torch(small, 200)
        run(sys.executable, "-m", "bench.tables", "measure", small)
        run(chosen.peers, "-c", MEMORY + NATS_BENCH, members)
        run(chosen.peers, "-c", MEMORY + NAS_BENCH_201, small)


if __name__ == "__main__":
    main()
