"""What the registration says of a run: the summary, the figures and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fpnas import __version__
from fpnas.architecture import Architecture
from fpnas.mlflow_pages import run_url
from fpnas.report.data import (
    DatasetSummary,
    RegisteredModel,
    ReportData,
    Snapshots,
    StageRecord,
    Teacher,
    TrainingSummary,
)
from fpnas.report.figures import (
    SearchPhase,
    architecture_picture,
    choice_heat_map,
    search_curves,
    training_curves,
)
from fpnas.report.html import render_report
from fpnas.stages.base import MAKERS
from fpnas.stages.searching import LoadedSearch, load_search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fpnas.stages.base import StageContext
    from fpnas.storage import Artifact


@dataclass(frozen=True)
class Findings:
    """Everything that the stages before have found.

    Attributes:
        inputs: Their artifacts, by role.
        searches: The coarse and the fine search; none where nothing was searched.
        architecture: The decoded architecture.
        decoded: ``decode.json``.
        models: ``model.json`` of the trained and the distilled model, by role, of those there are.
        histories: Of the trainings, one row an epoch, by stage.
        search_histories: Of the searches, one row a step.
    """

    inputs: Mapping[str, Artifact]
    searches: Mapping[str, LoadedSearch]
    architecture: Architecture
    decoded: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    histories: Mapping[str, pd.DataFrame]
    search_histories: Mapping[str, pd.DataFrame]

    @property
    def best(self) -> str:
        """Role of the more accurate model; the undistilled one when they are equal."""
        scores = {role: info["evaluation"]["top1"] for role, info in self.models.items()}
        return max(scores, key=lambda role: scores[role])

    @property
    def bills(self) -> dict[str, Mapping[str, Any]]:
        """What each stage has cost, by its name."""
        return {MAKERS[role]: artifact.bill for role, artifact in self.inputs.items()}

    @property
    def alarms(self) -> list[tuple[str, dict[str, str]]]:
        """What is suspicious, with the search that it is about."""
        return [
            (stage, alarm) for stage, search in self.searches.items() for alarm in search.alarms
        ]

    def summary(self) -> dict[str, Any]:
        """The figures of the run; equal for equal artifacts.

        ``search`` and ``distill`` are None where there was none.
        """
        return {
            "architecture": {
                key: self.decoded[key]
                for key in ("macs", "params", "string", "sha256", "target_macs")
            },
            "search": self._search() if self.searches else None,
            "train": _scores(self.models["trained"]),
            "distill": _scores(self.models["distilled"]) if "distilled" in self.models else None,
            "best": self.best,
        }

    def _search(self) -> dict[str, Any]:
        return {
            "strategy": self.searches["fine"].strategy,
            **{
                name: sum(getattr(search, name) for search in self.searches.values())
                for name in ("num_samples", "num_steps", "num_forwards", "num_backwards")
            },
            "alarms": [{"stage": stage, **alarm} for stage, alarm in self.alarms],
        }


def _scores(model: Mapping[str, Any]) -> dict[str, Any]:
    teacher = {"teacher": model["teacher"]} if "teacher" in model else {}
    return {**model["evaluation"], "calibration_error": model["calibration_error"], **teacher}


def collect(inputs: Mapping[str, Artifact]) -> Findings:
    """Reads what the stages before have found."""
    trained = [role for role in ("trained", "distilled") if role in inputs]
    searched = [role for role in ("coarse", "fine") if role in inputs]
    architecture = inputs["architecture"]
    return Findings(
        inputs=inputs,
        searches={role: load_search(inputs[role]) for role in searched},
        architecture=Architecture.from_json(architecture.read_json("architecture.json")),
        decoded=architecture.read_json("decode.json"),
        models={role: inputs[role].read_json("model.json") for role in trained},
        histories={MAKERS[role]: _table(inputs[role], "history.parquet") for role in trained},
        search_histories={role: _table(inputs[role], "history.parquet") for role in searched},
    )


def _table(artifact: Artifact, name: str, columns: list[str] | None = None) -> pd.DataFrame:
    table = pd.read_parquet(artifact.fetch(name), columns=columns)
    artifact.release(name)
    return table


def render(
    findings: Findings,
    context: StageContext,
    registration: Mapping[str, Any],
    speed: Mapping[str, Any],
    exported: Mapping[str, Any] | None,
) -> tuple[str, dict[str, Figure]]:
    """Draws the report and the figures that go to MLflow.

    Args:
        findings: Of the stages before.
        context: Of the stage.
        registration: ``registration.json``.
        speed: From :func:`fpnas.stages.measuring.measure_model`.
        exported: ``exported/export.json``; None when nothing was exported.

    Returns:
        The HTML, and the figures by file name.
    """
    data = replace(
        _report_data(findings, context, registration),
        speed=speed,
        exported=exported["files"] if exported else (),
    )
    snapshots = data.snapshots
    assert snapshots is not None
    figures = {
        "search_curves.png": search_curves(data.phases, data.space.target_macs),
        "choice_heat_map.png": choice_heat_map(
            data.space,
            snapshots.steps,
            snapshots.probabilities,
            snapshots.switch_step,
            findings.architecture,
        ),
        "architecture.png": architecture_picture(findings.architecture, data.num_classes),
        "training_curves.png": training_curves(findings.histories),
    }
    return render_report(data), figures


def _report_data(
    findings: Findings, context: StageContext, registration: Mapping[str, Any]
) -> ReportData:
    info = context.info
    coarse, fine = findings.searches["coarse"], findings.searches["fine"]
    teacher = findings.models["distilled"]["teacher"]
    return ReportData(
        run_id=info.run_id,
        space=fine.space,
        num_classes=fine.num_classes,
        profile=info.profile,
        strategy=fine.strategy,
        seed=info.seed,
        command=info.command,
        code_version=__version__,
        stages=_stage_records(findings),
        architecture=findings.architecture,
        phases=[
            SearchPhase("coarse", findings.search_histories["coarse"]),
            SearchPhase("fine", findings.search_histories["fine"]),
        ],
        snapshots=Snapshots(
            np.concatenate([coarse.steps, fine.steps + fine.first_step]),
            np.concatenate([coarse.snapshots, fine.snapshots]),
            fine.first_step,
        ),
        dataset=_dataset_summary(findings.inputs["dataset"]),
        train=_training_summary(findings, "trained"),
        distill=_training_summary(findings, "distilled"),
        teacher=Teacher(teacher["name"], teacher["top1"]),
        registered_model=RegisteredModel(
            registration["name"], str(registration["version"]), registration["aliases"]
        ),
        links=_links(context),
        alarms=[f"{name} search: {a['message']}" for name, a in findings.alarms],
        next_steps=_training_faults(findings),
    )


def _training_faults(findings: Findings) -> list[str]:
    """What training passed over."""
    sentences = []
    for role, info in findings.models.items():
        if info["unreadable_images"]:
            sentences.append(
                f"Look at the {info['unreadable_images']} pictures that {MAKERS[role]} could not "
                "decode and passed over: unreadable.csv of the model's artifact names them."
            )
        if info["skipped_steps"]:
            sentences.append(
                f"{info['skipped_steps']} steps of {MAKERS[role]} had a loss or a gradient that is "
                "not finite and were skipped: lower recipe.learning_rate if they are many."
            )
    return sentences


def _links(context: StageContext) -> dict[str, str]:
    from fpnas import tracking
    from fpnas.stages.tracked import parent_run_id

    place = tracking.initialise()
    run_id = parent_run_id(context.info)
    if place.uri.startswith("http"):
        return {"run in MLflow": run_url(place.uri, place.experiment_id, run_id)}
    return {"run in MLflow": f"make mlflow-ui, then run {run_id}"}


def _stage_records(findings: Findings) -> list[StageRecord]:
    records = []
    for role, artifact in findings.inputs.items():
        name, bill = MAKERS[role], artifact.bill
        epochs = len(findings.histories[name]) if name in findings.histories else None
        records.append(
            StageRecord(
                name,
                "finished",
                seconds=bill.get("seconds"),
                num_steps=bill.get("num_steps", epochs),
                num_samples=bill.get("num_samples"),
                artifact=artifact.uri,
                sha256=artifact.digest,
            )
        )
    return records


def _training_summary(findings: Findings, role: str) -> TrainingSummary:
    info = findings.models[role]
    scores, names = info["evaluation"], [entry["name"] for entry in info["classes"]]
    confusion = _table(findings.inputs[role], "confusion.parquet")
    return TrainingSummary(
        scores["top1"],
        scores["top5"],
        scores["loss"],
        findings.histories[MAKERS[role]],
        info["calibration_error"],
        confusion.set_axis(names, axis=0).set_axis(names, axis=1),
    )


def _dataset_summary(artifact: Artifact) -> DatasetSummary:
    document = artifact.read_json("dataset.json")
    index = _table(artifact, "index.parquet", ["class_index", "split"])
    names = [info["name"] for info in document["classes"]]
    counts = pd.crosstab(index["class_index"], index["split"])
    counts = counts.reindex(columns=["weights", "alpha", "val"], fill_value=0)
    counts.index = pd.Index([names[number] for number in counts.index], name="class")
    quarantined = pd.read_csv(artifact.fetch("quarantine.csv"), dtype=str)
    artifact.release("quarantine.csv")
    return DatasetSummary(
        artifact.config["data"], counts, quarantined, document.get("converted", {})
    )
