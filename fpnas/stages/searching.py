"""What the coarse and the fine search share.

A search state holds ``search.json``, ``distribution.safetensors`` (logits),
``snapshots.safetensors``, ``history.parquet`` and ``evaluator.safetensors`` (shared weights,
optimiser and loader positions, from which another search goes on).
"""

from __future__ import annotations

import logging
import math
import resource
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fpnas.errors import InputError
from fpnas.search.dnas_options import DnasOptions
from fpnas.search.options import Phase, SearchOptions, StrategyName, WeightOptions
from fpnas.search.population_options import PopulationOptions
from fpnas.stages.config import SpaceConfig, StageConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from fpnas.data.dataset import Dataset
    from fpnas.distribution import AbstractDistribution
    from fpnas.parallel import Ranks
    from fpnas.search.loop import AbstractSearch
    from fpnas.search.weights import AbstractWeights
    from fpnas.space import SearchSpace
    from fpnas.stages.base import StageContext
    from fpnas.stages.batches import LabelledBatches
    from fpnas.storage import Artifact

Split = Literal["weights", "alpha"]

_LOG = logging.getLogger("fpnas")


class SearchConfig(StageConfig):
    """A search.

    Attributes:
        space: Where to search.
        strategy: See :data:`fpnas.search.options.STRATEGIES`.
        search: How.
        dnas: More of the strategy ``dnas``.
        population: More of the strategies ``random`` and ``evolution``.
        seed: Of the draws, the weights and the order of the pictures.
        batch_size: Pictures of the weight half in a step.
        architecture_batch_size: Pictures of the architecture half, which need forward passes only;
            None takes as many. More of them tell architectures apart with less noise.
        num_processes: Processes that share the sampled architectures. The result is equal but for
            the order of sums.
        precision: Of the supernet's layers; ``bf16`` is for GPUs.
        augmentation: Of the pictures; None takes the default for the source and the size.
        momentum: Of SGD on the shared weights.
        weight_decay: Of the same.
        max_grad_norm: The gradient is scaled down to this norm.
    """

    space: SpaceConfig
    strategy: StrategyName = "fpnas"
    search: SearchOptions
    dnas: DnasOptions = DnasOptions()
    population: PopulationOptions = PopulationOptions()
    seed: int = 0
    batch_size: int = Field(default=64, ge=2)
    architecture_batch_size: int | None = Field(default=None, ge=2)
    num_processes: int = Field(default=1, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    augmentation: str | None = None
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=5.0, gt=0)


def run_phase(
    context: StageContext,
    phase: Phase,
    previous: LoadedSearch | None = None,
    *,
    keep_optimizer: bool = True,
) -> None:
    """Searches to the end, from a checkpoint when there is one, and writes the search state.

    Args:
        context: Of the stage.
        phase: Which search.
        previous: The search to go on from.
        keep_optimizer: Go on with its momentum of the shared weights.
    """
    from fpnas.stages.batches import device_of
    from fpnas.stages.ranks import opened, rank_device

    config: SearchConfig = context.config
    device = rank_device(device_of(config.runtime.device))
    with opened(context, config.num_processes, device) as ranks:
        search = _build(context, phase, previous, device, ranks)
        if previous is not None:
            load_weights(context.inputs["search_state"], search.evaluator)
            if not keep_optimizer:
                search.evaluator.optimizer.state.clear()
        saved = context.restore()
        if saved is not None:
            search.load_state(saved["search"])
            search.evaluator.load_state(saved["evaluator"])
        first_step = previous.first_step + previous.num_steps if previous else 0
        _run(context, search, first_step, writes=ranks.rank == 0)
    if ranks.rank == 0:
        _write(context, phase, search, first_step)


