"""What a run's model says of itself in the registry, and whether it becomes the champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpnas import __version__
from fpnas.report.formats import format_count, format_macs, format_percent, format_seconds
from fpnas.stages.headline import speed_metrics

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext
    from fpnas.storage import Artifact
    from fpnas.training.promotion import Candidate

_CHALLENGER, CHAMPION = "challenger", "champion"
PROMOTION = "promotion"
"""Tag of a version: why it became the champion, or did not."""


def register(
    context: StageContext,
    best: str,
    summary: Mapping[str, Any],
    speed: Mapping[str, Any],
    files: Sequence[Path] = (),
) -> dict[str, Any]:
    """Registers a model, and moves the aliases that the promotion rule gives it.

    Args:
        context: Of the stage; its configuration has the name.
        best: Role of the model.
        summary: See :meth:`fpnas.stages.reporting.Findings.summary`.
        speed: From :func:`fpnas.stages.measuring.measure_model`.
        files: Other formats of the model, stored beside it.

    Returns:
        Name, version, aliases and address, and the verdict with its reason.

    Raises:
        ServiceDownError: The registry does not answer.
    """
    from fpnas.stages.tracked import ask_mlflow

    return ask_mlflow(context, lambda: _register(context, best, summary, speed, files))


def _register(
    context: StageContext,
    best: str,
    summary: Mapping[str, Any],
    speed: Mapping[str, Any],
    files: Sequence[Path],
) -> dict[str, Any]:
    import numpy as np

    from fpnas import registry, tracking
    from fpnas.networks.network import Classifier
    from fpnas.stages.training import load_model

    place = tracking.initialise()
    name: str = context.config.name
    network, info = load_model(context.inputs[best])
    tags = _tags(context, best, summary, speed)
    champion = registry.version_with_alias(place, name, CHAMPION)
    promoted, reason = verdict(tags, None if champion is None else champion.tags)
    size = info["input_size"]
    registered = registry.register_model(
        place,
        context.tracking.run_id,
        Classifier(network, info["mean"], info["std"]).eval(),
        name=name,
        input_example=np.zeros((2, 3, size, size), dtype=np.float32),
        digest=context.inputs[best].digest,
        tags={**tags, PROMOTION: reason},
        description=description(name, summary, tags),
        aliases=(_CHALLENGER, CHAMPION) if promoted else (_CHALLENGER,),
        files=files,
    )
    return {
        "name": registered.name,
        "version": registered.version,
        "aliases": list(registered.aliases),
        "uri": registered.uri,
        "promoted": promoted,
        "reason": reason,
    }


def _tags(
    context: StageContext, best: str, summary: Mapping[str, Any], speed: Mapping[str, Any]
) -> dict[str, str]:
    from fpnas.registry import MODEL_DIGEST
    from fpnas.stages.fingerprint import fingerprint_of

    model: Artifact = context.inputs[best]
    scores = summary[{"trained": "train", "distilled": "distill"}[best]]
    tags = {
        **{name: summary["architecture"][name] for name in ("macs", "params")},
        "architecture": summary["architecture"]["string"],
        "architecture_sha256": summary["architecture"]["sha256"],
        "top1": scores["top1"],
        "top5": scores["top5"],
        "calibration_error": scores["calibration_error"],
        "num_val_images": scores["num_images"],
        "space": context.info.space,
        "model": context.info.model,
        "profile": context.info.profile,
        "dataset_digest": context.inputs["dataset"].digest,
        MODEL_DIGEST: model.digest,
        "fpnas_version": __version__,
        "code_version": model.manifest["code_version"],
        "run": context.info.run_id,
        "trained_by": best,
        **{name: f"{value:.4g}" for name, value in speed_metrics(speed).items()},
        "total_seconds": round(sum(a.bill.get("seconds", 0.0) for a in context.inputs.values()), 1),
        **fingerprint_of(context.inputs).tags(),
    }
    search = summary["search"]
    if search:
        names = ("strategy", "num_samples", "num_forwards", "num_backwards")
        tags |= {f"search_{name.removeprefix('search_')}": search[name] for name in names}
        seconds = [context.inputs[role].bill.get("seconds", 0.0) for role in ("coarse", "fine")]
        tags["search_seconds"] = round(sum(seconds), 1)
    return {key: str(value) for key, value in tags.items()}


def verdict(tags: Mapping[str, str], champion: Mapping[str, str] | None) -> tuple[bool, str]:
    """Whether a version becomes the champion, and why.

    Args:
        tags: Of the new version.
        champion: Tags of the version that is the champion now; None without one.
    """
    from fpnas.registry import MODEL_DIGEST
    from fpnas.training.promotion import promotes

    if champion is None:
        return promotes(candidate(tags), None)
    if champion.get(MODEL_DIGEST) == tags[MODEL_DIGEST]:
        return True, "it is the champion already"
    if not set(_COMPARED) <= champion.keys():
        return False, "the champion was made elsewhere and says nothing of its accuracy"
    return promotes(candidate(tags), candidate(champion))


_COMPARED = ("top1", "macs", "num_val_images", "dataset_digest")


def candidate(tags: Mapping[str, str]) -> Candidate:
    """What the promotion rule looks at, from the tags of a version."""
    from fpnas.training.promotion import Candidate

    top1, macs, num_images, dataset = (tags[name] for name in _COMPARED)
    return Candidate(float(top1), int(macs), int(num_images), dataset)


def description(name: str, summary: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """A version's page in the registry, as Markdown."""
    architecture, search = summary["architecture"], summary["search"]
    budget = format_macs(architecture["target_macs"])
    rows = {
        "top-1, top-5": f"{format_percent(float(tags['top1']))}, "
        f"{format_percent(float(tags['top5']))} of {tags['num_val_images']} validation pictures",
        "calibration error": format_percent(float(tags["calibration_error"])),
        "MACs": f"{format_macs(architecture['macs'])} of {budget}",
        "parameters": format_count(architecture["params"]),
        "latency, batch 1": f"{tags['latency_ms']} ms in torch on the CPU that it was made on",
    }
    if search:
        rows["search"] = (
            f"{search['strategy']}, {format_count(search['num_samples'])} architectures in "
            f"{format_seconds(float(tags['search_seconds']))}"
        )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""An image classifier made by FP-NAS in the space {tags["space"]}.
Run: `{tags["run"]}`.

`{architecture["string"]}`

| | |
|---|---|
{table}

It takes float32 pictures of shape (B, 3, S, S) with values from 0 to 1:

```python
import mlflow

model = mlflow.pytorch.load_model("models:/{name}@{_CHALLENGER}")
logits = model(images)
```
"""
