"""From a finished run to files, and from a file to the class of a picture."""

import json

import mlflow
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fpnas.training.export import FILES


@pytest.fixture(scope="module")
def exported(finished):
    workplace, result = finished
    text = workplace.call("export", "--output", "files", "--json")
    return workplace, result, json.loads(text)


def test_the_better_model_is_exported_and_checked_on_all_validation_pictures(exported):
    workplace, result, written = exported
    best = max(("train", "distill"), key=lambda stage: result[stage]["top1"])
    assert (written["run"], written["model"]) == (result["run_id"], best)
    assert [file["name"] for file in written["files"]] == ["network", *FILES]
    folder = workplace.folder / "files"
    assert {path.name for path in folder.iterdir()} == {*FILES, "export.json"}
    assert json.loads((folder / "export.json").read_text()) == written
    for file in written["files"][:-1]:
        # What the training stage has measured, from the pictures' bytes on.
        assert file["top1"] == pytest.approx(result[best]["top1"], abs=1e-9)
        assert file["num_images"] == result[best]["num_images"]
        assert file["max_difference"] < 1e-4


def test_the_run_has_made_the_files_itself(exported):
    workplace, result, _ = exported
    register = next(s for s in result["stages"] if s["name"] == "register")
    stored = workplace.folder / "home" / "s3" / register["artifact"].removeprefix("s3://")
    for name in FILES:
        (made,) = stored.glob(f"*/exported/{name}")
        assert made.read_bytes() == (workplace.folder / "files" / name).read_bytes()
    client = mlflow.MlflowClient(result["mlflow"]["tracking_uri"])
    version = client.get_model_version_by_alias("fp-nas-n0", "champion")
    place = client.get_run(version.run_id).info.artifact_uri.removeprefix("s3://")
    folder = workplace.folder / "home" / "s3" / place / "exported"
    assert {path.name for path in folder.iterdir()} == {*FILES, "export.json"}


def test_an_opset_of_ones_own(exported):
    workplace = exported[0]
    made = json.loads(workplace.call("export", "--output", "other", "--opset", "18", "--json"))
    assert made["opset"] == 18 != exported[2]["opset"]
    assert made["files"][3]["agreement"] == 1
    status, message = workplace.fails("export", "--opset", "9")
    assert status == 2
    assert "--opset=9 is not written" in message


def test_a_file_names_digits(exported):
    workplace = exported[0]
    digits = load_digits()
    chosen = [int(np.flatnonzero(digits.target == digit)[0]) for digit in range(10)]
    paths = []
    for number in chosen:
        path = workplace.folder / f"digit{number}.png"
        pixels = np.uint8(digits.images[number] * 15.9)
        Image.fromarray(pixels).save(path)
        paths.append(path.name)
    found = {}
    for name in ("model.onnx", "model.pt2", "model.safetensors"):
        words = ("predict", "--model", f"files/{name}", "--top", "3", "--json", *paths)
        found[name] = json.loads(workplace.call(*words))
    for one, *others in zip(*found.values(), strict=True):
        assert len(one["classes"]) == 3
        for other in others:
            assert one["image"] == other["image"]
            assert [c["name"] for c in one["classes"]] == [c["name"] for c in other["classes"]]
    latest = json.loads(workplace.call("predict", "--top", "3", "--json", *paths))
    assert latest == found["model.safetensors"]
    firsts = [row["classes"][0]["name"] for row in found["model.onnx"]]
    right = sum(name == str(digit) for digit, name in enumerate(firsts))
    assert right > 1  # chance is 1 of 10
    assert "probability" in workplace.call("predict", "--model", "files/model.onnx", paths[0])


def test_what_is_not_there_is_named(exported):
    workplace = exported[0]
    status, message = workplace.fails("predict", "--model", "none.onnx", "digit0.png")
    assert status == 2
    assert "--model=none.onnx is not a file" in message
    status, message = workplace.fails("predict", "--model", "files/model.onnx", "none.png")
    assert status == 2
    assert "none.png" in message
    status, message = workplace.fails("export", "no-such-run")
    assert status == 2
    assert "no-such-run is not a finished run" in message
