"""The pods of a TrainJob: two agents that meet over c10d, stopped and started again."""

from __future__ import annotations

import json
import signal
import time

import pytest

from fpnas.stages.events import STATUS_FILE
from fpnas.stages.nodes import JOB, exit_status

from .conftest import search_config
from .trainer_stub import start_nodes


@pytest.mark.parametrize(
    ("statuses", "status"), [((75, 2), 2), ((1, 75), 75), ((1, -9), 1), ((-15,), 1)]
)
def test_bad_input_counts_before_a_stop_and_a_stop_before_a_crash(statuses, status):
    assert exit_status(iter(statuses)) == status


def test_a_stop_writes_a_checkpoint_from_which_the_next_job_goes_on(bench, dataset, tmp_path):
    config = search_config(num_processes=2, search={"num_steps": 100_000})
    config["runtime"]["checkpoint_seconds"] = 1000  # so that none is there but the one at the stop
    info = json.loads((bench.folder / "run.json").read_text())
    work = {"stage": "coarse", "config": config, "info": info, "inputs": {"dataset": dataset}}
    trainer = {
        "command": ["python", "-m", "fpnas.stages.nodes"],
        "numNodes": 2,
        "numProcPerNode": 1,
        "env": [{"name": JOB, "value": json.dumps(work)}],
    }
    events = tmp_path / "events.jsonl"
    events.touch()
    environ = {**bench.environ, STATUS_FILE: str(events)}

    def steps():
        lines = map(json.loads, events.read_text().splitlines())
        return [line["done"] for line in lines if line["event"] == "progress"]

    nodes = start_nodes({"spec": {"trainer": trainer}}, environ)
    try:
        wait_for(lambda: max(steps(), default=0) >= 5, nodes)
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        outputs = [node.communicate(timeout=600)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [75, 75], outputs
        before = steps()
        nodes = start_nodes({"spec": {"trainer": trainer}}, environ)
        wait_for(lambda: len(steps()) > len(before), nodes)
        assert steps()[len(before)] > before[-1]
    finally:
        for node in nodes:
            node.terminate()
            node.communicate(timeout=600)


def wait_for(condition, nodes):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        assert all(node.poll() is None for node in nodes), [n.communicate()[0] for n in nodes]
        time.sleep(0.05)
