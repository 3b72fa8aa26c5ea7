"""Published networks: their names, and that they are what was published."""

import pytest
import torch
import torchvision
from torch import nn

from fpnas.cost import count_macs
from fpnas.errors import InputError
from fpnas.networks.named import BASELINES, NamedArchitecture, build_named, library_function

# What torchvision's own documentation gives: billions of operations at 224 px, and parameters.
PUBLISHED = {
    "mobilenet_v2": torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
    "mobilenet_v3_small": torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
    "mobilenet_v3_large": torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    "mnasnet": torchvision.models.MNASNet1_0_Weights.IMAGENET1K_V1,
    "efficientnet_b0": torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1,
}


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "mnasnet@0.5", "mobilenet_v2@0.35/8", "mnasnet/4"]
)
def test_a_name_is_read_and_written(name):
    architecture = NamedArchitecture.parse(name, 32)
    assert architecture.name == name
    assert str(architecture) == f"{name}@32px"
    assert NamedArchitecture.from_json(architecture.to_json()) == architecture


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mobilnet_v2", "did you mean mobilenet_v2"),
        ("mobilenet_v2@", "is not a baseline"),
        ("mobilenet_v2@9", "no such width"),
        ("mobilenet_v2@1.2.3", "no such width"),
        ("efficientnet_b0@0.5", "it comes in one width"),
        ("mobilenet_v2/3", "no such output stride. Legal: 2, 4, 8, 16, 32"),
        ("resnest14d/8", "no such output stride. Legal: 32"),
    ],
)
def test_what_is_not_a_network_is_an_error(name, problem):
    with pytest.raises(InputError, match=problem):
        NamedArchitecture.parse(name, 32)


@pytest.mark.parametrize("change", [{"schema_version": 9}, {"network": "other"}, {"depth": 3}])
def test_json_of_another_version_is_an_error(change):
    data = NamedArchitecture("mobilenet_v2", 32).to_json() | change
    with pytest.raises(InputError, match="not a named network that this version knows"):
        NamedArchitecture.from_json(data)


def test_digests_tell_networks_apart():
    names = ["mnasnet", "mnasnet@0.5", "mnasnet/16", "mobilenet_v2"]
    assert len({NamedArchitecture.parse(name, 32).sha256 for name in names}) == 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_is_what_was_published(name):
    network = build_named(NamedArchitecture(name, 224), 1000)
    meta = PUBLISHED[name].meta
    assert sum(p.numel() for p in network.parameters()) == meta["num_params"]
    assert count_macs(network, 224) / 1e9 == pytest.approx(meta["_ops"], rel=0.03)


def test_resnest_has_the_parameters_of_its_paper():
    network = build_named(NamedArchitecture("resnest50d", 224), 1000)
    # Zhang et al., table 3: 27.5 M.
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(27.5, abs=0.1)


@pytest.mark.parametrize("name", sorted(set(BASELINES) - {"resnest26d", "resnest50d"}))
def test_every_baseline_learns_from_small_pictures(name):
    network = build_named(NamedArchitecture(name, 32), 5).train()
    logits = network(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("stride", "pixels"), [(32, 1), (16, 2), (8, 4), (4, 8)])
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "mnasnet"])
def test_the_output_stride(name, stride, pixels):
    network = build_named(NamedArchitecture(name, 32, output_stride=stride), 5).eval()
    features = network.layers if name == "mnasnet" else network.features
    last = [layer for layer in features.modules() if isinstance(layer, nn.Conv2d)][-1]
    sizes = []
    last.register_forward_hook(lambda _layer, _inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert sizes == [pixels]


def test_width_and_dropout_reach_the_network():
    wide, narrow = (build_named(NamedArchitecture("mobilenet_v2", 32, w), 5) for w in (1, 0.5))
    assert count_macs(narrow, 32) < 0.6 * count_macs(wide, 32)
    dropped = build_named(NamedArchitecture("mobilenet_v2", 32), 5, dropout=0.3)
    assert [m.p for m in dropped.modules() if isinstance(m, nn.Dropout)] == [0.3]


def test_stochastic_depth_is_the_recipes():
    def largest(probability):
        network = build_named(
            NamedArchitecture("efficientnet_b0", 32), 5, stochastic_depth=probability
        )
        drops = [m.p for m in network.modules() if hasattr(m, "p") and hasattr(m, "mode")]
        return max(drops)

    assert largest(0.0) == 0
    assert 0.2 < largest(0.3) < 0.3


def test_norms_are_those_of_every_other_network_here():
    network = build_named(NamedArchitecture("mobilenet_v3_large", 32), 5)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_an_unknown_function_names_the_closest():
    with pytest.raises(InputError, match=r"did you mean .*resnet50"):
        library_function("torchvision", "resnet5O")
    with pytest.raises(InputError, match="timm:nothing"):
        library_function("timm", "nothing")
