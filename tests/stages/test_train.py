"""The stage that trains, on one process or several, over a real S3 server."""

from __future__ import annotations

import json
import re
import signal
import time

from fpnas.storage import connect

RECIPE = {
    "epochs": 12,
    "batch_size": 4,
    "learning_rate": 0.02,
    "ema_decay": 0.9,
    # Everything that draws random numbers.
    "mixup": 0.2,
    "cutmix": 0.2,
    "dropout": 0.1,
    "stochastic_depth": 0.2,
    "rand_augment_ops": 1,
    "random_erasing": 0.2,
}


def train_config(recipe=RECIPE, **runtime):
    return {"recipe": recipe, "runtime": {"checkpoint_seconds": 0, **runtime}}


class Training:
    """Trains one network, in a storage of its own, so that no earlier result is found."""

    def __init__(self, bench, name, **inputs):
        self.bench, self.inputs = bench, inputs
        self.status = bench.folder / f"{name}.jsonl"
        self.environ = {
            "FPNAS_STORAGE": f"s3://fpnas/{name}",
            "FPNAS_STATUS_FILE": str(self.status),
            "FPNAS_HOME": str(bench.folder / name),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, config, torchrun=0):
        self.status.unlink(missing_ok=True)
        return self.bench.start("train", config, torchrun, self.environ, **self.inputs)

    def finish(self, config, torchrun=0):
        """The artifact, and the log."""
        process = self.start(config, torchrun)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        store = connect({**self.bench.environ, **self.environ})
        return store.open(json.loads(output)["uri"]), errors

    def kill(self, config, share, wait_seconds):
        """Kills it after a share of its steps and some time; returns the step it had reached."""
        process = self.start(config)
        try:
            while process.poll() is None:
                done = self._progress()
                if done is not None and done[0] >= share * done[1]:
                    time.sleep(wait_seconds)
                    break
                time.sleep(0.005)
            assert process.poll() is None, process.communicate()
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        return self._progress()

    def _progress(self):
        """The steps done and in all, of the last report."""
        if not self.status.exists():
            return None
        lines = re.findall(r'"done": (\d+), "total": (\d+)', self.status.read_text())
        return tuple(map(int, lines[-1])) if lines else None


def test_a_run_killed_on_one_process_goes_on_on_two(bench, dataset, architecture):
    training = Training(bench, "more", dataset=dataset, architecture=architecture)
    done, total = training.kill(train_config(), 0.3, 0.0)
    assert done < total
    artifact, errors = training.finish(train_config(num_processes=2))
    assert "resuming from" in errors
    model = artifact.read_json("model.json")
    assert model["evaluation"]["num_images"] == len_of_val(bench, dataset)
    assert model["skipped_steps"] == 0
    history = artifact.fetch("history.parquet")
    assert history.stat().st_size > 0


def test_torchrun_shares_the_steps(bench, dataset, architecture):
    training = Training(bench, "torchrun", dataset=dataset, architecture=architecture)
    artifact, _ = training.finish(train_config({**RECIPE, "epochs": 2}), torchrun=2)
    assert artifact.read_json("model.json")["evaluation"]["num_images"] == len_of_val(
        bench, dataset
    )


def test_too_few_pictures_for_the_processes_are_refused_by_name(bench, dataset, architecture):
    training = Training(bench, "few", dataset=dataset, architecture=architecture)
    process = training.start(train_config(num_processes=3))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "recipe.accumulation=1 cuts the 4 pictures of a step on 3 processes" in errors


def len_of_val(bench, dataset):
    index = connect(bench.environ).open(dataset).read_json("dataset.json")
    return index["counts"]["val"]
