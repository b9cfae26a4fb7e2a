"""In which precision steps are taken; λ, evaluations and weights are float32 whatever it is (docs/precision.md).

fp32: everything. tf32: products and convolutions of a GPU round their inputs to 11 bits. bf16: images, and so all maps
of a step, are bfloat16; weights, logits, their optimisers, mixing weights, batch statistics and losses stay float32,
and so do passes whose small differences or second derivatives count (`ForwardInputs`).
"""

from contextlib import AbstractContextManager

import torch

from searchers._flags import TF32, switched

NAMES = ("fp32", "tf32", "bf16")
TF32_SINCE = (8, 0)
"""Compute capability."""


def check(name: str, device: torch.device) -> None:
    """Raise where a device has no such precision.

    Raises:
        ValueError: TF32 where there is none: it would be float32 under another name.
    """
    has = device.type == "cuda" and torch.cuda.get_device_capability(device) >= TF32_SINCE
    if name == "tf32" and not has:
        raise ValueError(f"expected --precision fp32 or bf16 on {device}, got tf32, which GPUs have since Ampere")


def step_dtype(name: str | None) -> torch.dtype | None:
    """Return the type of the images of steps, None where it is that of everything."""
    return torch.bfloat16 if name == "bf16" else None


def arithmetic(name: str | None) -> AbstractContextManager[None]:
    """Allow TF32 where it was asked for, and nowhere else; restore what was allowed before."""
    return switched(dict.fromkeys(TF32, name == "tf32"))
