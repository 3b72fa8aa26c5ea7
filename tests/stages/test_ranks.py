"""A search stage whose processes share the sampled architectures, over real S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from fpnas.services import local_s3
from fpnas.space import parse_space
from fpnas.stages.config import SpaceConfig
from fpnas.storage import connect
from tests.pipelines.conftest import SPACE


class Bench:
    """Runs single stages in processes of their own."""

    def __init__(self, folder, environ):
        self.folder, self.environ = folder, environ
        info = {"run_id": "r", "space": "nano", "model": "n0", "profile": "p", "seed": 0}
        (folder / "run.json").write_text(json.dumps(info))

    def start(self, stage, config, torchrun=0, **inputs):
        path = self.folder / f"{stage}.json"
        path.write_text(json.dumps(config))
        words = [word for role, uri in inputs.items() for word in ("--input", f"{role}={uri}")]
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}")
        # Without the two dashes torchrun takes --run for one of its own options.
        program = ("-m", "--", "fpnas.cli") if torchrun else ("-m", "fpnas.cli")
        command = [sys.executable, *(launcher if torchrun else ()), *program]
        command += ["stage", stage, "--json", *words]
        return subprocess.Popen(
            [*command, "--config", str(path), "--run", str(self.folder / "run.json")],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, stage, config, torchrun=0, **inputs):
        process = self.start(stage, config, torchrun, **inputs)
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return json.loads(output)["uri"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    hidden = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "AWS_", "FPNAS_")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environ["FPNAS_HOME"] = str(folder)
    with local_s3(folder, environ=environ) as service:
        environ |= service.environment
        yield Bench(folder, environ)


@pytest.fixture(scope="module")
def dataset(bench):
    return bench.run("prepare", {"data": "digits", "max_images_per_class": 20})


def config(**options):
    space = parse_space(yaml.safe_load(SPACE), "here").open()
    place = SpaceConfig(
        definition=yaml.safe_load(SPACE),
        model=space.model,
        input_size=space.input_size,
        target_macs=space.target_macs,
    )
    search = {"num_steps": 12, "warmup_steps": 2, "sampling_rate": 0.5, **options.pop("search", {})}
    return {
        "space": place.model_dump(mode="json"),
        "batch_size": 16,
        "search": search,
        "runtime": {"checkpoint_seconds": 0},
        **options,
    }


AGAIN = {"architecture_batch_size": 16}


def test_two_processes_find_what_one_finds(bench, dataset):
    store = connect(bench.environ)
    found = []
    # The last one with ranks that torchrun starts; what it says twice makes it another artifact.
    for options, torchrun in (({}, 0), ({"num_processes": 2}, 0), (AGAIN, 2)):
        uri = bench.run("coarse", config(**options), torchrun, dataset=dataset)
        artifact = store.open(uri)
        tensors = artifact.read_tensors("distribution.safetensors")
        found.append((artifact.read_json("search.json"), tensors["logits"]))
    (alone, logits), *others = found
    assert logits.abs().max() > 0.05
    for shared, found_logits in others:
        for name in ("num_steps", "num_samples", "num_backwards"):
            assert shared[name] == alone[name] > 0
        # With the memory of two processes, more graphs are kept and fewer run forward again.
        assert 0 < shared["num_forwards"] <= alone["num_forwards"]
        assert (logits - found_logits).abs().max() < 0.02  # single precision


def test_a_companion_that_dies_stops_the_stage_which_can_be_resumed(bench, dataset):
    long = config(num_processes=2, search={"num_steps": 100_000})
    process = bench.start("coarse", long, dataset=dataset)
    checkpoints = bench.folder / "s3" / "fpnas" / "checkpoints"
    before = set(checkpoints.rglob("*.safetensors"))
    deadline = time.monotonic() + 120
    while set(checkpoints.rglob("*.safetensors")) == before:
        assert time.monotonic() < deadline, "no checkpoint was written"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    (companion,) = [
        child
        for child in psutil.Process(process.pid).children()
        if "fpnas.stages.ranks" in child.cmdline()
    ]
    companion.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "another rank of the search is gone" in errors
    assert set(checkpoints.rglob("*.safetensors")) > before
    again = bench.start("coarse", long, dataset=dataset)
    try:
        for line in again.stderr:
            if "resuming from" in line:
                break
        else:
            pytest.fail("it did not resume")
    finally:
        again.kill()
        again.communicate()
