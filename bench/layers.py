"""Layers of all replicas: every parameter starts with the replicas axis.

Convolutions use `groups=replicas`, batch statistics are per channel and so per replica already; `bench.ops` has the
layout.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bench.convolution import Geometry
from bench.kernels import Kernels
from bench.layout import Folded, Rows, factored, split
from bench.ops import Flow

SMALL = 2**14
"""The most numbers of one seed's map that kernels of several sizes are applied to as one."""


class Conv(nn.Module):
    """Convolution of every replica with its own weights, padded to keep the size at stride 1."""

    def __init__(self, replicas: int, shape: tuple[int, int, int], stride: int = 1, bias: bool = False) -> None:
        """Take `shape` (out channels, in channels, kernel side)."""
        super().__init__()
        out, into, side = shape
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(replicas, out, into, side, side))
        self.bias = nn.Parameter(torch.empty(replicas, out)) if bias else None

    def forward(self, x: Folded, flow: Flow, rows: Rows = None) -> Folded:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if rows is not None:
            weight, bias = weight[rows], None if bias is None else bias[rows]
        return convolve(x, flow.kernels, weight, None if bias is None else bias.flatten(), self.stride)


def convolve(
    x: Folded,
    kernels: Kernels,
    weight: Float[Tensor, "rows out into side side"],
    bias: Float[Tensor, " rows_out"] | None = None,
    stride: int = 1,
) -> Folded:
    """Convolve every replica with its own kernels, padded to keep the size at stride 1."""
    bias = None if bias is None else bias.to(x.dtype)
    geometry = Geometry(stride, weight.shape[-1] // 2, weight.shape[0])
    return kernels.convolution(x, weight.flatten(0, 1).to(x.dtype), bias, geometry)


class Norm(nn.Module):
    """Batch normalisation with batch statistics, always; no running statistics exist.

    A network without normalisation has it as the identity.
    """

    def __init__(self, replicas: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicas, channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(replicas, channels)) if affine else None
        self.normalise = True

    def forward(self, x: Folded, flow: Flow, rows: Rows = None) -> Folded:
        if not self.normalise:
            return x
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if weight is None or bias is None:
            return flow.kernels.batch_norm(x)
        if rows is not None:
            weight, bias = weight[rows], bias[rows]
        return flow.kernels.batch_norm(x, weight.flatten(), bias.flatten())


class ConvNorm(nn.Module):
    """Convolution followed by batch normalisation."""

    def __init__(self, conv: Conv, affine: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = Norm(conv.weight.shape[0], conv.weight.shape[1], affine)

    def forward(self, x: Folded, flow: Flow, rows: Rows = None) -> Folded:
        return self.norm(flow.show("convolution", self.conv(x, flow, rows), rows), flow, rows)


def size_of_maps(conv: ConvNorm, images: Float[Tensor, "replicas n c h w"]) -> int:
    """Return how many numbers a convolution of stride 1 makes of images, of all replicas."""
    replicas, out = conv.conv.weight.shape[:2]
    return int(replicas) * int(out) * images[0, :, 0].numel()


def together(modules: Sequence[ConvNorm], x: Folded, flow: Flow) -> Folded:
    """Return the maps of convolutions of one input, computed as one; side by side within each replica, normalised."""
    norms, joined = [module.norm for module in modules], _convolved(modules, x, flow)
    if not norms[0].normalise:
        return joined
    if norms[0].weight is None:
        return flow.kernels.batch_norm(joined)
    affine = (torch.cat([getattr(norm, name) for norm in norms], 1).flatten() for name in ("weight", "bias"))
    return flow.kernels.batch_norm(joined, *affine)


def scaled_together(
    modules: Sequence[ConvNorm], x: Folded, scale: Float[Tensor, " replicas_modules_channels"], flow: Flow
) -> Folded:
    """Return what `together` does, every channel times its scale, for normalisations that are not affine.

    The weights of a mixture are the scale of the normalisation, so that the mixture is a sum: no product of its own is
    computed, and neither the unweighted maps nor a gradient of each are kept for derivatives.
    """
    assert modules[0].norm.weight is None
    joined = _convolved(modules, x, flow)
    return (
        flow.kernels.batch_norm(joined, scale) if modules[0].norm.normalise else factored(joined, scale[:, None, None])
    )


def _convolved(modules: Sequence[ConvNorm], x: Folded, flow: Flow) -> Folded:
    biases = [module.conv.bias for module in modules]
    bias = None if biases[0] is None else _joined([b for b in biases if b is not None]).flatten()
    weight = _joined(_kernels(modules))
    return flow.show("convolution", convolve(x, flow.kernels, weight, bias))


def _joined(parameters: Sequence[Float[Tensor, "replicas _channels ..."]]) -> Float[Tensor, "replicas _channels ..."]:
    return parameters[0] if len(parameters) == 1 else torch.cat(list(parameters), 1)


def _kernels(modules: Sequence[ConvNorm]) -> list[Float[Tensor, "replicas _out into side side"]]:
    """Return the kernels, smaller ones with zeros around them."""
    weights = [module.conv.weight for module in modules]
    side = max(weight.shape[-1] for weight in weights)
    return [w if w.shape[-1] == side else F.pad(w, [(side - w.shape[-1]) // 2] * 4) for w in weights]


def sizes_join(x: Folded, flow: Flow) -> bool:
    """Return whether it is faster to convolve with kernels of several sizes `together`, the smaller amid zeros.

    Of one seed's small maps, where calls are what costs: a step of the embedded size takes .93 of the time on s1 and
    .98 on nb201, a product with the Hessian .85; steps of two seeds take 1.01 and of four 1.04. Measured on a CPU.
    """
    return flow.replicas == 1 and flow.observe is None and x.numel() <= SMALL


def apart(modules: Sequence[ConvNorm], joined: Folded) -> list[Folded]:
    """Return what each of the convolutions computed together has given."""
    return split(joined, len(modules[0].conv.weight), [module.conv.weight.shape[1] for module in modules])


def without_normalisation(network: nn.Module) -> None:
    """Make every normalisation of a network under construction the identity."""
    for module in network.modules():
        if isinstance(module, Norm):
            module.normalise = False


class Linear(nn.Module):
    """The classifier: a batched product over replicas."""

    def __init__(self, replicas: int, channels: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicas, classes, channels))
        self.bias = nn.Parameter(torch.empty(replicas, classes))

    def forward(self, x: Float[Tensor, "replicas n c"]) -> Float[Tensor, "replicas n classes"]:
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


def initialise(network: nn.Module, streams: Sequence[torch.Generator]) -> None:
    """Draw every replica's weights from its own generator, in the order of the parameters.

    Kernels and biases are uniform in ±1/√fan_in (the default of torch's layers), normalisation starts at (1, 0).
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Norm) and module.weight is not None and module.bias is not None:
                module.weight.fill_(1.0)
                module.bias.zero_()
            elif isinstance(module, Conv | Linear):
                bound = 1.0 / math.sqrt(module.weight[0, 0].numel())
                for parameter in module.parameters(recurse=False):
                    _fill(parameter, bound, streams)


def _fill(parameter: nn.Parameter, bound: float, streams: Sequence[torch.Generator]) -> None:
    for replica, stream in enumerate(streams):
        # Drawn in float32 whatever the parameter's type, so that every precision starts from the same weights.
        values = torch.rand(parameter.shape[1:], generator=stream, dtype=torch.float32) * (2 * bound) - bound
        parameter[replica].copy_(values)
