"""Compares the kernels of `bench.fused` with torch's own on a machine that has a GPU; a line for each case.

    python tests/gpu_fused.py                                   # on the GPU
    TRITON_INTERPRET=1 python tests/gpu_fused.py cpu            # the same, interpreted, which has no products of bf16

Not collected by pytest, whose process interprets. Errors are ‖ours − theirs‖ / ‖theirs‖, theirs in float64.
"""

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import kernels
from bench.batch_norm import EPS
from bench.convolution import Geometry
from bench.mixture import Branch

WORST = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
SIZES = ((4, 16, 32), (5, 16, 17), (3, 64, 9))
"""Images, channels of a replica, pixels a side."""


def error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


def derivatives(outputs: Sequence[Tensor], leaves: Sequence[Tensor], onto: Sequence[Tensor]) -> list[Tensor]:
    onto = [one.to(out.dtype) for one, out in zip(onto, outputs, strict=True)]
    return [*outputs, *torch.autograd.grad(list(outputs), list(leaves), onto)]


def widened(leaves: Sequence[Tensor]) -> list[Tensor]:
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


def mixtures(device: torch.device, dtype: torch.dtype, size: tuple[int, int, int]) -> float:
    """Two replicas, two edges that share one map, each with a normalised one of its own."""
    (n, c, side), stream = size, torch.Generator().manual_seed(0)

    def normal(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=stream).to(device, kind).requires_grad_()

    shared, own = normal(n, 2 * c, side, side, kind=dtype), normal(n, 4 * c, side, side, kind=dtype)
    leaves = [shared, own, normal(4 * c), normal(4 * c), *(normal(2 * c, 1, 1) for _ in range(4))]
    onto = [torch.randn(n, 2 * c, side, side, generator=stream).to(device) for _ in range(2)]
    mixed = kernels.of("triton").mixed
    assert mixed is not None
    branches = [Branch(shared), Branch(own, True, True, True, leaves[2], leaves[3])]
    ours = derivatives(mixed([leaves[4:6], leaves[6:]], branches, 2), leaves, onto)
    shared, own, scale, shift, *factors = exact = widened(leaves)
    z = F.batch_norm(own, None, None, scale, shift, True, 0.0, EPS).relu().unflatten(1, (2, 2, -1))
    edges = [z[:, :, edge].flatten(1, 2) for edge in range(2)]
    outputs = [shared * factors[2 * e] + edges[e] * factors[2 * e + 1] for e in range(2)]
    return error(ours, derivatives(outputs, exact, onto))


def convolutions(device: torch.device, dtype: torch.dtype, size: tuple[int, int, int]) -> float:
    """Two replicas, 3×3 kernels with a bias."""
    (n, c, side), stream = size, torch.Generator().manual_seed(0)
    shapes = (n, 2 * c, side, side), (6 * c, c, 3, 3), (6 * c,)
    leaves = [torch.randn(shape, generator=stream).to(device, dtype).requires_grad_() for shape in shapes]
    onto = [torch.randn(n, 6 * c, side, side, generator=stream).to(device)]
    ours = [kernels.of("triton-all").convolution(*leaves, Geometry(1, 1, 2))]
    exact = widened(leaves)
    return error(derivatives(ours, leaves, onto), derivatives([F.conv2d(*exact, 1, 1, 1, 2)], exact, onto))


def main(arguments: Sequence[str]) -> int:
    device, failed = torch.device(arguments[0] if arguments else "cuda"), False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    checks: tuple[Callable[[torch.device, torch.dtype, tuple[int, int, int]], float], ...] = (mixtures, convolutions)
    gpu = device.type == "cuda"
    for check in checks:
        for dtype, worst in WORST.items() if gpu or check is mixtures else [(torch.float32, WORST[torch.float32])]:
            for size in SIZES if gpu else SIZES[1:2]:
                found = check(device, dtype, size)
                failed |= not found <= worst
                sys.stdout.write(f"{check.__name__} {dtype} {size}: {found:.2g}, at most {worst:g}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
