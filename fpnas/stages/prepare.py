"""Prepare: pictures to shards and an index, with the halves for weights and architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fpnas.stages.config import StageConfig

if TYPE_CHECKING:
    from fpnas.data.options import PrepareOptions
    from fpnas.stages.base import StageContext
    from fpnas.storage import Store


class Config(StageConfig):
    """What to prepare; see :class:`fpnas.data.options.PrepareOptions`."""

    data: str
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    seed: int = 0
    val_fraction: float = 0.2
    alpha_fraction: float = 0.5
    max_images_per_class: int | None = None
    max_edge: int | None = None
    shard_bytes: int = 64 << 20
    max_quarantined_fraction: float = 0.1

    def options(self) -> PrepareOptions:
        """The options of the data layer; raises InputError for a value out of range."""
        from fpnas.data.options import PrepareOptions

        return PrepareOptions(**self.model_dump(exclude={"runtime"}))


def sources(config: Config, store: Store) -> dict[str, Any]:
    """What is behind the name ``data``: pictures may change while their place does not."""
    from fpnas.data.fingerprint import fingerprint
    from fpnas.storage.connection import translated

    with translated("list", config.data):
        return {"fingerprint": fingerprint(config.data, store.client)}


def run(context: StageContext) -> None:
    """Writes the dataset."""
    from fpnas.data.prepare import prepare

    directory = context.output.path("dataset.json").parent
    summary = prepare(
        context.config.options(),
        directory,
        context.store.client,
        lambda done, total: context.progress(done, total, f"{done} of {total} pictures"),
    )
    context.tracking.log_metrics(
        0,
        {
            "num_classes": len(summary.classes),
            "num_quarantined": summary.num_quarantined,
            "num_duplicates": summary.num_duplicates,
            **{f"num_{split}": count for split, count in summary.counts.items()},
        },
    )
    context.tracking.log_artifact(directory / "dataset.json")
    context.tracking.log_artifact(directory / "quarantine.csv")
