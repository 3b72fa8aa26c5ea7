"""The processes of one stage: a search or a training run that shares its work with companions.

The stage's own process is rank 0: it alone writes checkpoints, artifacts and MLflow runs. Its
companions compute. They are started here, or by torchrun (``torchrun --nproc-per-node N -m --
fpnas.cli stage coarse ...``).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from fpnas.parallel import Ranks
    from fpnas.stages.base import RunInfo, Stage, StageContext
    from fpnas.stages.config import StageConfig
    from fpnas.storage import Artifact

_GRACE_SECONDS = 5


class NullRun:
    """Takes what a companion would log or write, and drops it: rank 0 does both."""

    def __init__(self) -> None:
        self.bill: dict[str, Any] = {}

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None


@contextmanager
def opened(context: StageContext, num_processes: int, device: str) -> Iterator[Ranks]:
    """Joins the ranks of this stage, and starts the companions when torchrun has not.

    Raises:
        RanksError: A companion ended before this block did.
    """
    from fpnas.parallel import Ranks

    if num_processes == 1 or "WORLD_SIZE" in os.environ:
        with _left_at_the_end(Ranks.from_environment(device)) as ranks:
            yield ranks
        return
    before = dict(os.environ)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        os.environ.update(_environment(0, num_processes, _free_port()))
        processes += [
            _companion(context, {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(1, num_processes)
        ]
        with _left_at_the_end(Ranks.from_environment(device)) as ranks, _threads(num_processes):
            yield ranks
    finally:
        os.environ.clear()
        os.environ.update(before)
        for process in processes:
            _end(process)


def rank_device(device: str) -> str:
    """The GPU of this rank, when the ranks have one each."""
    import torch

    if device != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size}
    ranks = {"RANK": rank, "LOCAL_RANK": rank}
    threads = {"OMP_NUM_THREADS": max(1, (os.cpu_count() or 1) // size)}
    return {name: str(value) for name, value in {**names, **ranks, **threads}.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _companion(context: StageContext, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    job = job_of(context.stage, context.config, context.info, context.inputs)
    process = subprocess.Popen(
        [sys.executable, "-m", "fpnas.stages.ranks"],
        env=dict(environ),
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    return process


def job_of(
    stage: Stage, config: StageConfig, info: RunInfo, inputs: Mapping[str, Artifact]
) -> dict[str, Any]:
    """What another process needs to run a stage, as JSON has it."""
    return {
        "stage": stage.name,
        "config": config.model_dump(mode="json"),
        "info": info.model_dump(mode="json"),
        "inputs": {role: artifact.uri for role, artifact in inputs.items()},
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _threads(num_processes: int) -> Iterator[None]:
    """The cores are shared by the ranks."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // num_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _left_at_the_end(ranks: Ranks) -> Iterator[Ranks]:
    try:
        yield ranks
    finally:
        ranks.leave()


def follow(stage_name: str, config: Any, info: Any, inputs: Mapping[str, str]) -> None:
    """Runs a stage as a companion: everything but the writing.

    Args:
        stage_name: The stage.
        config: Its configuration, as JSON gives it.
        info: The pipeline run, as JSON gives it.
        inputs: Addresses of its artifacts, by role.

    Raises:
        RanksError: Another rank is gone.
        FpnasError: Bad input or a fault.
    """
    from fpnas.stages.base import (
        ALL_STAGES,
        RunInfo,
        StageContext,
        artifact_key,
        checkpoint_slot,
        find_artifact,
    )
    from fpnas.stages.events import Events
    from fpnas.storage import connect

    stage, store = ALL_STAGES[stage_name], connect()
    parsed = stage.config_type.parse(config, stage_name)
    artifacts = {role: store.open(uri) for role, uri in inputs.items()}
    key = artifact_key(stage, parsed, artifacts, store)
    if find_artifact(store, key) is not None:
        return  # rank 0 finds it too
    # Rank 0 says when to stop: it writes a checkpoint first, which needs the others.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nothing: Any = NullRun()
    context = StageContext(
        stage,
        parsed,
        RunInfo.model_validate(info),
        store,
        artifacts,
        nothing,
        checkpoint_slot(store, key),
        nothing,
        Events(stage_name, silent=True),
        lambda: False,
    )
    stage.run(context)


def main() -> NoReturn:
    """Entry point of a companion: the job is JSON on standard input."""
    from fpnas.errors import run_command

    job = json.load(sys.stdin)
    run_command(
        lambda: follow(job["stage"], job["config"], job["info"], job["inputs"]),
        f"rank {os.environ['RANK']}: ",
    )
    raise SystemExit(0)


if __name__ == "__main__":
    main()
