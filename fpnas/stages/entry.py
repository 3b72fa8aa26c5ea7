"""The process of a stage: how a component's container or subprocess comes to run it."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

from fpnas.errors import FpnasError, StoppedError
from fpnas.stages.base import ALL_STAGES, RunInfo
from fpnas.stages.events import Events
from fpnas.stages.train_job import perform
from fpnas.storage import connect

LOG_DIRECTORY = "FPNAS_LOG_DIRECTORY"
"""Environment variable: where a stage puts its log file; without it logs go to stderr."""

ENGINE_PIPE = "FPNAS_ENGINE_PIPE"
"""Environment variable: the named pipe of the engine (:mod:`pipelines.lifeline`). A byte asks this
process to stop; at its end the engine is gone. Without it the stage has no engine."""


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
    _obey_engine()
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


def _obey_engine() -> None:
    """Stops this process when the engine says so, and ends it when the engine is gone.

    A new engine may start the same stage: two of them must not work side by side.
    """
    path = os.environ.get(ENGINE_PIPE)
    if not path:
        return
    # Without waiting for the engine to open its end: it may be gone.
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)

    def obey() -> None:
        while True:
            try:
                said = os.read(pipe, 1)
            except BlockingIOError:
                waiting.poll()
                continue
            if not said:
                os._exit(1)
            # The first process of a container ignores signals that nothing handles.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                os._exit(StoppedError.exit_status)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=obey, name="engine", daemon=True).start()
