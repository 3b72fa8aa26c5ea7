"""MLflow's model registry: a trained network as a version with tags and aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpnas.tracking import Tracking, connect_client

if TYPE_CHECKING:
    import numpy as np
    import torch

# torch.export cannot keep the batch size variable when the example's is 1.
_MIN_EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a model in MLflow's registry, and where its files are."""

    name: str
    version: int
    aliases: tuple[str, ...]
    uri: str


def alias_tags(tracking: Tracking, name: str, alias: str) -> dict[str, str] | None:
    """Returns the tags of the model version that has an alias, or None when none has it."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(connect_client(tracking.uri)().get_model_version_by_alias(name, alias).tags)
    except MlflowException as error:
        missing = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if error.error_code in missing:
            return None
        raise


def register_model(
    tracking: Tracking,
    run_id: str,
    model: torch.nn.Module,
    *,
    name: str,
    input_example: np.ndarray[Any, Any],
    tags: Mapping[str, str] | None = None,
    aliases: Sequence[str] = (),
) -> RegisteredModel:
    """Logs a model to a run, without pickle, and registers it as a new version.

    Args:
        tracking: Where.
        run_id: The run that the model belongs to.
        model: Takes one float tensor. It is left in evaluation mode, on the CPU.
        name: Its name in the registry.
        input_example: Images of shape (B, 3, H, W) with B >= 2; B stays variable.
        tags: Tags of the version, such as its cost and accuracy.
        aliases: Such as ``champion``; moved here from the version that had them.

    Returns:
        The new version.

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
    status = client.get_run(run_id).info.status
    info = _log_model(tracking, run_id, model.cpu().eval(), name, input_example)
    client.update_run(run_id, status=status)
    version = str(info.registered_model_version)
    for key, value in (tags or {}).items():
        client.set_model_version_tag(name, version, key, str(value))
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version)
    return RegisteredModel(name, int(version), tuple(aliases), info.model_uri)


def _log_model(
    tracking: Tracking,
    run_id: str,
    model: torch.nn.Module,
    name: str,
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
            registered_model_name=name,
            signature=infer_signature(input_example, output),
            input_example=input_example,
            serialization_format="pt2",
            # Found by importing the model in a fresh process otherwise, which takes 8 s.
            pip_requirements=[
                f"torch=={torch.__version__.partition('+')[0]}",
                f"mlflow=={mlflow.__version__}",
            ],
        )
