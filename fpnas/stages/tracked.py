"""The MLflow runs of the pipeline and of its stages, and waiting for MLflow when it is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fpnas.errors import InputError, ServiceDownError, StoppedError

if TYPE_CHECKING:
    from fpnas.stages.base import RunInfo, Stage, StageContext
    from fpnas.stages.config import StageConfig
    from fpnas.tracking import Run

_LOG = logging.getLogger("fpnas")
_LONGEST_PAUSE_SECONDS = 15.0
T = TypeVar("T")


@contextmanager
def tracked(
    stage: Stage,
    config: StageConfig,
    info: RunInfo,
    key: str,
    stop_requested: Callable[[], bool],
) -> Iterator[Run]:
    """The stage's MLflow run, nested under the pipeline's; resumed when it was cut short."""
    tags = {"fpnas.run_id": info.run_id, "fpnas.stage": stage.name, "fpnas.key": key}
    run = patiently(
        lambda: _nested_run(stage, info, tags),
        config.runtime.tracking_seconds,
        stage.finish_command(info),
        stop_requested,
    )
    run.log_params(config.model_dump(mode="json", exclude={"space": {"definition"}}))
    try:
        yield run
    except StoppedError:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()


def _nested_run(stage: Stage, info: RunInfo, tags: Mapping[str, str]) -> Run:
    from fpnas import tracking

    place = tracking.initialise()
    return tracking.Run.start_or_resume(
        place,
        name=stage.name,
        run_id=tracking.find_run(place, tags),
        parent_run_id=parent_run(info).run_id,
        tags=tags,
    )


def patiently(
    call: Callable[[], T],
    seconds: float,
    finish_command: str,
    stop_requested: Callable[[], bool] = lambda: False,
) -> T:
    """Calls MLflow until it answers.

    Hours of work may stand before the call, and a server that is restarted must not cost them.

    Args:
        call: Can be repeated.
        seconds: How long to go on trying.
        finish_command: What finishes the run when MLflow answers again.
        stop_requested: Whether to give up waiting.

    Raises:
        ServiceDownError: It did not answer.
        StoppedError: A signal asked to stop while waiting.
        InputError: Something that waiting does not mend, such as a deleted experiment.
    """
    deadline = time.monotonic() + seconds
    pause = 1.0
    while True:
        try:
            return call()
        except Exception as error:  # MLflow raises errors of many libraries
            if isinstance(error, InputError) and error.field != "MLFLOW_TRACKING_URI":
                raise
            if time.monotonic() + pause > deadline:
                raise ServiceDownError(
                    f"MLflow does not do its part, after {seconds:g} s of trying: {error}\n"
                    "What the stages before have made is safe in the storage. When MLflow answers "
                    f"again, `{finish_command}` finishes the run."
                ) from error
            _LOG.warning("MLflow does not do its part (%s); again in %g s", error, pause)
        until = time.monotonic() + pause
        while time.monotonic() < until:
            if stop_requested():
                raise StoppedError("stopped by a signal while waiting for MLflow")
            time.sleep(0.1)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def ask_mlflow(context: StageContext, call: Callable[[], T]) -> T:
    """Calls MLflow until it answers, as long as a stage is told to; see :func:`patiently`."""
    return patiently(
        call,
        context.config.runtime.tracking_seconds,
        context.stage.finish_command(context.info),
        context.stop_requested,
    )


def parent_run(info: RunInfo) -> Run:
    """The pipeline's MLflow run, made by whoever asks first."""
    from fpnas import tracking

    place = tracking.initialise()
    tags = {"fpnas.run_id": info.run_id, "fpnas.kind": info.kind}
    details = {
        "fpnas.space": info.space,
        "fpnas.model": info.model,
        "fpnas.profile": info.profile,
        "fpnas.seed": str(info.seed),
    }
    found = tracking.find_run(place, tags)
    return tracking.Run.start_or_resume(
        place, name=info.run_id, run_id=found, tags={**tags, **details}
    )


def parent_run_id(info: RunInfo) -> str:
    """The id of the pipeline's MLflow run."""
    from fpnas import tracking

    tags = {"fpnas.run_id": info.run_id, "fpnas.kind": info.kind}
    return tracking.find_run(tracking.initialise(), tags) or parent_run(info).run_id
