"""Stages in processes of their own, over a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib

import pytest
import yaml

from fpnas.services import local_s3
from fpnas.space import parse_space
from fpnas.stages.config import SpaceConfig
from tests.pipelines.conftest import SPACE


class Bench:
    """Runs single stages in processes of their own."""

    def __init__(self, folder, environ):
        self.folder, self.environ = folder, environ
        info = {"run_id": "r", "space": "nano", "model": "n0", "profile": "p", "seed": 0}
        (folder / "run.json").write_text(json.dumps(info))

    def start(self, stage, config, torchrun=0, environ=None, **inputs):
        """Starts a stage, by torchrun when given a number of ranks."""
        text = json.dumps(config)
        path = self.folder / f"{stage}-{zlib.crc32(text.encode()):x}.json"
        path.write_text(text)
        words = [word for role, uri in inputs.items() for word in ("--input", f"{role}={uri}")]
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}")
        # Without the two dashes torchrun takes --run for one of its own options.
        program = ("-m", "--", "fpnas.cli") if torchrun else ("-m", "fpnas.cli")
        command = [sys.executable, *(launcher if torchrun else ()), *program]
        command += ["stage", stage, "--json", *words]
        return subprocess.Popen(
            [*command, "--config", str(path), "--run", str(self.folder / "run.json")],
            env={**self.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, stage, config, torchrun=0, environ=None, **inputs):
        """Runs a stage to its end; the address of its artifact."""
        process = self.start(stage, config, torchrun, environ, **inputs)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return json.loads(output)["uri"]


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    hidden = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "AWS_", "FPNAS_")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environ["FPNAS_HOME"] = str(folder)
    with local_s3(folder, environ=environ) as service:
        environ |= service.environment
        yield Bench(folder, environ)


@pytest.fixture(scope="session")
def dataset(bench):
    return bench.run("prepare", {"data": "digits", "max_images_per_class": 20})


def search_config(**options):
    """The configuration of a short coarse search."""
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


@pytest.fixture(scope="session")
def architecture(bench, dataset):
    found = bench.run("coarse", search_config(), dataset=dataset)
    return bench.run("decode", {}, search_state=found)
