"""What a training stage writes, without a storage: its context is a folder."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from fpnas.architecture import Architecture, GroupSpec
from fpnas.data import Dataset, ImageLoader, PrepareOptions, prepare
from fpnas.stages import train
from fpnas.stages.batches import Batches, share_unreadable
from fpnas.stages.training import load_model

ARCHITECTURE = Architecture(
    "hand", "only", 16, 8, 2, (GroupSpec(2.0, 8, 3, "relu", 1, repeat=2, stride=1),), 16
)
RECIPE = {"epochs": 2, "warmup_epochs": 0.5, "batch_size": 16, "learning_rate": 0.05}


class Folder:
    """Reads and writes an artifact's files in a folder."""

    def __init__(self, path):
        self.folder, self.bill = path, {}

    def path(self, name):
        return self.folder / name

    fetch = path

    def release(self, name):
        assert self.path(name).exists()

    def write_json(self, name, value):
        self.path(name).write_text(json.dumps(value))

    def read_json(self, name):
        return json.loads(self.path(name).read_text())

    def write_tensors(self, name, tensors):
        save_file(tensors, self.path(name))

    def read_tensors(self, name):
        return load_file(self.path(name))


class Metrics(dict):
    def log_metrics(self, step, metrics):
        self.update(metrics)

    def log_figure(self, figure, name):
        self[name] = figure


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes that differ by their colour."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number, key in enumerate(("red", "blue")):
        (root / "in" / key).mkdir(parents=True)
        for i in range(80):
            pixels = random.integers(0, 128, (16, 16, 3), dtype=np.uint8)
            pixels[..., 2 * number] += 100
            Image.fromarray(pixels).save(root / "in" / key / f"{i}.png")
    prepare(PrepareOptions(str(root / "in")), root / "out")
    return root / "out"


def run(pictures, folder, recipe=RECIPE):
    """Trains, and returns the artifact and the metrics."""
    (folder / "architecture").mkdir(parents=True)
    (folder / "model").mkdir()
    architecture = Folder(folder / "architecture")
    architecture.write_json("architecture.json", ARCHITECTURE.to_json())
    context = SimpleNamespace(
        config=train.Config.parse({"recipe": recipe, "runtime": {"device": "cpu"}}, "train"),
        stage=SimpleNamespace(name="train"),
        inputs={"dataset": Folder(pictures), "architecture": architecture},
        output=Folder(folder / "model"),
        tracking=Metrics(),
        restore=lambda: None,
        after_step=lambda done, total, state, message: state(),
    )
    train.run(context)
    return context.output, context.tracking


def test_the_artifact_of_a_model(pictures, tmp_path):
    artifact, metrics = run(pictures, tmp_path)
    network, info = load_model(artifact)
    assert not network.training
    splits = pd.read_parquet(pictures / "index.parquet")["split"]
    assert info["evaluation"]["num_images"] == (splits == "val").sum()
    assert (info["skipped_steps"], info["unreadable_images"]) == (0, 0)
    assert artifact.path("unreadable.csv").read_text().split() == ["name,split,reason"]
    history = pd.read_parquet(artifact.path("history.parquet"))
    assert history["skipped_steps"].tolist() == [0, 0]
    assert metrics["top1"] == history["top1"].iloc[-1] == info["evaluation"]["top1"]
    assert "training_curves.png" in metrics


def test_every_option_of_the_pictures_reaches_the_training(pictures, tmp_path):
    losses = set()
    options = ({}, {"rand_augment_ops": 2}, {"random_erasing": 1.0}, {"augmentation": "none"})
    for number, option in enumerate((*options, {"batch_norm_eps": 0.1})):
        artifact, _ = run(pictures, tmp_path / str(number), {**RECIPE, **option})
        losses.add(pd.read_parquet(artifact.path("history.parquet"))["train_loss"].iloc[0])
    assert len(losses) == 5


def test_what_is_passed_over_is_named(pictures, tmp_path):
    index = pd.read_parquet(pictures / "index.parquet")
    place = index.index[index["split"] == "weights"][3]
    row = index.loc[place]
    spoilt = tmp_path / "pictures"
    (spoilt / "shards").mkdir(parents=True)
    for path in pictures.rglob("*.*"):
        (spoilt / path.relative_to(pictures)).write_bytes(path.read_bytes())
    data = bytearray((spoilt / row["shard"]).read_bytes())
    start, stop = int(row["offset"]) + 60, int(row["offset"] + row["num_bytes"])
    data[start:stop] = bytes(stop - start)
    (spoilt / row["shard"]).write_bytes(data)
    digest = hashlib.sha256(data[int(row["offset"]) : stop]).hexdigest()
    index.loc[place, "sha256"] = digest
    index.to_parquet(spoilt / "index.parquet")
    artifact, metrics = run(spoilt, tmp_path / "run")
    table = pd.read_csv(artifact.path("unreadable.csv"))
    assert table[["name", "split"]].to_numpy().tolist() == [[row["name"], "train"]]
    assert artifact.read_json("model.json")["unreadable_images"] == 1
    assert metrics["unreadable_images"] == 1


class Two:
    """Two processes, of which the other one could not read the third picture."""

    size, device = 2, "cpu"

    def sum(self, values):
        values[2] += 1
        return values


def test_every_process_learns_what_the_others_could_not_read(pictures):
    loader = ImageLoader(
        Dataset(lambda name: pictures / name),
        "train",
        batch_size=16,
        input_size=16,
        training=True,
        seed=0,
    )
    loader.unreadable.reasons[7] = "spoilt"
    batches = Batches(loader, "cpu")
    share_unreadable(batches, Two())
    assert loader.unreadable.reasons == {7: "spoilt", 2: "on another process"}
