"""The fast weight gradient is the gradient."""

import pytest
import torch
from torch.nn import functional as F

from fpnas.networks import depthwise
from fpnas.networks.depthwise import DepthwiseConv2d, depthwise_conv2d


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("frozen_images", [False, True])
def test_gradients_are_those_of_the_plain_convolution(monkeypatch, size, frozen_images):
    calls = []
    original = depthwise._weight_gradient

    def counting(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(depthwise, "_weight_gradient", counting)
    generator = torch.Generator().manual_seed(size)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    images, weight, factor = draw(3, 6, size, size), draw(6, 1, 5, 5), draw(3, 6, size, size)
    results = []
    for function in (
        lambda x, w: depthwise_conv2d(x, w, 1),
        lambda x, w: F.conv2d(x, w, None, 1, 2, 1, 6),
    ):
        x = images.clone().requires_grad_(not frozen_images)
        w = weight.clone().requires_grad_()
        output = function(x, w)
        (output * factor).sum().backward()
        results.append((output, w.grad, x.grad))
    assert len(calls) == 1
    for found, expected in zip(*results, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 4), (5, 2, 4), (5, 1, 8)])
def test_what_the_library_does_well_is_left_to_it(monkeypatch, kernel, stride, size):
    monkeypatch.setattr(depthwise._WindowedGradient, "apply", None)
    layer = DepthwiseConv2d(4, kernel, stride)
    layer(torch.randn(2, 4, size, size)).sum().backward()
    assert layer.weight.grad is not None


def test_without_gradients_it_is_a_plain_convolution(monkeypatch):
    monkeypatch.setattr(depthwise._WindowedGradient, "apply", None)
    layer = DepthwiseConv2d(4, 5, 1)
    images = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        found = layer(images)
    torch.testing.assert_close(found, F.conv2d(images, layer.weight, None, 1, 2, 1, 4))


def test_autocast_is_left_to_the_library():
    layer = DepthwiseConv2d(4, 5, 1)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(2, 4, 4, 4))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert torch.isfinite(layer.weight.grad).all()