def _build(
    context: StageContext,
    phase: Phase,
    previous: LoadedSearch | None,
    device: str,
    ranks: Ranks,
) -> AbstractSearch:
    import torch

    from fpnas.cost import CostModel
    from fpnas.search.strategies import build_search
    from fpnas.stages.batches import open_dataset

    config: SearchConfig = context.config
    space = config.space.open()
    dataset = open_dataset(context.inputs["dataset"])
    cost_model = CostModel(space, dataset.num_classes)
    low, high = cost_model.range_macs()
    # Above the range a budget does no harm; with few classes the classifier costs less.
    if space.target_macs < low:
        raise InputError(
            "target_macs",
            space.target_macs,
            f"is outside what {space.name} can reach with {dataset.num_classes} classes",
            legal=f"{low} to {high}",
            fix="choose a target in the range or another input size",
        )
    torch.manual_seed(config.seed)
    return build_search(
        config.strategy,
        phase,
        cost_model,
        config.search,
        pictures=StagePictures(config, dataset, device),
        weights=WeightOptions(config.momentum, config.weight_decay, config.max_grad_norm),
        dnas=config.dnas,
        population=config.population,
        precision=config.precision,
        # Another seed, so that the draws of the coarse search do not come again.
        seed=config.seed + (phase == "fine"),
        previous=previous.distribution if previous else None,
        ranks=ranks,
    )


class StagePictures:
    """The pictures of a search, from the dataset artifact; see ``Pictures``."""

    def __init__(self, config: SearchConfig, dataset: Dataset, device: str) -> None:
        self._config, self._dataset, self.device = config, dataset, device
        self.num_classes = dataset.num_classes

    def batches(self, split: Split) -> LabelledBatches:
        """Endless augmented batches."""
        return self._batches(split, training=True)

    def fixed(self, split: Split, num_batches: int) -> list[tuple[Tensor, Tensor]]:
        """The first whole batches as they are, without augmentation."""
        batches = list(islice(self._batches(split, training=False), num_batches))
        # A single picture has no statistics; a short batch has poor ones.
        return [batch for batch in batches if len(batch[1]) == len(batches[0][1])]

    def _batches(self, split: Split, *, training: bool) -> LabelledBatches:
        from fpnas.data.loader import ImageLoader
        from fpnas.stages.batches import LabelledBatches

        config = self._config
        more = config.architecture_batch_size if split == "alpha" else None
        loader = ImageLoader(
            self._dataset,
            split,
            batch_size=more or config.batch_size,
            input_size=config.space.input_size,
            training=training,
            seed=config.seed + (split == "alpha"),
            augmentation=config.augmentation,
            device=self.device,
        )
        return LabelledBatches(loader)


def _run(context: StageContext, search: AbstractSearch, first_step: int, *, writes: bool) -> None:
    from fpnas.search.loop import run_search

    def on_step(record: dict[str, float]) -> None:
        if not writes:
            return
        step = int(record["step"])
        metrics = {
            name: value for name, value in record.items() if name != "step" and math.isfinite(value)
        }
        context.tracking.log_metrics(first_step + step, metrics)
        context.after_step(
            step,
            search.options.num_steps,
            lambda: {"search": search.state(), "evaluator": search.evaluator.state()},
            f"entropy {record['entropy_nats']:.1f} nats, K = {record['num_samples']:.0f}, "
            f"most probable {record['most_probable_macs'] / 1e6:.3g} M MACs",
        )

    run_search(search, on_step=on_step)


