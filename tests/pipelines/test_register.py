"""A registry that is away at the end of a run: the model is safe, one command finishes the job."""

import json

import mlflow
import pytest

from .conftest import Workplace


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory):
    """A run whose MLflow went away before the last stage; nothing was registered."""
    workplace = Workplace(tmp_path_factory.mktemp("cut_short"))
    result = workplace.run("--set", "register.runtime.tracking_seconds=0")
    home = workplace.folder / "home"
    register = next(s for s in result["stages"] if s["name"] == "register")
    (home / "s3" / register["artifact"].removeprefix("s3://") / "manifest.json").unlink()
    (home / "runs" / result["run_id"] / "result.json").unlink()
    client = mlflow.MlflowClient(result["mlflow"]["tracking_uri"])
    client.delete_registered_model("fp-nas-n0")
    return workplace, result


@pytest.mark.slow
def test_register_finishes_the_run_when_the_registry_answers_again(cut_short):
    workplace, result = cut_short
    name = result["run_id"]
    database = workplace.folder / "home" / "mlflow.db"
    database.rename(database.with_suffix(".away"))
    database.mkdir()  # cannot be opened
    status, message = workplace.fails("register", name)
    assert status == 1
    assert "is safe in the storage" in message
    assert f"`fpnas register {name}` finishes the run" in message
    database.rmdir()
    database.with_suffix(".away").rename(database)

    finished = json.loads(workplace.call("register", name, "--json"))
    assert finished["registered_model"]["version"] == 1
    kept = [s["artifact"] for s in finished["stages"] if s["name"] != "register"]
    assert kept == [s["artifact"] for s in result["stages"] if s["name"] != "register"]
    assert finished["train"] == result["train"]
    assert finished["mlflow"] == result["mlflow"]
    stored = workplace.folder / "home" / "runs" / name / "result.json"
    assert json.loads(stored.read_text()) == finished

    # What was registered so counts: nothing is trained again.
    words = ("retrain", "--space", "nano.yaml", "--profile", "quick.yaml", "--json")
    assert not json.loads(workplace.call(*words))["changed"]

    # The artifact is gone, the registry is not: the model is found there by its digest.
    register = next(s for s in finished["stages"] if s["name"] == "register")
    folder = workplace.folder / "home" / "s3" / register["artifact"].removeprefix("s3://")
    (folder / "manifest.json").unlink()
    again = json.loads(workplace.call("register", name, "--json"))
    assert again["registered_model"] == finished["registered_model"]
    client = mlflow.MlflowClient(result["mlflow"]["tracking_uri"])
    assert len(client.search_model_versions("name = 'fp-nas-n0'")) == 1


def test_a_run_that_has_not_come_as_far_is_refused(cut_short):
    workplace, result = cut_short
    status, message = workplace.fails("register", "nothing")
    assert status == 2
    assert result["run_id"] in message
    folder = workplace.folder / "home" / "runs" / "half"
    folder.mkdir()
    run = workplace.folder / "home" / "runs" / result["run_id"] / "run.json"
    (folder / "run.json").write_text(run.read_text())
    status, message = workplace.fails("register", "half")
    assert status == 2
    assert "has not finished its stage prepare" in message
    assert "fpnas run --resume half" in message
