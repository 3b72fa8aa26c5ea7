"""What the coarse and the fine search share.

A search state holds ``search.json``, ``distribution.safetensors`` (logits),
``snapshots.safetensors``, ``history.parquet`` and ``evaluator.safetensors`` (shared weights,
optimiser and loader positions, from which another search goes on).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fpnas.errors import InputError
from fpnas.search.options import SearchOptions
from fpnas.stages.config import SpaceConfig, StageConfig

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from fpnas.cost import CostModel
    from fpnas.distribution import AbstractDistribution
    from fpnas.search.evaluator import SupernetEvaluator
    from fpnas.search.loop import SearchState
    from fpnas.space import SearchSpace
    from fpnas.stages.base import StageContext
    from fpnas.storage import Artifact


class SearchConfig(StageConfig):
    """A search.

    Attributes:
        space: Where to search.
        search: How.
        seed: Of the draws, the weights and the order of the pictures.
        batch_size: Pictures of each half in a step.
        augmentation: Of the pictures; None takes the default for the source and the size.
        momentum: Of SGD on the shared weights.
        weight_decay: Of the same.
        max_grad_norm: The gradient is scaled down to this norm.
    """

    space: SpaceConfig
    search: SearchOptions
    seed: int = 0
    batch_size: int = Field(default=64, ge=2)
    augmentation: str | None = None
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=5.0, gt=0)


def build_evaluator(context: StageContext, space: SearchSpace) -> SupernetEvaluator:
    """The supernet with the two halves of the pictures."""
    import torch

    from fpnas.data.loader import ImageLoader
    from fpnas.networks.supernet import Supernet
    from fpnas.search.evaluator import SupernetEvaluator
    from fpnas.stages.batches import LabelledBatches, device_of, open_dataset

    config: SearchConfig = context.config
    device = device_of(config.runtime.device)
    dataset = open_dataset(context.inputs["dataset"])

    def source(split: Literal["weights", "alpha"], seed: int) -> LabelledBatches:
        loader = ImageLoader(
            dataset,
            split,
            batch_size=config.batch_size,
            input_size=space.input_size,
            training=True,
            seed=seed,
            augmentation=config.augmentation,
        )
        return LabelledBatches(loader, device)

    torch.manual_seed(config.seed)
    supernet = Supernet(space, dataset.num_classes).to(device)
    return SupernetEvaluator(
        supernet,
        source("weights", config.seed),
        source("alpha", config.seed + 1),
        temperature=config.search.temperature,
        ess_fraction=config.search.ess_fraction,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


def search(
    context: StageContext,
    kind: Literal["factorized", "joint"],
    space: SearchSpace,
    state: SearchState,
    evaluator: SupernetEvaluator,
    first_step: int,
) -> None:
    """Searches to the end, from a checkpoint when there is one, and writes the search state.

    Args:
        context: Of the stage.
        kind: Of the distribution.
        space: Where to search.
        state: At the start.
        evaluator: At the start.
        first_step: Steps of the searches before, so that curves go on.
    """
    from fpnas.cost import CostModel
    from fpnas.search.loop import HISTORY_COLUMNS, run_search

    options = context.config.search
    num_classes = evaluator.supernet.classifier.out_features
    cost_model = CostModel(space, num_classes)
    low, high = cost_model.range_macs()
    # Above the range a budget does no harm; with few classes the classifier costs less.
    if space.target_macs < low:
        raise InputError(
            "target_macs",
            space.target_macs,
            f"is outside what {space.name} can reach with {num_classes} classes",
            legal=f"{low} to {high}",
            fix="choose a target in the range or another input size",
        )
    saved = context.restore()
    if saved is not None:
        state.load_state(saved["search"])
        evaluator.load_state(saved["evaluator"])

    def on_step(record: dict[str, float]) -> None:
        step = int(record["step"])
        metrics = {name: record[name] for name in HISTORY_COLUMNS if name != "step"}
        context.tracking.log_metrics(first_step + step, metrics)
        context.after_step(
            step,
            options.num_steps,
            lambda: {"search": state.state(), "evaluator": evaluator.state()},
            f"entropy {record['entropy_nats']:.1f} nats, K = {record['num_samples']:.0f}, "
            f"most probable {record['most_probable_macs'] / 1e6:.3g} M MACs",
        )

    run_search(state, evaluator, cost_model, options, on_step=on_step)
    _write(context, kind, space, state, evaluator, cost_model, first_step)


def _write(
    context: StageContext,
    kind: str,
    space: SearchSpace,
    state: SearchState,
    evaluator: SupernetEvaluator,
    cost_model: CostModel,
    first_step: int,
) -> None:
    import pandas as pd
    import torch

    from fpnas.report.figures import SearchPhase, search_curves, snapshot_steps
    from fpnas.search.loop import HISTORY_COLUMNS
    from fpnas.state import pack

    output = context.output
    tensors, structure = pack(evaluator.state())
    output.write_tensors("evaluator.safetensors", tensors)
    output.write_tensors("distribution.safetensors", {"logits": state.distribution.logits.detach()})
    snapshots = torch.stack(state.snapshots)
    interval = context.config.search.snapshot_steps
    steps = torch.from_numpy(snapshot_steps(len(snapshots), interval, state.step))
    output.write_tensors(
        "snapshots.safetensors",
        {"probabilities": snapshots, "steps": steps},
    )
    history = pd.DataFrame(state.history, columns=list(HISTORY_COLUMNS))
    history.to_parquet(output.path("history.parquet"), index=False)
    output.write_json(
        "search.json",
        {
            "distribution": kind,
            "first_step": first_step,
            "num_steps": state.step,
            "num_samples": state.num_samples,
            "entropy_nats": state.distribution.entropy().item(),
            "num_parameters": state.distribution.num_parameters(),
            "num_classes": cost_model.num_classes,
            "evaluator": structure,
        },
    )
    output.bill.update(num_samples=state.num_samples, num_steps=state.step)
    phase = SearchPhase("coarse" if kind == "factorized" else "fine", history)
    context.tracking.log_figure(search_curves([phase], space.target_macs), "search_curves.png")


@dataclass(frozen=True)
class LoadedSearch:
    """A search state, read back.

    Attributes:
        space: Where was searched.
        distribution: At the end.
        history: One row a step, the columns of :data:`fpnas.search.loop.HISTORY_COLUMNS`.
        snapshots: Probabilities of all choices, (S, G, M, C).
        steps: The steps of the snapshots, (S,).
        num_steps: Steps of this search.
        first_step: Steps before this search.
        num_samples: Architectures drawn in this search.
        num_classes: Of the pictures.
        seconds: What it took.
    """

    space: SearchSpace
    distribution: AbstractDistribution
    history: pd.DataFrame
    snapshots: np.ndarray[Any, Any]
    steps: np.ndarray[Any, Any]
    num_steps: int
    first_step: int
    num_samples: int
    num_classes: int
    seconds: float


def load_search(artifact: Artifact) -> LoadedSearch:
    """Reads a search state, without the evaluator."""
    import pandas as pd
    import torch

    from fpnas.distribution import ChoiceLayout, FactorizedDistribution, JointDistribution

    space = SpaceConfig.model_validate(artifact.config["space"]).open()
    info = artifact.read_json("search.json")
    kinds = {"factorized": FactorizedDistribution, "joint": JointDistribution}
    distribution: AbstractDistribution = kinds[info["distribution"]](ChoiceLayout.of(space))
    with torch.no_grad():
        distribution.logits.copy_(artifact.read_tensors("distribution.safetensors")["logits"])
    history = pd.read_parquet(artifact.fetch("history.parquet"))
    artifact.release("history.parquet")
    snapshots = artifact.read_tensors("snapshots.safetensors")
    return LoadedSearch(
        space,
        distribution,
        history,
        snapshots["probabilities"].numpy(),
        snapshots["steps"].numpy(),
        info["num_steps"],
        info["first_step"],
        info["num_samples"],
        info["num_classes"],
        float(artifact.bill.get("seconds", 0.0)),
    )


def load_evaluator(artifact: Artifact, evaluator: SupernetEvaluator) -> None:
    """Puts the evaluator in the state in which a search left it."""
    from fpnas.state import unpack

    structure = artifact.read_json("search.json")["evaluator"]
    evaluator.load_state(unpack(artifact.read_tensors("evaluator.safetensors"), structure))
