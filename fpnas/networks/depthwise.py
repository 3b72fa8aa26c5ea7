"""Depthwise convolution whose weight gradient is fast for large kernels on small maps, on CPUs.

oneDNN computes the weight gradient of a 5x5 depthwise convolution on maps of up to 4x4 pixels by a
reference path: 14 ms instead of 2 for 64 pictures with 256 channels on one core (torch 2.14), and
it is up to twice as slow as needed on 7x7. Its 3x3 kernels are fast, and the 25 sums of a 5x5
gradient are those of four 3x3 gradients over shifted maps.

Tensor shapes: B pictures, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LARGEST_MAP = 7


def depthwise_conv2d(images: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution with zero padding of half a kernel, without bias.

    Args:
        images: (B, C, H, W).
        weight: (C, 1, K, K), K odd.
        stride: Both ways.
    """
    if _worthwhile(images, weight, stride):
        result: Tensor = _WindowedGradient.apply(images, weight)
        return result
    kernel, channels = weight.shape[-1], weight.shape[0]
    return F.conv2d(images, weight, None, stride, kernel // 2, 1, channels)


def _worthwhile(images: Tensor, weight: Tensor, stride: int) -> bool:
    return (
        images.device.type == "cpu"
        and weight.shape[-1] == 5
        and stride == 1
        and max(images.shape[-2:]) <= _LARGEST_MAP
        and torch.is_grad_enabled()
        and weight.requires_grad
        and not torch.is_autocast_enabled("cpu")  # would change the precision of the forward pass
        and not torch.compiler.is_compiling()
    )


class _WindowedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return F.conv2d(images, weight, None, 1, 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        images, weight = ctx.saved_tensors
        by_images = None
        if ctx.needs_input_grad[0]:
            by_images = _convolution_backward(gradient, images, weight, 2, (True, False))[0]
        return by_images, _weight_gradient(gradient, images, weight)


def _weight_gradient(gradient: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    padded = F.pad(images, (2, 2, 2, 2)).contiguous(memory_format=torch.channels_last)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for top in (0, 2):
        for left in (0, 2):
            window = padded[:, :, top : top + height + 2, left : left + width + 2]
            part = result[:, :, top : top + 3, left : left + 3]  # the middle ones come twice
            part.copy_(_convolution_backward(gradient, window, part, 0, (False, True))[1])
    return result


def _convolution_backward(
    gradient: Tensor, images: Tensor, weight: Tensor, padding: int, mask: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    found = torch.ops.aten.convolution_backward(
        gradient,
        images,
        weight,
        None,
        (1, 1),
        (padding, padding),
        (1, 1),
        False,
        (0, 0),
        len(weight),
        (*mask, False),
    )
    return found[0], found[1]


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` without bias, with :func:`depthwise_conv2d`."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, H / stride, W / stride)."""
        return depthwise_conv2d(input, self.weight, self.stride[0])
