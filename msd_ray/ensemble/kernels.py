"""Where torch chooses a kernel by the size of the batch, the one that large batches get."""

import torch
from torch import Tensor, nn

LARGE = 16
"""On one thread of a CPU, torch computes convolutions of single pixels by another kernel in smaller batches."""


class _Pointwise(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        stride, dilation = list(self.stride), list(self.dilation)
        return torch.mkldnn_convolution(x, self.weight, self.bias, [0, 0], stride, dilation, self.groups)


def as_in_large_batches(network: nn.Module) -> None:
    """Small batches of this network on a CPU are computed by the kernels of large ones, as far as torch can be told so.
    The bits of a batch of at least LARGE stay."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.padding == (0, 0):
            layer.__class__ = _Pointwise


def as_written(network: nn.Module) -> None:
    """Takes that back, for what reads a network's modules instead of calling them."""
    for layer in network.modules():
        if type(layer) is _Pointwise:
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]