def _write(context: StageContext, phase: Phase, search: AbstractSearch, first_step: int) -> None:
    import pandas as pd
    import torch

    from fpnas.report.figures import SearchPhase, search_curves, snapshot_steps
    from fpnas.search.alarms import alarms
    from fpnas.search.loop import HISTORY_COLUMNS
    from fpnas.state import pack

    output, distribution = context.output, search.distribution
    tensors, structure = pack(search.evaluator.state())
    output.write_tensors("evaluator.safetensors", tensors)
    output.write_tensors("distribution.safetensors", {"logits": distribution.logits.detach()})
    snapshots = torch.stack(search.snapshots)
    interval = context.config.search.snapshot_steps
    steps = torch.from_numpy(snapshot_steps(len(snapshots), interval, search.step))
    output.write_tensors(
        "snapshots.safetensors",
        {"probabilities": snapshots, "steps": steps},
    )
    history = pd.DataFrame(search.history, columns=list(HISTORY_COLUMNS))
    history.to_parquet(output.path("history.parquet"), index=False)
    sounded = [asdict(alarm) for alarm in alarms(history)]
    for alarm in sounded:
        _LOG.warning("%s: %s", alarm["name"], alarm["message"])
    bill = asdict(search.evaluator.bill)
    output.write_json(
        "search.json",
        {
            "strategy": context.config.strategy,
            "distribution": distribution.kind,
            "first_step": first_step,
            "num_steps": search.step,
            "num_samples": search.num_samples,
            **bill,
            "entropy_nats": distribution.entropy().item(),
            "num_parameters": distribution.num_parameters(),
            "num_classes": search.cost_model.num_classes,
            "alarms": sounded,
            "evaluator": structure,
        },
    )
    output.bill.update(
        num_samples=search.num_samples,
        num_steps=search.step,
        **bill,
        peak_memory_bytes=peak_memory_bytes(),
    )
    context.tracking.set_tags({"fpnas.alarms": ", ".join(a["name"] for a in sounded) or "none"})
    target = search.cost_model.space.target_macs
    figure = search_curves([SearchPhase(phase, history)], target)
    context.tracking.log_figure(figure, "search_curves.png")


def peak_memory_bytes() -> int:
    """The most memory that this process had: of the GPU when one was used, else resident."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class LoadedSearch:
    """A search state, read back.

    Attributes:
        space: Where was searched.
        distribution: At the end.
        snapshots: Probabilities of all choices, (S, G, M, C).
        steps: The steps of the snapshots, (S,).
        num_steps: Steps of this search.
        first_step: Steps before this search.
        num_samples: Architectures drawn in this search.
        num_forwards: Forward passes of an architecture on a batch.
        num_backwards: Backward passes.
        strategy: How was searched.
        alarms: What is suspicious, each with ``name`` and ``message``.
        num_classes: Of the pictures.
        seconds: What it took.
    """

    space: SearchSpace
    distribution: AbstractDistribution
    snapshots: np.ndarray[Any, Any]
    steps: np.ndarray[Any, Any]
    num_steps: int
    first_step: int
    num_samples: int
    num_forwards: int
    num_backwards: int
    strategy: str
    alarms: list[dict[str, str]]
    num_classes: int
    seconds: float


def load_search(artifact: Artifact) -> LoadedSearch:
    """Reads a search state, without the evaluator and the history."""
    import torch

    from fpnas.distribution import ChoiceLayout, FactorizedDistribution, JointDistribution

    space = SpaceConfig.model_validate(artifact.config["space"]).open()
    info = artifact.read_json("search.json")
    kinds = {kind.kind: kind for kind in (FactorizedDistribution, JointDistribution)}
    distribution: AbstractDistribution = kinds[info["distribution"]](ChoiceLayout.of(space))
    with torch.no_grad():
        distribution.logits.copy_(artifact.read_tensors("distribution.safetensors")["logits"])
    snapshots = artifact.read_tensors("snapshots.safetensors")
    return LoadedSearch(
        space,
        distribution,
        snapshots["probabilities"].numpy(),
        snapshots["steps"].numpy(),
        info["num_steps"],
        info["first_step"],
        info["num_samples"],
        info["num_forwards"],
        info["num_backwards"],
        info["strategy"],
        info["alarms"],
        info["num_classes"],
        float(artifact.bill.get("seconds", 0.0)),
    )


def load_weights(artifact: Artifact, evaluator: AbstractWeights[Any]) -> None:
    """Puts the shared weights in the state in which a search left them, under a new bill."""
    from fpnas.search.weights import Bill
    from fpnas.state import unpack

    structure = artifact.read_json("search.json")["evaluator"]
    evaluator.load_state(unpack(artifact.read_tensors("evaluator.safetensors"), structure))
    evaluator.bill = Bill()
