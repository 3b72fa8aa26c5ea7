"""The last stage of a run on its own: what finishes a run whose registry was away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fpnas.errors import InputError, closest
from fpnas.stages.base import MAKERS, STAGES, RunInfo, execute
from fpnas.storage import connect, home_directory
from pipelines.files import write_json
from pipelines.outcomes import Outcome
from pipelines.run import only_one, services, summarize


def register_run(name: str) -> dict[str, Any]:
    """Registers the model of a run whose stages before are finished.

    It takes the artifacts that the run has made, also when the code has changed since. A model
    that is in the registry already is found there. With another ``MLFLOW_TRACKING_URI`` than the
    run had, it is registered there as well.

    Args:
        name: Of the run.

    Returns:
        The JSON document of ``fpnas run --json``.

    Raises:
        InputError: No such run, or one that has not come as far.
        ServiceDownError: MLflow does not answer.
    """
    home = home_directory()
    directory = home / "runs" / name
    if not (directory / "run.json").is_file():
        known = sorted(path.parent.name for path in directory.parent.glob("*/run.json"))
        raise InputError(
            "RUN",
            name,
            "is not a run on this machine",
            legal=", ".join(known) or "none",
            fix=closest(name, known) if known else "start one: fpnas run",
        )
    stored = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    info = RunInfo.model_validate(stored["info"])
    if info.kind == "baseline":
        raise InputError("RUN", name, "is a baseline, which is not registered", fix="name a search")
    stage = STAGES["register"]
    config = stage.config_type.parse(stored["configs"]["register"], "register")
    events = directory / "events.jsonl"
    with only_one(directory), services(home):
        outcomes = _outcomes(events)
        unfinished = [
            outcome.name
            for outcome in outcomes.values()
            if outcome.name != stage.name and outcome.artifact is None
        ]
        if unfinished:
            raise InputError(
                "RUN",
                name,
                f"has not finished its stage {unfinished[0]}",
                fix=f"fpnas run --resume {name}",
            )
        store = connect()
        store.check()
        inputs = {role: store.open(outcomes[MAKERS[role]].artifact or "") for role in stage.inputs}
        started = time.monotonic()
        artifact, cached = execute(stage, config, info, inputs, store)
        outcomes[stage.name] = Outcome(
            stage.name,
            status="finished",
            cached=cached,
            artifact=artifact.uri,
            elapsed_seconds=time.monotonic() - started,
        )
        result = summarize(info, outcomes, store, directory)
        write_json(directory / "result.json", result)
    return result


def _outcomes(events: Path) -> dict[str, Outcome]:
    """What became of the stages, from what they have said of themselves."""
    outcomes = {name: Outcome(name) for name in STAGES}
    if events.is_file():
        for line in events.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            outcomes[event["stage"]].update(event)
    return outcomes
