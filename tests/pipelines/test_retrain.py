"""Training again when something has changed, and only then; over a real registry, in a minute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fpnas.stages.registering import candidate
from fpnas.training.promotion import promotes

from .conftest import Workplace

ROOT = Path(__file__).parents[2]
SHORT = """
prepare: {max_images_per_class: 20}
coarse: {batch_size: 16, search: {num_steps: 4, warmup_steps: 2}}
fine: {batch_size: 16, search: {num_steps: 4}}
recipe: {epochs: 2, batch_size: 16}
distill: {teacher_epochs: 1}
register: {export: false}
"""
NAME = "fp-nas-n0"

pytestmark = pytest.mark.slow


class Site(Workplace):
    """A workplace with a source tree of its own, as a checkout that is edited."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "quick.yaml").write_text(SHORT)
        self.source = folder / "source"
        for package in ("fpnas", "pipelines", "components"):
            shutil.copytree(
                ROOT / package,
                self.source / package,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        self.environ |= {"PYTHONPATH": str(self.source), "PYTHONDONTWRITEBYTECODE": "1"}

    def words(self, *options: str) -> list[str]:
        return ["retrain", "--space", "nano.yaml", "--profile", "quick.yaml", *options]

    def retrain(self, *options: str) -> dict:
        return json.loads(self.call(*self.words(*options), "--json"))

    def runs(self) -> set[str]:
        return {path.name for path in (self.folder / "home" / "runs").iterdir()}

    def found(self, document: dict) -> dict[str, bool]:
        """Whether the run of a retraining found each stage."""
        path = self.folder / "home" / "runs" / document["run"] / "result.json"
        return {stage["name"]: stage["cached"] for stage in json.loads(path.read_text())["stages"]}

    def client(self):
        import mlflow

        return mlflow.MlflowClient(f"sqlite:///{self.folder / 'home' / 'mlflow.db'}")

    def champion(self) -> int:
        return int(self.client().get_model_version_by_alias(NAME, "champion").version)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A champion that was trained by the command."""
    site = Site(tmp_path_factory.mktemp("retrain"))
    site.first = site.retrain("--summary", "first.md")
    return site


def test_the_first_one_is_trained_and_becomes_the_champion(site):
    first = site.first
    assert first["retrained"]
    assert first["changed"]
    assert first["promoted"]
    assert first["champion"] is None
    assert first["challenger"]["version"] == 1
    tags = site.client().get_model_version(NAME, "1").tags
    assert tags["fingerprint"] == first["fingerprint"]
    assert json.loads(tags["fingerprint_details"])["recipe"]["recipe"]["epochs"] == 2
    assert "There was no champion" in (site.folder / "first.md").read_text()


def test_nothing_changed_nothing_done(site):
    runs = site.runs()
    again = site.retrain("--summary", "again.md")
    assert again["changed"] is again["retrained"] is again["promoted"] is False
    assert again["differences"] == []
    assert again["champion"]["version"] == 1
    assert site.runs() == runs
    assert len(site.client().search_model_versions(f"name = '{NAME}'")) == 1
    assert "nothing changed, nothing done" in (site.folder / "again.md").read_text()


def test_a_comment_and_the_form_of_the_code_change_nothing(site):
    path = site.source / "fpnas" / "search" / "loop.py"
    before = path.read_text()
    path.write_text(f"# A remark.\n{before}\n\n# Another one.\n")
    try:
        assert not site.retrain()["changed"]
    finally:
        path.write_text(before)


def test_code_that_makes_the_same_model_is_run_and_the_champion_stays(site):
    path = site.source / "fpnas" / "stages" / "train.py"
    before = path.read_text()
    path.write_text(f"{before}\n\n_UNUSED = 1\n")
    try:
        again = site.retrain()
        assert again["differences"] == ["code: that of train"]
        assert again["retrained"]
        assert not again["promoted"]
        assert "own model again" in again["reason"]
        found = site.found(again)
        assert found["distill"]
        assert not found["train"]
    finally:
        path.write_text(before)
    # The one model was made of both, so going back is nothing new either.
    back = site.retrain()
    assert not back["changed"]
    assert back["differences"] == []


def test_another_recipe_is_trained_and_judged_by_the_rule_and_not_tried_twice(site):
    decisions = []
    for epochs in ("15", "3"):  # a better one, a worse one
        before = site.champion()
        recipe = ("--set", f"recipe.epochs={epochs}")
        old = site.client().get_model_version(NAME, str(before)).tags
        changed = site.retrain(*recipe, "--summary", f"{epochs}.md")
        assert changed["retrained"]
        assert changed["champion"]["version"] == before
        assert any(line.startswith("recipe.epochs: ") for line in changed["differences"])
        found = site.found(changed)
        assert found["fine"]
        assert not found["train"]
        made = changed["challenger"]["version"]
        tags = site.client().get_model_version(NAME, str(made)).tags
        expected, reason = promotes(candidate(tags), candidate(old))
        decisions.append(expected)
        assert changed["promoted"] is expected
        assert changed["reason"] == reason
        assert site.champion() == (made if expected else before)
        text = (site.folder / f"{epochs}.md").read_text()
        assert f"challenger (version {made})" in text
        assert reason in text.replace("Its", "its")
        assert "- `recipe.epochs: " in text
        again = site.retrain(*recipe)
        assert again["changed"] is False
        assert again["differences"] == ([] if expected else changed["differences"])
    assert decisions == [True, False]


def test_forced(site):
    champion = site.champion()
    tags = site.client().get_model_version(NAME, str(champion)).tags
    epochs = json.loads(tags["fingerprint_details"])["recipe"]["recipe"]["epochs"]
    forced = site.retrain("--force", "--set", f"recipe.epochs={epochs}")
    assert forced["forced"]
    assert forced["retrained"]
    assert not forced["changed"]
    assert not forced["promoted"]
    assert all(site.found(forced).values())
    assert site.champion() == champion


def test_what_fingerprint_says_is_what_retrain_goes_by(site):
    words = ["fingerprint", "--space", "nano.yaml", "--profile", "quick.yaml"]
    told = json.loads(site.call(*words, "--set", "recipe.epochs=6", "--json"))
    assert told["fingerprint"] != site.first["fingerprint"]
    assert any(line.startswith("recipe.epochs: ") for line in told["differences"])
    assert site.call(*words).strip() == site.first["fingerprint"]


def test_bad_input_is_refused_before_any_work(site):
    runs = site.runs()
    for options, words in (
        (("--engine", "spark"), "ENGINE=spark is not available"),
        (("--data", "nowhere"), "DATA=nowhere does not exist"),
    ):
        status, message = site.fails(*site.words(*options))
        assert status == 2
        assert words in message
    assert site.runs() == runs


def test_a_registry_that_is_down_at_the_start(site, monkeypatch):
    monkeypatch.setitem(site.environ, "MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    runs = site.runs()
    status, message = site.fails(*site.words("--set", "recipe.epochs=4", "--summary", "down.md"))
    assert status == 2
    assert "MLFLOW_TRACKING_URI" in message
    assert site.runs() == runs
    assert "failed" in (site.folder / "down.md").read_text()
