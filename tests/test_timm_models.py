"""Networks through timm: fresh ones by their line, a run's by its file."""

import pytest
import timm
import torch

from fpnas.architecture import parse_architecture
from fpnas.errors import InputError
from fpnas.networks.network import Classifier, Network
from fpnas.timm_models import TimmNetwork
from fpnas.training.inference import ModelCard, save_classifier

LINE = "c16s2-e1c16k3sa1-2xe3c24k5rd2-skipc32d2-c64@32"
CLASSES = ("cat", "dog", "café")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = Network(parse_architecture(LINE), len(CLASSES)).eval()
    model = Classifier(network, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    save_classifier(model, path, ModelCard(CLASSES, 32, 0.875, LINE))
    return model.eval(), path


def test_a_fresh_network():
    assert "fp_nas" in timm.list_models("fp_nas*")
    model = timm.create_model("fp_nas", architecture=LINE, num_classes=7, drop_path_rate=0.1)
    assert isinstance(model, TimmNetwork)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 32, 32)
    assert config["mean"] == (0.485, 0.456, 0.406)
    assert (config["crop_pct"], config["crop_mode"]) == (1.0, "squash")
    assert timm.create_model("fp_nas", architecture=LINE).num_classes == 1000


def test_features_and_head_are_the_network():
    model = timm.create_model("fp_nas", architecture=LINE, num_classes=7).eval()
    images = torch.rand(2, 3, 32, 32)
    features = model.forward_features(images)
    assert features.shape == (2, model.num_features, 4, 4)
    torch.testing.assert_close(model.forward_head(features), model(images))
    assert model.forward_head(features, pre_logits=True).shape == (2, 64)
    assert model.get_classifier() is model.classifier


def test_a_runs_network_with_its_statistics(exported):
    classifier, path = exported
    model = timm.create_model("fp_nas", exported=path).eval()
    config = timm.data.resolve_model_data_config(model)
    assert config["mean"] == pytest.approx((0.4, 0.5, 0.6))
    assert config["std"] == pytest.approx((0.2, 0.3, 0.4))
    assert (config["crop_pct"], config["crop_mode"]) == (0.875, "center")
    assert model.pretrained_cfg["label_names"] == CLASSES
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(model((images - mean) / std), classifier(images))


def test_another_number_of_classes_keeps_the_features(exported):
    classifier, path = exported
    model = timm.create_model("fp_nas", exported=path, num_classes=5).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    torch.testing.assert_close(model.stem[0].weight, classifier.network.stem[0].weight)
    model.reset_classifier(0)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give an architecture"),
        ({"architecture": LINE, "exported": "a"}, "cannot be had with exported=a"),
        ({"architecture": "resnet18"}, "is not an architecture in one line"),
        ({"architecture": LINE, "pretrained": True}, "has no weights"),
        ({"architecture": LINE, "in_chans": 1}, "in_chans=1"),
        ({"exported": "none.safetensors"}, "exported=none.safetensors is not a classifier"),
    ],
)
def test_what_is_not_built_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        timm.create_model("fp_nas", **options)
