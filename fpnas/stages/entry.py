"""The process of a stage: how a component's container or subprocess comes to run it."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from fpnas.errors import FpnasError
from fpnas.stages.base import ALL_STAGES, ENGINE_PID, RunInfo
from fpnas.stages.events import Events
from fpnas.stages.train_job import perform
from fpnas.storage import connect

LOG_DIRECTORY = "FPNAS_LOG_DIRECTORY"
"""Environment variable: where a stage puts its log file; without it logs go to stderr."""


def main(name: str, config: str, info: str, inputs: Mapping[str, str], output: str) -> None:
    """Entry point of a component: reads references to artifacts, writes a reference to one.

    A reference is a small JSON file with the address and the digest; the artifact itself goes
    through S3, where a stage can write checkpoints and a reader verifies.

    Args:
        name: The stage.
        config: Its configuration as JSON.
        info: The :class:`RunInfo` as JSON.
        inputs: Paths of references, by role.
        output: Path of the reference to write.
    """
    stage = ALL_STAGES[name]
    events = Events(name)
    log = _redirect_output(name)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    _end_with_engine()
    events.write("start", pid=os.getpid(), log=str(log) if log else "")
    try:
        store = connect()
        parsed = stage.config_type.parse(json.loads(config), name)
        artifacts = {
            role: store.open(json.loads(Path(path).read_text(encoding="utf-8"))["uri"])
            for role, path in inputs.items()
        }
        artifact, _ = perform(stage, parsed, RunInfo.model_validate_json(info), artifacts, store)
    except BaseException as error:
        traceback.print_exc()
        status = error.exit_status if isinstance(error, FpnasError) else 1
        cause = str(error) or type(error).__name__
        if not isinstance(error, FpnasError):
            cause = f"{type(error).__name__}: {cause}"
        events.write("end", status="failed", exit_status=status, cause=cause)
        raise SystemExit(status) from error
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"uri": artifact.uri, "digest": artifact.digest}), encoding="utf-8")


def _redirect_output(name: str) -> Path | None:
    """Sends everything that this process prints, from C as well, to the stage's log file."""
    directory = os.environ.get(LOG_DIRECTORY)
    if not directory:
        return None
    path = Path(directory) / f"{name}.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return path


def _end_with_engine() -> None:
    """Ends this process when the engine is gone, killed say: a new one may start the same stage."""
    engine = os.environ.get(ENGINE_PID)
    if not engine:
        return

    def watch() -> None:
        while True:
            time.sleep(0.1)
            try:
                os.kill(int(engine), 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, name="engine", daemon=True).start()
