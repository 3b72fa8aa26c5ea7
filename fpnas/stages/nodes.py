"""A pod of a TrainJob: starts its share of a stage's processes, which find those of the others.

Trainer tells every pod how many there are and where the first one is (``PET_*``). One agent of
PyTorch's elastic launcher a pod, which is torchrun's, joins the rendezvous there and starts the
pod's processes; rank 0 runs the stage and writes, the others compute. A process that fails ends
all: the job is started again as a whole, and goes on from the last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from fpnas.errors import run_command

JOB = "FPNAS_STAGE_JOB"
"""Environment variable: the stage, its configuration, its run and its inputs, as JSON."""

_STOPPED = 75
_GATHER_SECONDS = 1800
"""How long a pod waits for the others, whose nodes may have to fetch a large image first."""


def gather(environ: Mapping[str, str]) -> int:
    """Joins the other pods, and starts the processes of this one.

    Args:
        environ: ``PET_NNODES``, ``PET_NPROC_PER_NODE``, ``PET_NODE_RANK``, ``PET_MASTER_ADDR`` and
            ``PET_MASTER_PORT``.

    Returns:
        The exit status: 0, that of the process that failed, or 75 when a signal came.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    nodes, processes = int(environ["PET_NNODES"]), int(environ["PET_NPROC_PER_NODE"])
    address = environ["PET_MASTER_ADDR"]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    launch = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=address,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{address}:{environ['PET_MASTER_PORT']}",
        rdzv_configs={
            # The first pod's name may not be resolved yet when it starts, so it is not asked for.
            "is_host": environ["PET_NODE_RANK"] == "0",
            "read_timeout": _GATHER_SECONDS,
            "join_timeout": _GATHER_SECONDS,
        },
        max_restarts=0,
    )
    try:
        elastic_launch(launch, sys.executable)("-m", "fpnas.stages.nodes")
    except ChildFailedError as error:
        return exit_status(failure.exitcode for failure in error.failures.values())
    except SignalException:
        return _STOPPED
    return 0


def exit_status(statuses: Iterable[int]) -> int:
    """The status of a pod whose processes failed: bad input first, then what can be resumed."""
    found = set(statuses)
    return next((status for status in (2, _STOPPED) if status in found), 1)


def work(job: Mapping[str, Any]) -> None:
    """Runs a stage as one of its processes.

    Raises:
        FpnasError: As :func:`fpnas.stages.base.execute`.
    """
    from fpnas.stages.base import ALL_STAGES, RunInfo, execute
    from fpnas.stages.ranks import follow
    from fpnas.storage import connect

    if int(os.environ["RANK"]) > 0:
        follow(job["stage"], job["config"], job["info"], job["inputs"])
        return
    stage, store = ALL_STAGES[job["stage"]], connect()
    config = stage.config_type.parse(job["config"], stage.name)
    inputs = {role: store.open(uri) for role, uri in job["inputs"].items()}
    execute(stage, config, RunInfo.model_validate(job["info"]), inputs, store)


def main() -> NoReturn:
    """Entry point of a pod, and of each process that it starts."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    if "RANK" not in os.environ:
        raise SystemExit(gather(os.environ))
    run_command(lambda: work(json.loads(os.environ[JOB])), f"rank {os.environ['RANK']}: ")
    raise SystemExit(0)


if __name__ == "__main__":
    main()
