"""Baseline: a network that nobody searched, trained and scored exactly as a decoded one is.

``random`` is the best random architecture of a space: a number of architectures is drawn uniformly
within the budget, each is trained for a few epochs on the pictures that a search trains weights on
and scored on those that a search chooses by, and the best is trained by the recipe. The validation
pictures have no part in the choice. What the choice cost is in the bill.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fpnas.errors import InputError
from fpnas.networks.description import AnyArchitecture, network_cost
from fpnas.stages.config import SpaceConfig
from fpnas.stages.training import Workbench, train, write_model
from fpnas.stages.training_config import TrainingConfig, training_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fpnas.architecture import Architecture
    from fpnas.data.dataset import Dataset
    from fpnas.parallel import Ranks
    from fpnas.stages.base import RunInfo, StageContext

RANDOM = "random"


class Config(TrainingConfig):
    """A baseline.

    Attributes:
        name: ``random``, or what :meth:`fpnas.networks.named.NamedArchitecture.parse` reads.
        input_size: Pixels, of a named network.
        space: In which ``random`` draws.
        num_candidates: Architectures that ``random`` draws.
        candidate_epochs: Training of each of them.
    """

    name: str
    input_size: int = Field(ge=1)
    space: SpaceConfig | None = None
    num_candidates: int = Field(default=8, ge=1)
    candidate_epochs: int = Field(default=2, ge=1)


def check(config: Config) -> None:
    """Makes sure that the network can be built.

    Raises:
        InputError: Naming what cannot be used.
    """
    from fpnas.networks.named import BASELINES, NamedArchitecture, library_function

    if config.name == RANDOM:
        if config.space is None:
            raise InputError("baseline.space", None, "is missing", fix="name a space to draw from")
        return
    named = NamedArchitecture.parse(config.name, config.input_size)
    library_function(BASELINES[named.network].library, BASELINES[named.network].function)


def run(context: StageContext) -> None:
    """Trains the baseline, writes the model and ``summary.json``."""
    from fpnas.networks.named import NamedArchitecture
    from fpnas.stages.batches import open_dataset
    from fpnas.stages.measuring import measure_model
    from fpnas.stages.tracked import ask_mlflow
    from fpnas.training.loop import label_loss

    started = time.monotonic()
    config: Config = context.config
    check(config)
    dataset = open_dataset(context.inputs["dataset"])
    saved = context.restore()
    candidates: list[dict[str, Any]] = saved["kept"] if saved else []
    state = saved and saved["trainer"]
    architecture: AnyArchitecture
    with training_ranks(context) as ranks:
        if config.name == RANDOM:
            drawn = draw(config, dataset.num_classes)
            if len(candidates) < len(drawn):
                _train_candidates(context, dataset, ranks, drawn, candidates, state)
                state = None
            best = max(range(len(drawn)), key=lambda number: float(candidates[number]["top1"]))
            architecture = drawn[best]
        else:
            architecture = NamedArchitecture.parse(config.name, config.input_size)
        bench = Workbench(dataset, architecture, ranks.device, config, ranks)
        network = bench.network(architecture, config.seed)
        trainer = bench.trainer(network, config.recipe, label_loss(config.recipe))
        evaluation = train(context, trainer, saved=state, kept=candidates)
        if bench.is_first:
            # MLflow is told the figures before the artifact is there, and may be away by now.
            context.save({"trainer": trainer.state(), "kept": candidates})
    if not bench.is_first:
        return
    write_model(context, bench, trainer, evaluation)
    model = json.loads(context.output.path("model.json").read_text(encoding="utf-8"))
    speed = measure_model(trainer.final_network, model)
    context.output.bill["speed"] = speed
    scores = {**model["evaluation"], "calibration_error": model["calibration_error"]}
    summary = _summary(config, architecture, dataset.num_classes, scores, candidates)
    context.output.write_json("summary.json", summary)
    context.output.bill["num_candidates"] = len(candidates)
    before = context.inputs["dataset"].bill.get("seconds", 0.0)
    seconds = {"prepare": before, "baseline": time.monotonic() - started}
    ask_mlflow(context, lambda: log_parent(context.info, summary, seconds, speed))


def draw(config: Config, num_classes: int) -> list[Architecture]:
    """Draws the candidates uniformly within the budget; the same for the same seed."""
    import torch

    from fpnas.architecture import architecture_at
    from fpnas.cost import CostModel
    from fpnas.search.scoring import BudgetSampler

    assert config.space is not None
    space = config.space.open()
    generator = torch.Generator().manual_seed(config.seed)
    sampler = BudgetSampler(CostModel(space, num_classes))
    choices = sampler.sample(config.num_candidates, generator)
    return [architecture_at(space, choice) for choice in choices.tolist()]


def _train_candidates(
    context: StageContext,
    dataset: Dataset,
    ranks: Ranks,
    drawn: Sequence[Architecture],
    candidates: list[dict[str, Any]],
    state: Any,
) -> None:
    """Trains and scores the random architectures that are missing, and appends what came out."""
    from fpnas.training.loop import label_loss

    config: Config = context.config
    recipe = config.recipe.shortened(config.candidate_epochs)
    for number in range(len(candidates), len(drawn)):
        architecture = drawn[number]
        bench = Workbench(
            dataset,
            architecture,
            ranks.device,
            config,
            ranks,
            train_split="weights",
            eval_split="alpha",
        )
        network = bench.network(architecture, config.seed)
        trainer = bench.trainer(network, recipe, label_loss(recipe))
        phase = f"candidate_{number}_"
        scored = train(context, trainer, phase=phase, saved=state, kept=[*candidates])
        state = None
        macs, _ = network_cost(architecture, dataset.num_classes)
        candidates.append({"string": str(architecture), "macs": macs, "top1": scored.top1})


def _summary(
    config: Config,
    architecture: AnyArchitecture,
    num_classes: int,
    scores: Mapping[str, float],
    candidates: list[dict[str, Any]],
) -> dict[str, Any]:
    """The same document as a search's, without search and distillation."""
    macs, params = network_cost(architecture, num_classes)
    return {
        "baseline": {"name": config.name, "candidates": candidates},
        "architecture": {
            "macs": macs,
            "params": params,
            "string": str(architecture),
            "sha256": architecture.sha256,
            "target_macs": config.space.target_macs if config.space else None,
        },
        "search": None,
        "train": scores,
        "distill": None,
        "best": "trained",
    }


def log_parent(
    info: RunInfo,
    summary: Mapping[str, Any],
    seconds: Mapping[str, float],
    speed: Mapping[str, Any],
) -> None:
    """Puts the figures that runs are compared by on the pipeline's run, and ends it.

    Args:
        info: Names the run.
        summary: ``summary.json``.
        seconds: That each stage took.
        speed: From :func:`fpnas.stages.measuring.measure_model`.
    """
    from fpnas.stages.headline import log_headline
    from fpnas.stages.tracked import parent_run

    parent = parent_run(info)
    log_headline(parent, info, summary, seconds, speed)
    parent.set_tags({"fpnas.baseline": summary["baseline"]["name"]})
    parent.finish()
