"""The distillation stage, in one process over a real store: teachers, checkpoints, faults."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file

from fpnas import tracking
from fpnas.architecture import architecture_at
from fpnas.cost import architecture_cost
from fpnas.errors import FpnasError, InputError, StoppedError
from fpnas.networks.network import Classifier, Network
from fpnas.space import parse_space
from fpnas.stages import distill, teaching
from fpnas.stages.config import SpaceConfig
from fpnas.stages.training import load_model
from fpnas.state import pack, unpack
from fpnas.training import distillation
from fpnas.training.inference import ModelCard, save_classifier
from tests.pipelines.conftest import SPACE
from tests.storage.conftest import endpoint, environ, store  # noqa: F401

from .folder_stage import RECIPE, Folder, Metrics, make_pictures

NANO = parse_space(yaml.safe_load(SPACE), "here").open()
ARCHITECTURE = architecture_at(NANO, [[0, 0, 1, 0, 0]] * 2)
PLACE = SpaceConfig(
    definition=yaml.safe_load(SPACE), model="n0", input_size=16, target_macs=NANO.target_macs
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def weights(tmp_path):
    """A network that nobody has trained: its own classes are noise, its features are not."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(num_classes=2)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "classes.json").write_text('["red", "blue"]')
    return {
        "teacher": f"local:{tmp_path / 'weights.safetensors'}",
        "teacher_architecture": "torchvision:mobilenet_v3_small",
        "teacher_classes": str(tmp_path / "classes.json"),
        "teacher_input_size": 32,
    }


class Tags(Metrics):
    def set_tags(self, tags):
        self.update(tags)


def run(pictures, folder, store, stop_after=None, saved=None, **config):
    """Distils, or goes on; returns the artifact, the metrics, and all checkpoints by message."""
    for name in ("architecture", "model"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    dataset, architecture = Folder(pictures), Folder(folder / "architecture")
    dataset.uri, dataset.digest = "s3://b/dataset", "0" * 64
    architecture.write_json("architecture.json", ARCHITECTURE.to_json())
    checkpoints = {}

    def after_step(_done, _total, state, message):
        tensors, structure = pack(state())
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        checkpoints[message.split(",")[0]] = (copies, structure)
        if message.startswith(stop_after or "never"):
            raise StoppedError("stopped")

    section = {"space": PLACE, "recipe": RECIPE, "runtime": {"device": "cpu"}, **config}
    context = SimpleNamespace(
        config=distill.Config.parse(section, "distill"),
        stage=SimpleNamespace(name="distill"),
        store=store,
        inputs={"dataset": dataset, "architecture": architecture},
        output=Folder(folder / "model"),
        tracking=Tags(),
        restore=lambda: saved and unpack(*saved),
        after_step=after_step,
        progress=lambda *_: None,
    )
    try:
        distill.run(context)
    except StoppedError:
        return None, None, checkpoints
    return context.output, context.tracking, checkpoints


def test_a_fitted_teacher_teaches(pictures, tmp_path, store, weights):
    artifact, metrics, _ = run(pictures, tmp_path, store, **weights, teacher_head="fitted")
    network, info = load_model(artifact)
    assert not network.training
    teacher = info["teacher"]
    assert teacher["top1"] > 0.9
    assert metrics["teacher_top1"] == teacher["top1"]
    told = {"head": "fitted", "input_size": 32, "loss": "soft", "temperature": 2.0, "weight": 1.0}
    assert told.items() <= teacher.items()
    assert metrics["fpnas.teacher_logits"].startswith(store.uri("artifacts/teacher/"))


def test_other_losses_find_what_the_teacher_said(pictures, tmp_path, store, weights, monkeypatch):
    looks = []
    look_at = teaching.look_at
    monkeypatch.setattr(teaching, "look_at", lambda *a: looks.append(a[3]) or look_at(*a))
    losses = set()
    options = ({}, {"loss": "hard"}, {"loss": "alpha"}, {"temperature": 5.0}, {"weight": 0.2})
    for number, option in enumerate(options):
        config = {**weights, "teacher_head": "fitted", **option}
        artifact, _, _ = run(pictures, tmp_path / str(number), store, **config)
        losses.add(pd.read_parquet(artifact.path("history.parquet"))["train_loss"].iloc[-1])
    assert looks == ["val", "train"]
    assert len(losses) == 5


def test_a_teacher_whose_classes_are_noise_is_an_error(pictures, tmp_path, store, weights):
    with pytest.raises(FpnasError, match=r"weights\.safetensors is right about .* chance is 50"):
        run(pictures, tmp_path, store, **weights)
    assert not list((tmp_path / "model").iterdir())


def test_a_teacher_of_another_range_is_found_by_its_accuracy(pictures, tmp_path, store):
    trained, _, _ = run(pictures, tmp_path / "first", store, teacher="wider")
    network, info = load_model(trained)
    card = ModelCard(tuple(c["key"] for c in info["classes"]), 16, architecture=str(ARCHITECTURE))
    path = tmp_path / "model.safetensors"
    for scale in (1, 255):  # inputs from 0 to 1 as they are given, or to 255
        mean, std = ([scale * value for value in info[name]] for name in ("mean", "std"))
        save_classifier(Classifier(network, mean, std), path, card)
        if scale == 1:
            artifact, _, _ = run(pictures, tmp_path / "right", store, teacher=f"local:{path}")
            assert artifact.read_json("model.json")["teacher"]["top1"] > 0.9
        else:
            with pytest.raises(FpnasError, match=r"Its preprocessing \(range, mean and std"):
                run(pictures, tmp_path / "wrong", store, teacher=f"local:{path}")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"teacher": "lite"}, "distill.teacher=lite is not a teacher"),
        ({"teacher": "efficientnet_lite0"}, "does not know these classes: blue, red"),
        ({"teacher": "local:/nowhere.pt"}, "is not a file"),
        ({"loss": "l2"}, "distill.loss=l2"),
        ({"temperature": 0}, "distill.temperature=0"),
    ],
)
def test_bad_input_is_refused_by_name(pictures, tmp_path, store, config, problem):
    with pytest.raises(InputError, match=problem):
        run(pictures, tmp_path, store, **config)


