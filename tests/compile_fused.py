"""Compiles the kernels of `bench.fused` for an H200, which need not be there; a line for each.

Pointers and counts are multiples of 16, as Triton finds them to be of the papers' maps (16 seeds of them).
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.fused import device, device_convolution, launch

TARGET = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 227 * 1024
"""That a program may have on the chip."""
ASSEMBLER = Path(nvidia.__file__).parent / "bin" / "ptxas"


def assembly(kernel: Any, types: dict[str, Any], constants: dict[str, Any]) -> str:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    places = [
        (i, *inner)
        for i, kind in enumerate(signature.values())
        if kind != "constexpr"
        for inner in ([()] if isinstance(kind, str) else [(k,) for k in range(len(kind))])
    ]
    known = {place: [["tt.divisibility", 16]] for place in places}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=known)
    found = triton.compile(source, target=TARGET)
    assert found.metadata.shared <= SHARED_BYTES, f"{kernel.__name__}: {found.metadata.shared} bytes"
    return str(found.asm["ptx"])


def spilled(ptx: str) -> int:
    """Bytes of registers that were put into memory."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ASSEMBLER, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(number) for number in re.findall(r"(\d+) bytes spill", said))


def report(kernel: Any, types: dict[str, Any], constants: dict[str, Any], about: str) -> None:
    own = {name: value for name, value in constants.items() if name in kernel.arg_names}
    sys.stdout.write(f"{kernel.__name__} of {about}: {spilled(assembly(kernel, types, own))} bytes spilled\n")


def convolutions() -> None:
    counts = {"groups": "i32", "count": "i32"}
    for kind, precision in (("*bf16", "ieee"), ("*fp32", "tf32"), ("*fp32", "ieee")):
        for side, width, into, out in ((3, 32, 16, 48), (1, 8, 64, 64)):
            constants = {
                **{"HEIGHT": width, "WIDTH": width, "SIDE": side, "INTO": into, "OUT": out, "BIASED": True},
                **{"BLOCK_IN": launch.block(into, launch.MOST_IN), "BLOCK_OUT": launch.block(out, launch.MOST_OUT)},
                **{"BLOCK": launch.PIXELS, "LENGTH": launch.PIXELS_ADDED, "PRECISION": precision, "WIDE": tl.float32},
            }
            about = f"{side}×{side}, {into} to {out} channels, {kind} {precision}"
            maps = dict.fromkeys(("outputs", "maps", "kernels", "bias"), kind) | counts
            report(device_convolution.convolve, maps, constants, about)
            gradients = {"found": "*fp32", "gradients": kind, "maps": kind, **counts}
            report(device_convolution.of_kernels, gradients, constants, about)


def mixtures() -> None:
    numbers = dict.fromkeys(("table", "slopes", "factors", "found", "dots", "of_factors"), "*fp32")
    counts = {"channels": "i32", "count": "i32", "stretches": "i32", "EPS": "fp32"}
    for kind in ("*bf16", "*fp32"):
        for edges, branches, wide, relu in ((1, 3, 0, 0b110), (3, 4, 0b110, 0)):
            every, of_channels = (1 << branches) - 1, ("*fp32",) * branches
            per_branch = dict.fromkeys(("sums", "scales", "shifts", "of_scales", "of_shifts"), of_channels)
            maps = {"maps": (kind,) * branches, **dict.fromkeys(("outputs", "gradients"), (kind,) * edges)}
            types = {**numbers, **counts, **per_branch, **maps}
            constants = {
                **{"EDGES": edges, "WIDTH": 16, "PIXELS": 1024, "WIDE": wide, "RELU": relu, "NORMAL": 0b110},
                **{"WANTED": every, "SCALED": 0b110, "SHIFTED": 0b110, "LENGTH": launch.LENGTH, "BLOCK": launch.BLOCK},
            }
            about = f"{edges} mixtures, {branches} branches, {kind}"
            report(device.sums, {**types, "maps": kind}, constants, about)
            report(device.backward, {**types, "found": (kind,) * branches}, constants, about)
            report(device.mix, types, constants, about)
            report(device.dots, types, {**constants, "BLOCK": launch.DOTS}, about)
            for kernel in (device.prepare, device.conclude):
                report(kernel, types, {**constants, "BLOCK": launch.CHANNELS}, about)


if __name__ == "__main__":
    mixtures()
    convolutions()
