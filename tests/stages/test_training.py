"""What a training stage writes, without a storage: its context is a folder."""

from __future__ import annotations

import hashlib

import pandas as pd
import pytest
import torch
from moto import mock_aws

from fpnas.data.dataset import Dataset
from fpnas.data.loader import ImageLoader
from fpnas.errors import DivergedError, InputError
from fpnas.stages.batches import Batches, share_unreadable
from fpnas.stages.ranks import NullRun
from fpnas.stages.training import load_model
from fpnas.storage import CheckpointSlot, StorageError, connect
from tests.storage.helpers import fail_calls

from . import folder_stage
from .folder_stage import RECIPE, Objects, make_pictures, run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


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
    more = ({"batch_norm_eps": 0.1}, {"auto_augment": "imagenet"})
    for number, option in enumerate((*options, *more)):
        artifact, _ = run(pictures, tmp_path / str(number), {**RECIPE, **option})
        losses.add(pd.read_parquet(artifact.path("history.parquet"))["train_loss"].iloc[0])
    assert len(losses) == 6


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


def test_a_split_smaller_than_a_batch_still_fills_its_parts(pictures, tmp_path):
    recipe = {**RECIPE, "batch_size": 1000, "accumulation": 100}
    with pytest.raises(InputError, match=r"recipe\.accumulation=100 cuts the \d+ pictures"):
        run(pictures, tmp_path, recipe)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(pictures, tmp_path):
    recipe = {**RECIPE, "learning_rate": 1e36, "max_grad_norm": None, "max_skipped_steps": 3}
    with pytest.raises(DivergedError, match="after 3 skipped steps in a row"):
        run(pictures, tmp_path, recipe, checkpoints=True)
    tensors, _ = CheckpointSlot(Objects(tmp_path / "checkpoints"), "train").load()
    weights = [value for name, value in tensors.items() if name.startswith("state.trainer.network")]
    assert len(weights) > 10
    assert all(value.isfinite().all() for value in weights)
    assert not list((tmp_path / "model").iterdir())


class Two:
    """Two processes, of which the other one could not read the third picture."""

    size, device = 2, "cpu"

    def sum(self, values):
        values[2] += 1
        return values


def test_with_new_keys_it_goes_on_where_the_old_ones_expired(pictures, tmp_path, monkeypatch):
    environ = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "FPNAS_STORAGE": "s3://keys",
        "FPNAS_HOME": str(tmp_path / "home"),
    }
    expected, _ = run(pictures, tmp_path / "undisturbed")
    with mock_aws():
        store = connect(environ)
        store.create_bucket()
        fail_calls(store.client, "PutObject", "ExpiredToken", lambda call: call > 3)
        monkeypatch.setattr(folder_stage, "Objects", lambda _: store)
        with pytest.raises(StorageError, match=r"ExpiredToken.*AWS_SESSION_TOKEN.*run again"):
            run(pictures, tmp_path / "run", checkpoints=True)
        monkeypatch.setattr(folder_stage, "Objects", lambda _: connect(environ))
        artifact, _ = run(pictures, tmp_path / "run", checkpoints=True)
    assert (tmp_path / "run" / "resumed").read_text() == "True"
    weights, others = (a.read_tensors("model.safetensors") for a in (artifact, expected))
    assert all(torch.equal(weights[name], others[name]) for name in others)


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
    batches = Batches(loader)
    share_unreadable(batches, Two())
    assert loader.unreadable.reasons == {7: "spoilt", 2: "on another process"}


def test_a_companion_may_write_into_its_bill_and_nothing_comes_of_it():
    nothing = NullRun()
    nothing.bill["resumed"] = True  # as a stage does that goes on from a checkpoint
    assert nothing.write_json("model.json", {}) is None
    assert NullRun().bill == {}