def test_another_file_of_the_same_name_is_another_teacher(pictures, tmp_path, weights):
    def identity():
        config = distill.Config.parse({"space": PLACE, "recipe": RECIPE, **weights}, "distill")
        return distill.resolve(config, {"dataset": Folder(pictures)}, None), distill.sources(
            config, None
        )

    name, before = identity()
    assert identity() == (name, before)
    path = tmp_path / "weights.safetensors"
    save_file(torchvision.models.mobilenet_v3_small(num_classes=2).state_dict(), path)
    same_name, after = identity()
    assert same_name == name
    assert after["teacher_sha256"] != before["teacher_sha256"]
    assert after["teacher_classes_sha256"] == before["teacher_classes_sha256"]


@pytest.mark.parametrize("stop", ["teacher 0.5", "teacher 2.0", "epoch 1.0"])
def test_a_stopped_one_ends_with_the_same_weights(pictures, tmp_path, store, stop):
    config = {"teacher": "wider", "teacher_epochs": 2}
    whole, metrics, seen = run(pictures, tmp_path / "whole", store, **config)
    assert metrics["teacher_top1"] == whole.read_json("model.json")["teacher"]["top1"]
    assert {message.split(" ")[0] for message in seen} == {"teacher", "epoch"}
    store.prefix = "elsewhere"  # where no teacher is kept yet
    _, _, left = run(pictures, tmp_path / "cut", store, stop_after=stop, **config)
    resumed, _, again = run(
        pictures, tmp_path / "cut", store, saved=list(left.values())[-1], **config
    )
    expected = whole.read_tensors("model.safetensors")
    found = resumed.read_tensors("model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(again) < len(seen)


@pytest.fixture
def registered(environ, store, monkeypatch, tmp_path):
    """A model in a registry as a run leaves it: with its exported files."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    torch.manual_seed(0)
    classifier = Classifier(Network(ARCHITECTURE, 2), [0.5] * 3, [0.2] * 3)
    card = ModelCard(("red", "blue"), 16, architecture=str(ARCHITECTURE))
    save_classifier(classifier, tmp_path / "model.safetensors", card)
    place = tracking.initialise()
    client = tracking.connect_client(place.uri)()
    run_id = client.create_run(place.experiment_id).info.run_id
    client.log_artifact(run_id, str(tmp_path / "model.safetensors"), "exported")
    client.create_registered_model("ours")
    version = client.create_model_version("ours", f"runs:/{run_id}/exported", run_id)
    client.set_registered_model_alias("ours", "champion", version.version)


def test_a_registered_model_is_a_teacher(pictures, tmp_path, store, registered):
    config = {"teacher": "mlflow:ours@champion", "teacher_head": "fitted"}
    artifact, _, _ = run(pictures, tmp_path, store, **config)
    teacher = artifact.read_json("model.json")["teacher"]
    assert teacher["name"] == "mlflow:ours@champion"
    assert teacher["top1"] > 0.9
    assert teacher["macs"] == architecture_cost(ARCHITECTURE, 2)[0]
    with pytest.raises(InputError, match=r"mlflow:ours@none is not in MLflow's registry"):
        run(pictures, tmp_path, store, teacher="mlflow:ours@none")


def test_where_pictures_are_changed_more_the_teacher_looks_in_every_step(
    pictures, tmp_path, store, weights
):
    recipe = {**RECIPE, "rand_augment_ops": 2}
    config = {**weights, "teacher_head": "fitted", "recipe": recipe}
    artifact, metrics, _ = run(pictures, tmp_path, store, **config)
    assert "fpnas.teacher_logits" not in metrics
    assert artifact.read_json("model.json")["teacher"]["top1"] > 0.9


def test_a_wider_teacher_too_sees_what_its_student_sees(pictures, tmp_path, store, monkeypatch):
    told = []
    loss = distillation.distillation_loss

    def listening(logits, **options):
        told.append(logits)
        return loss(logits, **options)

    monkeypatch.setattr(distillation, "distillation_loss", listening)
    recipe = {**RECIPE, "rand_augment_ops": 2}
    config = {"teacher": "wider", "teacher_epochs": 1, "recipe": recipe}
    whole, metrics, _ = run(pictures, tmp_path / "whole", store, **config)
    assert metrics["fpnas.teacher_network"].startswith(store.uri("artifacts/teacher/"))
    assert "fpnas.teacher_logits" not in metrics
    assert (told[0] != 0).any(dim=1).float().mean() > 0.9  # of the pictures, in the last epoch
    # Its weights are kept, so that a student goes on with the same teacher.
    _, _, left = run(pictures, tmp_path / "cut", store, stop_after="epoch 1.0", **config)
    saved = list(left.values())[-1]
    resumed, _, again = run(pictures, tmp_path / "cut", store, saved=saved, **config)
    assert {message.split(" ")[0] for message in again} == {"epoch"}
    expected, found = (a.read_tensors("model.safetensors") for a in (whole, resumed))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
