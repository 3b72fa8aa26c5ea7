"""Register: compare the two models, register the better one, move aliases, write the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fpnas.stages.config import StageConfig
from fpnas.stages.exporting import FOLDER, RECORD

if TYPE_CHECKING:
    from pathlib import Path

    from fpnas.stages.base import StageContext
    from fpnas.storage import Artifact, Store


class Config(StageConfig):
    """A registration.

    Attributes:
        name: Of the registered model; by default ``fp-nas-<operating point>``.
        export: Write the model in the formats of :mod:`fpnas.training.export` too, which takes
            the packages of the extra ``export``.
    """

    name: str
    export: bool = True


def resolve(_config: Config, inputs: Mapping[str, Artifact], _store: Store) -> dict[str, Any]:
    """Where it is registered, and what its tags say the model was made of.

    Another registry gets its own entry, by the address that this process has: the one that the
    pipeline was submitted with may know the registry by another.
    """
    from fpnas.stages.fingerprint import fingerprint_of
    from fpnas.tracking import registry_name

    return {"tracking": registry_name(), "fingerprint": fingerprint_of(inputs).digest}


def run(context: StageContext) -> None:
    """Writes what is known of the run, and registers its better model.

    ``summary.json``, ``exported/`` (see :mod:`fpnas.stages.exporting`), ``registration.json`` and
    ``report.html``; the model's speed goes into the bill.
    """
    from fpnas.stages.headline import log_headline
    from fpnas.stages.measuring import measure_model
    from fpnas.stages.registering import register
    from fpnas.stages.reporting import collect, render
    from fpnas.stages.tracked import ask_mlflow, parent_run
    from fpnas.stages.training import load_model

    findings = collect(context.inputs)
    summary = findings.summary()
    context.output.write_json("summary.json", summary)
    context.progress(1, 6, "exporting the model")
    exported = _export(context, findings.best, summary) if context.config.export else None
    context.progress(2, 6, "measuring latency and throughput")
    files = sorted(_exported(context).iterdir()) if exported else []
    speed = measure_model(*load_model(context.inputs[findings.best]), files)
    context.output.bill["speed"] = speed
    context.progress(3, 6, "registering the model")
    registration = register(context, findings.best, summary, speed, files)
    context.output.write_json("registration.json", registration)
    context.progress(4, 6, "drawing the report")
    html, figures = render(findings, context, registration, speed, exported)
    report = context.output.path("report.html")
    report.write_text(html, encoding="utf-8")
    context.progress(5, 6, "logging to MLflow")
    parent = ask_mlflow(context, lambda: parent_run(context.info))
    seconds = {stage: bill.get("seconds", 0.0) for stage, bill in findings.bills.items()}
    log_headline(parent, context.info, summary, seconds, speed)
    version = f"{registration['name']} v{registration['version']}"
    parent.set_tags({"fpnas.registered_model": version})
    for name, figure in figures.items():
        parent.log_figure(figure, name)
    parent.log_artifact(report)
    parent.finish()


def _exported(context: StageContext) -> Path:
    """Where the exported files are."""
    return context.output.path(f"{FOLDER}/{RECORD}").parent


def _export(context: StageContext, best: str, summary: dict[str, Any]) -> dict[str, Any]:
    from fpnas.stages.exporting import export_model

    record = export_model(
        context.inputs[best],
        context.inputs["dataset"],
        _exported(context),
        summary["architecture"]["string"],
    )
    context.output.write_json(f"{FOLDER}/{RECORD}", record)
    return record
