"""What to do next, from what a run shows."""

from __future__ import annotations

import math

from fpnas.cost import architecture_cost
from fpnas.report.data import ReportData
from fpnas.report.formats import format_macs, format_percent, format_points
from fpnas.report.search_figures import join_phases

# All of these are our choice: where a figure is worth a second look.
_LITTLE_OF_BUDGET = 0.8
_ENTROPY_LEFT = 0.25
_NEAR_CHANCE = 2.0


def next_steps(data: ReportData) -> list[str]:
    """Returns sentences, the most urgent first; never none."""
    steps = [*_about_the_run(data), *_about_the_search(data), *_about_the_models(data)]
    steps.append(
        "Put this run beside others: fpnas compare in a terminal, make mlflow-ui in a browser."
    )
    return [*data.next_steps, *steps]


def _about_the_run(data: ReportData) -> list[str]:
    steps = []
    if data.profile == "smoke":
        steps.append(
            "The smoke profile only shows that everything works; for figures that mean something "
            f"run the laptop profile: make pipeline-run SPACE={data.space.name} "
            f"MODEL={data.space.model} PROFILE=laptop."
        )
    if data.dataset is not None and len(data.dataset.quarantined):
        steps.append(
            f"Look at the quarantined pictures ({len(data.dataset.quarantined)}, listed above): "
            "they are in no split."
        )
    return steps


def _about_the_search(data: ReportData) -> list[str]:
    steps = []
    target = data.space.target_macs
    if data.architecture is not None:
        macs = architecture_cost(data.architecture, data.num_classes)[0]
        if macs > target:
            steps.append(
                f"The architecture takes {format_macs(macs)} MACs, more than the target of "
                f"{format_macs(target)}: decode it again within the budget."
            )
        elif macs < _LITTLE_OF_BUDGET * target:
            steps.append(
                f"The architecture leaves {format_percent(1 - macs / target, digits=0)} of its "
                "budget unused: a longer search, or a search with a smaller weight of the cost, "
                "may find a better one."
            )
    history, _ = join_phases(data.phases)
    if not history.empty:
        last = history.iloc[-1]
        left = last["entropy_nats"] / data.space.uniform_entropy_nats
        if left > _ENTROPY_LEFT and math.isfinite(left):
            steps.append(
                f"The search ended with {format_percent(left, digits=0)} of its entropy left, so "
                "the most probable architecture is one of many: give it more steps."
            )
    return steps


def _about_the_models(data: ReportData) -> list[str]:
    steps = []
    models = [model for model in (data.train, data.distill) if model is not None]
    chance = 1 / max(data.num_classes, 1)
    if models and max(m.top1 for m in models) < _NEAR_CHANCE * chance and data.num_classes > 2:
        steps.append(
            f"Top-1 is near chance ({format_percent(chance)}): train longer before reading "
            "anything into it."
        )
    gain = data.distillation_gain
    if gain is not None and gain < 0:
        steps.append(
            f"Distillation cost {format_points(-gain).lstrip('+')} of top-1: use the undistilled "
            "model, or another teacher."
        )
    teacher, train = data.teacher, data.train
    if teacher and teacher.top1 is not None and train and teacher.top1 <= train.top1:
        steps.append(
            f"The teacher {teacher.name} is not better than the model itself "
            f"({format_percent(teacher.top1)} against {format_percent(train.top1)}): "
            "a stronger teacher would help."
        )
    if data.registered_model is not None:
        model = data.registered_model
        alias = f"@{model.aliases[0]}" if model.aliases else f"/{model.version}"
        steps.append(f"Use the model: mlflow models serve -m models:/{model.name}{alias}.")
    return steps
