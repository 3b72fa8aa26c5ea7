"""Register: compare the two models, register the better one, move aliases, write the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fpnas.stages.config import StageConfig

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext


class Config(StageConfig):
    """A registration.

    Attributes:
        name: Of the registered model; by default ``fp-nas-<operating point>``.
        tracking: Where it is registered, so that another registry gets its own entry.
    """

    name: str
    tracking: str = ""


def run(context: StageContext) -> None:
    """Writes ``summary.json``, ``speed.json``, ``registration.json`` and ``report.html``."""
    from fpnas.stages.headline import log_headline
    from fpnas.stages.registering import register
    from fpnas.stages.reporting import collect, render
    from fpnas.stages.tracked import parent_run

    findings = collect(context.inputs)
    summary = findings.summary()
    context.output.write_json("summary.json", summary)
    context.progress(1, 5, "measuring latency and throughput")
    speed = _measure(context, findings.best)
    context.output.write_json("speed.json", speed)
    context.progress(2, 5, "registering the model")
    registration = register(context, findings.best, summary, speed)
    context.output.write_json("registration.json", registration)
    context.progress(3, 5, "drawing the report")
    html, figures = render(findings, context, registration)
    report = context.output.path("report.html")
    report.write_text(html, encoding="utf-8")
    context.progress(4, 5, "logging to MLflow")
    parent = parent_run(context.info)
    seconds = {stage: bill.get("seconds", 0.0) for stage, bill in findings.bills.items()}
    log_headline(parent, context.info, summary, seconds, speed)
    version = f"{registration['name']} v{registration['version']}"
    parent.set_tags({"fpnas.registered_model": version})
    for name, figure in figures.items():
        parent.log_figure(figure, name)
    parent.log_artifact(report)
    parent.finish()


def _measure(context: StageContext, best: str) -> dict[str, Any]:
    """Speed of the network, with what else the machine was doing meanwhile."""
    from fpnas.networks.network import Classifier
    from fpnas.stages.load import OtherLoad
    from fpnas.stages.training import load_model
    from fpnas.training.speed import measure_everywhere

    network, info = load_model(context.inputs[best])
    load = OtherLoad()
    model = Classifier(network, info["mean"], info["std"])
    found = measure_everywhere(model, info["input_size"])
    return {**found, "other_cores": load.cores()}
