"""Layers of all replicas: every parameter starts with the replicas axis.

Convolutions use `groups=replicas`, batch statistics are per channel and so per replica already; `bench.ops` has the
layout.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.convolution import Geometry
from bench.kernels import Kernels
from bench.layout import Folded, Rows, factored, split
from bench.mixture import Branch
from bench.ops import Flow
from bench.weights import Operands, Parts, lay_side_by_side
from searchers.base import ForwardInputs

SMALL = 2**14
"""The most numbers of one seed's first map for which kernels of several sizes are applied to its maps as one."""


class Conv(nn.Module):
    """Convolution of every replica with its own weights, padded to keep the size at stride 1."""

    def __init__(self, replicas: int, shape: tuple[int, int, int], stride: int = 1, bias: bool = False) -> None:
        """Take `shape` (out channels, in channels, kernel side)."""
        super().__init__()
        out, into, side = shape
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(replicas, out, into, side, side))
        self.bias = nn.Parameter(torch.empty(replicas, out)) if bias else None

    def parts(self) -> Parts:
        return Parts(self.weight, self.bias)

    def forward(self, x: Folded, flow: Flow, rows: Rows = None) -> Folded:
        own = flow.weights.of((self,), rows)
        return convolve(x, flow.kernels, own, _geometry(self, own, flow, rows))


def convolve(x: Folded, kernels: Kernels, own: Operands, geometry: Geometry) -> Folded:
    """Convolve every replica with its own kernels."""
    bias = None if own.bias is None else own.bias.to(x.dtype)
    return kernels.convolution(x, own.kernels.to(x.dtype), bias, geometry)


class Norm(nn.Module):
    """Batch normalisation with batch statistics, always; no running statistics exist.

    A network without normalisation has it as the identity.
    """

    def __init__(self, replicas: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(replicas, channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(replicas, channels)) if affine else None
        self.normalise = True

    def forward(self, x: Folded, kernels: Kernels, own: Operands | None = None) -> Folded:
        """Normalise maps; scale and shift are those of a convolution's operands, if it has them."""
        if not self.normalise:
            return x
        return kernels.batch_norm(x) if own is None else kernels.batch_norm(x, own.scale, own.shift)


class ConvNorm(nn.Module):
    """Convolution followed by batch normalisation."""

    def __init__(self, conv: Conv, affine: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = Norm(conv.weight.shape[0], conv.weight.shape[1], affine)

    def parts(self) -> Parts:
        return Parts(self.conv.weight, self.conv.bias, self.norm.weight, self.norm.bias)

    def forward(self, x: Folded, flow: Flow, rows: Rows = None) -> Folded:
        y, own = _convolved([self], x, flow, rows)
        return self.norm(y, flow.kernels, own)


def _geometry(conv: Conv, own: Operands, flow: Flow, rows: Rows) -> Geometry:
    return Geometry(conv.stride, own.kernels.shape[-1] // 2, flow.replicas if rows is None else len(rows))


def size_of_maps(conv: ConvNorm, images: Float[Tensor, "replicas n c h w"]) -> int:
    """Return how many numbers a convolution of stride 1 makes of images, of all replicas."""
    return int(conv.conv.weight.shape[1]) * images[:, :, 0].numel()


def together(modules: Sequence[ConvNorm], x: Folded, flow: Flow) -> Folded:
    """Return the maps of convolutions of one input, computed as one; side by side within each replica, normalised."""
    joined, own = _convolved(modules, x, flow)
    return modules[0].norm(joined, flow.kernels, own)


def scaled_together(
    modules: Sequence[ConvNorm], x: Folded, scale: Float[Tensor, " replicas_modules_channels"], flow: Flow
) -> Folded:
    """Return what `together` does, every channel times its scale, for normalisations that are not affine.

    The weights of a mixture are the scale of the normalisation, so that the mixture is a sum: no product of its own is
    computed, and neither the unweighted maps nor a gradient of each are kept for derivatives.
    """
    assert modules[0].norm.weight is None
    joined, _ = _convolved(modules, x, flow)
    return (
        flow.kernels.batch_norm(joined, scale) if modules[0].norm.normalise else factored(joined, scale[:, None, None])
    )


def _convolved(modules: Sequence[ConvNorm], x: Folded, flow: Flow, rows: Rows = None) -> tuple[Folded, Operands]:
    """Return the maps of convolutions of one input, computed as one, and what they were computed with."""
    own = flow.weights.of(tuple(modules), rows)
    y = convolve(x, flow.kernels, own, _geometry(modules[0].conv, own, flow, rows))
    return flow.show("convolution", y, rows), own


def branch(modules: Sequence[ConvNorm], x: Folded, flow: Flow, wide: bool = False, relu: bool = False) -> Branch:
    """Return convolutions of one input as a branch of mixed operations: computed as one, not yet normalised."""
    y, own = _convolved(modules, x, flow)
    if not modules[0].norm.normalise:
        return Branch(y, wide, relu=relu)
    return Branch(y, wide, True, relu, own.scale, own.shift)


def rectified(modules: Sequence[ConvNorm], x: Folded, flow: Flow) -> Folded:
    """Return what is positive of the maps that `together` returns."""
    if flow.kernels.mixed is None:
        return flow.relu(modules[0](x, flow) if len(modules) == 1 else together(modules, x, flow))
    found = branch(modules, x, flow, relu=True)
    one = x.new_ones(1, 1, 1, dtype=torch.promote_types(x.dtype, torch.float32))
    return flow.kernels.mixed([[one]], [found], flow.replicas)[0]


def sizes_join(numbers: int, replicas: int, inputs: ForwardInputs) -> bool:
    """Return whether a pass is faster with kernels of several sizes applied `together`, the smaller amid zeros.

    That of one seed's small maps (so many numbers at the stem) is, where calls are what costs: a step of the embedded
    size takes .93 of the time on s1 and .98 on nb201, a product with the Hessian .85; steps of two seeds take 1.01 and
    of four 1.04. Measured on a CPU.
    """
    return replicas == 1 and inputs.observe is None and numbers <= SMALL


def apart(modules: Sequence[ConvNorm], joined: Folded, replicas: int) -> list[Folded]:
    """Return what each of the convolutions computed together has given."""
    return split(joined, replicas, [module.conv.weight.shape[1] for module in modules])


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

    def parts(self) -> Parts:
        return Parts(self.weight, self.bias)

    def forward(self, x: Float[Tensor, "replicas n c"], flow: Flow) -> Float[Tensor, "replicas n classes"]:
        own, replicas = flow.weights.of((self,)), flow.replicas
        assert own.bias is not None
        return torch.baddbmm(own.bias.view(replicas, 1, -1), x, own.kernels.unflatten(0, (replicas, -1)).mT)


def settle(network: nn.Module, streams: Sequence[torch.Generator], device: torch.device) -> None:
    """Draw the weights of a network and lay them side by side on a device."""
    initialise(network, streams)
    network.to(device)
    lay_side_by_side(network)


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
