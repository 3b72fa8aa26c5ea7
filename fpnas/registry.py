"""MLflow's model registry: a trained network as a version with tags, a description and aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpnas.tracking import Tracking, connect_client

if TYPE_CHECKING:
    import numpy as np
    import torch

# torch.export cannot keep the batch size variable when the example's is 1.
_MIN_EXAMPLE_BATCH = 2

MODEL_DIGEST = "model_digest"
"""Tag of a version: what tells whether a model has been registered before."""

FILES_FOLDER = "exported"
"""Folder of a run's artifacts with a model's other formats."""


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a model in MLflow's registry, and where its files are."""

    name: str
    version: int
    aliases: tuple[str, ...]
    uri: str


@dataclass(frozen=True)
class ModelVersion:
    """What a version says of itself: its tags, and the run that it was logged to."""

    version: int
    tags: Mapping[str, str]
    run_id: str


def version_with_alias(tracking: Tracking, name: str, alias: str) -> ModelVersion | None:
    """Returns the model version that has an alias, or None when none has it."""
    from mlflow.exceptions import MlflowException

    try:
        return _version(connect_client(tracking.uri)().get_model_version_by_alias(name, alias))
    except MlflowException as error:
        missing = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if error.error_code in missing:
            return None
        raise


def version_with_tag(tracking: Tracking, name: str, key: str, value: str) -> ModelVersion | None:
    """Returns the newest version of a model with a tag, or None."""
    found = _find_version(connect_client(tracking.uri)(), name, key, value)
    return _version(found) if found is not None else None


def _version(found: Any) -> ModelVersion:
    return ModelVersion(int(found.version), dict(found.tags), str(found.run_id))


def register_model(
    tracking: Tracking,
    run_id: str,
    model: torch.nn.Module,
    *,
    name: str,
    input_example: np.ndarray[Any, Any],
    digest: str,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    aliases: Sequence[str] = (),
    files: Sequence[Path] = (),
) -> RegisteredModel:
    """Logs a model to a run, without pickle, and registers it as a version.

    A model that is registered already, by its digest, gets no second version: its tags, its
    description and its aliases are brought up to date. So a try that failed can be repeated.

    Args:
        tracking: Where.
        run_id: The run that the model belongs to.
        model: Takes one float tensor. It is left in evaluation mode, on the CPU.
        name: Its name in the registry.
        input_example: Images of shape (B, 3, H, W) with B >= 2; B stays variable.
        digest: Identifies the model; becomes the tag :data:`MODEL_DIGEST`.
        tags: Tags of the version, such as its cost and accuracy.
        description: Of the version, Markdown.
        aliases: Such as ``champion``; moved here from the version that had them.
        files: Other formats of the model; they go to the run's folder :data:`FILES_FOLDER`.

    Returns:
        The version, new or found.

    Raises:
        ValueError: If the example's batch is smaller than 2.
        mlflow.exceptions.MlflowException: If MLflow fails.
    """
    if len(input_example) < _MIN_EXAMPLE_BATCH:
        raise ValueError(
            f"input_example has a batch of {len(input_example)}; legal: {_MIN_EXAMPLE_BATCH} or "
            "more; fix: repeat the example"
        )
    client = connect_client(tracking.uri)()
    all_tags = {key: str(value) for key, value in {**(tags or {}), MODEL_DIGEST: digest}.items()}
    for path in files:
        client.log_artifact(run_id, str(path), FILES_FOLDER)
    found = _find_version(client, name, MODEL_DIGEST, digest)
    if found is None:
        status = client.get_run(run_id).info.status
        info = _log_model(tracking, run_id, model.cpu().eval(), input_example)
        client.update_run(run_id, status=status)
        _make_name(client, name)
        # With its tags at once: a version without its digest would not be found again.
        found = client.create_model_version(
            name,
            info.model_uri,
            run_id,
            tags=all_tags,
            description=description,
            model_id=info.model_id,
        )
    else:
        for key, value in all_tags.items():
            client.set_model_version_tag(name, found.version, key, value)
        client.update_model_version(name, found.version, description)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, found.version)
    return RegisteredModel(name, int(found.version), tuple(aliases), str(found.source))


def _find_version(client: Any, name: str, key: str, value: str) -> Any | None:
    found = client.search_model_versions(f"name = '{name}' and tags.{key} = '{value}'")
    return max(found, key=lambda version: int(version.version), default=None)


def _make_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise


def _log_model(
    tracking: Tracking,
    run_id: str,
    model: torch.nn.Module,
    input_example: np.ndarray[Any, Any],
) -> Any:
    import mlflow
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    with torch.no_grad():
        output = model(torch.from_numpy(input_example)).numpy()
    mlflow.set_tracking_uri(tracking.uri)
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        return mlflow.pytorch.log_model(
            model,
            name="model",
            signature=infer_signature(input_example, output),
            input_example=input_example,
            serialization_format="pt2",
            # Found by importing the model in a fresh process otherwise, which takes 8 s.
            pip_requirements=[
                f"torch=={torch.__version__.partition('+')[0]}",
                f"mlflow=={mlflow.__version__}",
            ],
        )
