"""From finished runs to a CSV file and a page."""

import json

import pandas as pd
import pytest

from fpnas.errors import InputError
from pipelines.compare import chosen_results


def test_the_page_and_the_csv_of_finished_runs(finished):
    workplace, result = finished
    rows = json.loads(workplace.call("compare", result["run_id"], "--output", "out", "--json"))
    folder = workplace.folder / "out"
    assert {path.name for path in folder.iterdir()} == {"comparison.csv", "comparison.html"}
    (row,) = rows
    table = pd.read_csv(folder / "comparison.csv")
    (line,) = table.to_dict("records")
    assert line["run"] == row["run"] == result["run_id"]
    assert line["top1"] == pytest.approx(result["train"]["top1"])
    assert line["num_forwards"] == result["search"]["num_forwards"]
    assert line["latency_ms"] == pytest.approx(row["latency_ms"])
    assert line["latency_ms"] > 0
    assert line["train_seconds"] > 0
    assert line["pictures"].startswith("digits (")
    page = (folder / "comparison.html").read_text()
    assert page.count("<img") == 4
    assert "not shown" not in page
    assert f"/#/compare-runs?runs=[&#34;{result['mlflow']['run_id']}&#34;]" in page


def test_runs_of_a_model(finished):
    workplace, result = finished
    assert result["run_id"] in workplace.call("compare", "--models", "n0", "--json")
    status, message = workplace.fails("compare", "--models", "n0,l7")
    assert status == 2
    assert "--models=l7 has no finished run. Legal: " in message
    assert "n0" in message.partition("Legal: ")[2]
    assert result["run_id"] in workplace.call("compare")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("FPNAS_HOME", str(tmp_path))
    for name, model in (("a-1", "s1"), ("b-1", "l0"), ("b-2", "l0")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"run_id": name, "model": model}))


@pytest.mark.parametrize(
    ("names", "models", "expected"),
    [
        (None, None, ["a-1", "b-1", "b-2"]),
        (None, "l0", ["b-1", "b-2"]),
        (["b-2", "a-1"], "l0, s1", ["b-2", "a-1"]),
    ],
)
def test_choice(results, names, models, expected):
    assert [result["run_id"] for result in chosen_results(names, models)] == expected


def test_an_empty_choice_is_refused(results):
    for models in ("", " , "):
        with pytest.raises(InputError, match="--models"):
            chosen_results(None, models)
