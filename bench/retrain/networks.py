"""Stand-alone networks of the benchmarks: NAS-Bench-101's from nasbench-pytorch, NAS-Bench-201's written here.

Unlike supernets they have affine batch norm with running statistics. NAS-Bench-201: Dong and Yang (2020),
NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, https://arxiv.org/abs/2001.00326,
section 2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.spaces.nb201 import parse
from bench.supernet.common import NetworkSize
from bench.supernet.nb201 import EDGES, OPERATIONS

NODE_101 = {"conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"}
BATCH_NORM_101 = {"momentum": 0.003, "eps": 1e-5}
"""TensorFlow's momentum 0.997 keeps 0.997 of the old value; torch's names the share of the new one."""


def nb101(cell: str, size: NetworkSize) -> nn.Module:
    """Return the network of a NAS-Bench-101 cell.

    Args:
        cell: "adjacency rows joined by / | operations joined by commas", as records and `bench.tables query` print it;
            anything after a second bar is left out of account.
        size: `size.cells` cells in each of three stacks.

    Raises:
        ValueError: the text is not such a cell.
        ModuleNotFoundError: nasbench-pytorch is not installed.
    """
    matrix, operations = parsed_101(cell)
    try:
        from nasbench_pytorch.model import Network
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "retraining a NAS-Bench-101 cell needs nasbench-pytorch: install .[retrain]"
        ) from error
    network: nn.Module = Network(
        (matrix, operations),
        num_labels=size.classes,
        in_channels=size.image_channels,
        stem_out_channels=size.channels,
        num_modules_per_stack=size.cells,
        tf_like=True,
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.eps = BATCH_NORM_101["momentum"], BATCH_NORM_101["eps"]
    return network


def parsed_101(cell: str) -> tuple[list[list[int]], list[str]]:
    """Return the adjacency matrix and the operations of a cell.

    Raises:
        ValueError: the text is not a cell.
    """
    parts = [part.strip() for part in cell.split("|")]
    rows = parts[0].split("/")
    operations = parts[1].split(",") if len(parts) > 1 else []
    square = all(len(row) == len(rows) and set(row) <= {"0", "1"} for row in rows)
    triangular = square and not any("1" in row[: i + 1] for i, row in enumerate(rows))
    if not triangular or len(operations) != len(rows) or not set(operations[1:-1]) <= NODE_101:
        raise ValueError(
            "expected a cell such as '011/001/000 | input,conv3x3-bn-relu,output' (an upper triangular matrix and as "
            f"many operations, between the first and the last out of {', '.join(sorted(NODE_101))}), got {cell!r}"
        )
    return [[int(entry) for entry in row] for row in rows], operations


def nb201(cell: str, size: NetworkSize) -> nn.Module:
    """Return the network of a NAS-Bench-201 cell given by its string.

    Raises:
        ValueError: the text is not such a cell.
    """
    chosen = dict(zip(EDGES, parse(cell)["op"], strict=True))
    return Network201([[OPERATIONS[chosen[source, node][0]] for source in range(node)] for node in (1, 2, 3)], size)


class Network201(nn.Module):
    """Stem, three stages of cells with a residual block of stride 2 between them, and the head."""

    def __init__(self, cell: Sequence[Sequence[str]], size: NetworkSize) -> None:
        super().__init__()
        c = size.channels
        layers: list[nn.Module] = [nn.Conv2d(size.image_channels, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)]
        for stage in range(3):
            if stage > 0:
                layers.append(ResidualBlock(c))
                c *= 2
            layers += [Cell201(cell, c) for _ in range(size.cells)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU())
        self.classifier = nn.Linear(c, size.classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.classifier(self.body(images).mean((2, 3)))


class Cell201(nn.Module):
    """Every node is the sum of an operation on each node before it; the last node is the output."""

    def __init__(self, cell: Sequence[Sequence[str]], channels: int) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(nn.ModuleList(_operation(name, channels) for name in node) for node in cell)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        values = [x]
        for node in self.nodes:
            assert isinstance(node, nn.ModuleList)
            values.append(torch.stack([operation(value) for operation, value in zip(node, values, strict=True)]).sum(0))
        return values[-1]


class Zero(nn.Module):
    """The operation `none`."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return torch.zeros_like(x)


class ResidualBlock(nn.Module):
    """Halves the sides and doubles the channels; the shortcut is a mean over 2×2 pixels and a 1×1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _relu_conv_norm(channels, 2 * channels, 3, stride=2), _relu_conv_norm(2 * channels, 2 * channels, 3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        return self.main(x) + self.shortcut(x)


def _operation(name: str, channels: int) -> nn.Module:
    match name:
        case "none":
            return Zero()
        case "skip_connect":
            return nn.Identity()
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case _:
            return _relu_conv_norm(channels, channels, 1 if name == "nor_conv_1x1" else 3)


def _relu_conv_norm(channels: int, out: int, side: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(channels, out, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(out))
