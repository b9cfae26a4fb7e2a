"""Compiles the kernels of `bench.fused` for a GPU of compute capability 9.0, which need not be there; a line for each.

Pointers and counts are multiples of 16, as Triton finds them to be of the papers' maps.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.fused import device
from bench.fused.mixed import BLOCK, LENGTH

TARGET = GPUTarget("cuda", 90, 32)
ASSEMBLER = Path(nvidia.__file__).parent / "bin" / "ptxas"


def assembly(kernel: Any, types: dict[str, Any], constants: dict[str, int]) -> str:
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    places = [
        (i, *inner)
        for i, kind in enumerate(signature.values())
        if kind != "constexpr"
        for inner in ([()] if isinstance(kind, str) else [(k,) for k in range(len(kind))])
    ]
    known = {place: [["tt.divisibility", 16]] for place in places}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=known)
    return str(triton.compile(source, target=TARGET).asm["ptx"])


def spilled(ptx: str) -> int:
    """Bytes of registers that were put into memory."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ASSEMBLER, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(number) for number in re.findall(r"(\d+) bytes spill", said))


def main() -> None:
    counts = {"channels": "i32", "count": "i32"}
    for kind in ("*bf16", "*fp32"):
        for edges, branches, wide, relu in ((1, 3, 0, 0b110), (3, 4, 0b110, 0)):
            maps, gradients, table = (kind,) * branches, (kind,) * edges, {"table": "*fp32"}
            shape = {"WIDTH": 16, "PIXELS": 1024, "WIDE": wide, "RELU": relu, "BLOCK": BLOCK}
            sums = {"maps": kind, "shifts": "*fp32", "found": "*fp32"}
            of = {"gradients": gradients, "maps": maps, **table, **counts}
            every = (1 << branches) - 1
            for kernel, types, more in (
                (device.sums, {**sums, **counts}, {"LENGTH": LENGTH}),
                (device.mix, {"outputs": gradients, "maps": maps, **table, **counts}, {}),
                (device.dots, {"found": "*fp32", **of}, {"NORMAL": 0b110, "WANTED": every, "LENGTH": LENGTH}),
                (device.backward, {"found": maps, **of}, {"WANTED": every}),
            ):
                constants = {name: value for name, value in (shape | more).items() if name in kernel.arg_names}
                lost = spilled(assembly(kernel, types, constants))
                about = f"{kernel.__name__} of {edges} mixtures, {branches} branches, {kind}"
                sys.stdout.write(f"{about}: {lost} bytes spilled\n")


if __name__ == "__main__":
    main()
