"""Stand-alone networks: blocks, attention, the deployed classifier, recalibration."""

import pytest
import torch
from torch import nn

from fpnas.architecture import Architecture, BlockSpec, GroupSpec
from fpnas.networks.network import (
    Classifier,
    ConvNorm,
    MBConv,
    Network,
    SplitAttention,
    build_block,
    merge_branches,
    recalibrate_batch_norm,
    spatial_mean,
)

GROUPS = (
    GroupSpec(2.0, 16, 3, "relu", 2, repeat=2, stride=2),
    GroupSpec(1.0, 24, 5, "swish", 0, repeat=1, stride=1),
    GroupSpec(3.0, 24, 0, "relu", 0, repeat=2, stride=1),
)
ARCHITECTURE = Architecture("hand", "only", 16, 8, 2, GROUPS, 32)


def spec(**changes):
    values = {
        "in_channels": 8,
        "mid_channels": 24,
        "out_channels": 8,
        "kernel": 3,
        "activation": "relu",
        "splits": 0,
        "stride": 1,
        "expand": True,
    }
    return BlockSpec(**{**values, **changes})


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_shapes_and_modules():
    torch.manual_seed(0)
    network = Network(ARCHITECTURE, 5)
    kinds = [type(block) for block in network.blocks]
    assert kinds == [MBConv, MBConv, MBConv, nn.Identity, nn.Identity]
    features = network.stem(noise(2, 3, 16, 16))
    assert features.shape == (2, 8, 8, 8)
    for block, shape in zip(network.blocks, [(16, 4), (16, 4), (24, 4), (24, 4)], strict=False):
        features = block(features)
        assert features.shape == (2, shape[0], shape[1], shape[1])
    assert network(noise(2, 3, 16, 16)).shape == (2, 5)
    assert isinstance(network.blocks[2].expand, nn.Identity)
    assert network.blocks[2].attention is None
    first = network.blocks[0]
    assert len(first.depthwise) == 2
    activations = [first.expand[2], first.depthwise[0][2], first.project[2]]
    assert [type(a) for a in activations] == [nn.ReLU, nn.ReLU, nn.Identity]
    assert isinstance(network.blocks[2].depthwise[0][2], nn.SiLU)


def test_the_bypass():
    assert isinstance(build_block(spec(kernel=0)), nn.Identity)
    for change in ({"stride": 2}, {"out_channels": 16}):
        layer = build_block(spec(kernel=0, **change))
        assert isinstance(layer, ConvNorm)
        assert layer[0].kernel_size == (1, 1)
        assert layer[0].stride == (change.get("stride", 1),) * 2
        assert isinstance(layer[2], nn.ReLU)


def test_the_residual_is_there_where_shapes_allow():
    images = noise(4, 8, 6, 6)
    for change, residual in ({}, True), ({"stride": 2}, False), ({"out_channels": 16}, False):
        block = build_block(spec(**change))
        nn.init.zeros_(block.project[1].weight)  # the block's own part becomes zero
        result = block(images)
        assert torch.equal(result, images) if residual else not result.any()


def test_one_split_is_squeeze_and_excitation():
    attention = SplitAttention(48, 1)
    assert (attention.reduce.out_features, attention.expand.out_features) == (16, 48)
    images = noise(3, 48, 5, 5)
    hidden = torch.relu(attention.reduce(images.mean(dim=(2, 3))))
    gate = torch.sigmoid(attention.expand(hidden))[:, :, None, None]
    torch.testing.assert_close(attention([images]), images * gate)


def test_split_attention_by_hand():
    attention = SplitAttention(16, 2)
    first, second = noise(3, 16, 4, 4), noise(3, 16, 4, 4, seed=1)
    pooled = (first + second).mean(dim=(2, 3))
    scores = attention.expand(torch.relu(attention.reduce(pooled)))
    # Over two splits the softmax is a sigmoid of the difference.
    gate = torch.sigmoid(scores[:, :16] - scores[:, 16:])[:, :, None, None]
    torch.testing.assert_close(attention([first, second]), gate * first + (1 - gate) * second)


def test_equal_branches_are_merged_into_themselves():
    images, scores = noise(2, 8, 3, 3), noise(2, 4, 8, seed=2)
    torch.testing.assert_close(merge_branches([images] * 4, scores), images)


def test_dropout_comes_before_the_classifier():
    torch.manual_seed(0)
    network = Network(ARCHITECTURE, 5, dropout=1.0)
    assert not network(noise(2, 3, 16, 16)).any()  # its bias starts at zero
    assert network.eval()(noise(2, 3, 16, 16)).any()


def test_the_classifier_normalizes_its_input():
    torch.manual_seed(0)
    network = Network(ARCHITECTURE, 5).eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
    pictures = noise(2, 3, 16, 16).sigmoid()
    by_hand = torch.stack([(pictures[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(Classifier(network, mean, std)(pictures), network(by_hand))


@pytest.mark.parametrize("training", [True, False])
def test_recalibration_is_the_average_over_batches(training):
    torch.manual_seed(0)
    network = Network(ARCHITECTURE, 5).train(training)
    network(noise(4, 3, 16, 16, seed=9) * 50)  # statistics of other pictures must go
    batches = [noise(6, 3, 16, 16, seed=s) * (1 + s) for s in range(3)]
    conv, norm = network.stem[0], network.stem[1]
    outputs = [conv(images).transpose(0, 1).flatten(1) for images in batches]
    weights = [parameter.clone() for parameter in network.parameters()]
    recalibrate_batch_norm(network, batches)
    torch.testing.assert_close(norm.running_mean, sum(o.mean(dim=1) for o in outputs) / 3)
    torch.testing.assert_close(norm.running_var, sum(o.var(dim=1) for o in outputs) / 3)
    assert network.training is training
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.momentum, int(layer.num_batches_tracked)) == (0.1, 3)
            assert layer.training is training
    assert all(map(torch.equal, network.parameters(), weights))


def test_recalibration_of_the_same_batches_is_repeatable():
    torch.manual_seed(0)
    network = Network(ARCHITECTURE, 5).eval()
    batches = [noise(6, 3, 16, 16, seed=s) for s in range(2)]
    recalibrate_batch_norm(network, batches)
    first = network(batches[0])
    recalibrate_batch_norm(network, batches)
    assert torch.equal(network(batches[0]), first)


def test_the_mean_over_positions_and_its_gradient_are_those_of_torch_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 7, 9, generator=generator)
    features = features.contiguous(memory_format=torch.channels_last)
    weights = torch.randn(3, 5, generator=generator)
    found = []
    for mean in (spatial_mean, lambda maps: maps.mean(dim=(2, 3))):
        own = features.clone().requires_grad_()
        result = mean(own)
        (result * weights).sum().backward()
        found.append((result, own.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
