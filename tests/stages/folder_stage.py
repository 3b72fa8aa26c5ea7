"""A training stage without storage, tracking and engine: its context is a folder."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from fpnas.architecture import Architecture, GroupSpec
from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import prepare
from fpnas.stages import train
from fpnas.state import pack, unpack
from fpnas.storage import CheckpointSlot, ObjectMissingError

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


def make_pictures(root):
    """Two classes that differ by their colour; returns the prepared folder."""
    random = np.random.default_rng(0)
    for number, key in enumerate(("red", "blue")):
        (root / "in" / key).mkdir(parents=True)
        for i in range(80):
            pixels = random.integers(0, 128, (16, 16, 3), dtype=np.uint8)
            pixels[..., 2 * number] += 100
            Image.fromarray(pixels).save(root / "in" / key / f"{i}.png")
    prepare(PrepareOptions(str(root / "in")), root / "out")
    return root / "out"


class Objects:
    """A store whose writes are slow and torn when they are cut short."""

    def __init__(self, folder):
        self.folder = folder

    def _path(self, key):
        return self.folder / key.replace("/", "-")

    def uri(self, key):
        return f"s3://folder/{key}"

    def put_bytes(self, key, data):
        with self._path(key).open("wb") as file:
            for start in range(0, len(data), 1 << 14):
                file.write(data[start : start + (1 << 14)])
                file.flush()

    def get_bytes(self, key):
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissingError(key) from error

    def delete(self, key):
        self._path(key).unlink(missing_ok=True)


def run(pictures, folder, recipe=RECIPE, checkpoints=False):
    """Trains, or goes on, and returns the artifact and the metrics.

    Args:
        pictures: The prepared folder.
        folder: Where everything goes.
        recipe: How.
        checkpoints: Write one after every step, and the step into the file ``step``.
    """
    for name in ("architecture", "model", "checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    architecture = Folder(folder / "architecture")
    architecture.write_json("architecture.json", ARCHITECTURE.to_json())
    slot = CheckpointSlot(Objects(folder / "checkpoints"), "train")

    def after_step(done, total, state, message):
        if checkpoints:
            slot.save(*pack(state()))
            (folder / "step").write_text(f"{done} {total}")

    def restore():
        found = slot.load()
        (folder / "resumed").write_text(str(found is not None))
        return unpack(*found) if found else None

    context = SimpleNamespace(
        config=train.Config.parse({"recipe": recipe, "runtime": {"device": "cpu"}}, "train"),
        stage=SimpleNamespace(name="train"),
        inputs={"dataset": Folder(pictures), "architecture": architecture},
        output=Folder(folder / "model"),
        tracking=Metrics(),
        restore=restore,
        after_step=after_step,
    )
    train.run(context)
    return context.output, context.tracking


def train_to_the_end(pictures, folder, recipe, group):
    """The same for a process of its own, which may be killed, or one of a group, as torchrun's."""
    os.environ.update(group, OMP_NUM_THREADS="1")
    run(pictures, folder, recipe, checkpoints=True)
    (folder / "done").touch()
