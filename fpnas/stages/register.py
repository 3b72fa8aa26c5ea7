"""Register: compare the two models, register the better one, move aliases, write the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fpnas.stages.config import StageConfig

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext
    from fpnas.training.promotion import Candidate


class Config(StageConfig):
    """A registration.

    Attributes:
        name: Of the registered model; by default ``fp-nas-<operating point>``.
        tracking: Where it is registered, so that another registry gets its own entry.
    """

    name: str
    tracking: str = ""


def run(context: StageContext) -> None:
    """Writes ``summary.json``, ``registration.json`` and ``report.html``."""
    from fpnas.stages.reporting import collect, render

    findings = collect(context.inputs)
    summary = findings.summary()
    context.output.write_json("summary.json", summary)
    context.progress(1, 4, "registering the model")
    registration = _register(context, findings.best, summary)
    context.output.write_json("registration.json", registration)
    context.progress(2, 4, "drawing the report")
    html, figures = render(findings, context, registration)
    report = context.output.path("report.html")
    report.write_text(html, encoding="utf-8")
    context.progress(3, 4, "logging to MLflow")
    _log_parent(context, summary, registration, figures)


def _register(context: StageContext, best: str, summary: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from fpnas import registry, tracking
    from fpnas.networks.network import Classifier
    from fpnas.stages.training import load_model
    from fpnas.training.promotion import Candidate, promotes

    place = tracking.initialise()
    network, info = load_model(context.inputs[best])
    scores = info["evaluation"]
    challenger = Candidate(scores["top1"], summary["architecture"]["macs"], scores["num_images"])
    promoted, reason = promotes(challenger, _champion(context.config.name))
    tags = {
        "macs": summary["architecture"]["macs"],
        "params": summary["architecture"]["params"],
        "top1": scores["top1"],
        "num_val_images": scores["num_images"],
        "space": context.info.space,
        "model": context.info.model,
        "architecture_sha256": summary["architecture"]["sha256"],
        "dataset_digest": context.inputs["dataset"].digest,
        "model_digest": context.inputs[best].digest,
        "num_samples": summary["search"]["num_samples"],
        "trained_by": best,
        "promotion": reason,
    }
    size = info["input_size"]
    registered = registry.register_model(
        place,
        context.tracking.run_id,
        Classifier(network, info["mean"], info["std"]).eval(),
        name=context.config.name,
        input_example=np.zeros((2, 3, size, size), dtype=np.float32),
        tags={key: str(value) for key, value in tags.items()},
        aliases=("challenger", "champion") if promoted else ("challenger",),
    )
    return {
        "name": registered.name,
        "version": registered.version,
        "aliases": list(registered.aliases),
        "uri": registered.uri,
        "promoted": promoted,
        "reason": reason,
    }


def _champion(name: str) -> Candidate | None:
    from fpnas import registry, tracking
    from fpnas.training.promotion import Candidate

    tags = registry.alias_tags(tracking.initialise(), name, "champion")
    if tags is None or not {"top1", "macs", "num_val_images"} <= tags.keys():
        return None
    return Candidate(float(tags["top1"]), int(tags["macs"]), int(tags["num_val_images"]))


def _log_parent(
    context: StageContext,
    summary: dict[str, Any],
    registration: dict[str, Any],
    figures: dict[str, Any],
) -> None:
    """The figures that models are compared by stand on the pipeline's run."""
    from fpnas.stages.base import parent_run

    parent = parent_run(context.info)
    seconds = {role: a.bill.get("seconds", 0.0) for role, a in context.inputs.items()}
    architecture, search = summary["architecture"], summary["search"]
    best = max(summary["train"]["top1"], summary["distill"]["top1"])
    parent.log_metrics(
        0,
        {
            "top1": best,
            "top1_train": summary["train"]["top1"],
            "top1_distill": summary["distill"]["top1"],
            "top1_teacher": summary["distill"]["teacher"]["top1"],
            "distillation_gain": summary["distill"]["top1"] - summary["train"]["top1"],
            "macs": architecture["macs"],
            "target_macs": architecture["target_macs"],
            "params": architecture["params"],
            **{n: search[n] for n in ("num_samples", "num_forwards", "num_backwards")},
            "search_seconds": seconds["coarse"] + seconds["fine"],
            "total_seconds": sum(seconds.values()),
        },
    )
    parent.log_params(
        {
            "space": context.info.space,
            "model": context.info.model,
            "profile": context.info.profile,
            "strategy": search["strategy"],
            "seed": context.info.seed,
        }
    )
    parent.set_tags(
        {
            "fpnas.architecture": architecture["string"],
            "fpnas.registered_model": f"{registration['name']} v{registration['version']}",
            "fpnas.command": context.info.command,
            "fpnas.alarms": ", ".join(a["name"] for a in search["alarms"]) or "none",
        }
    )
    for name, figure in figures.items():
        parent.log_figure(figure, name)
    parent.log_artifact(context.output.path("report.html"))
    parent.finish()
