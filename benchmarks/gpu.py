"""Steps and memory of all strategies on one GPU, and a short search on real pictures.

    PYTHONPATH=. python benchmarks/gpu.py [--images FOLDER_OR_ARCHIVE] [--quick] [--output FILE]

Needs torch and what the method layer needs (numpy, pydantic, PyYAML), and Pillow for pictures. At
most eight minutes: a measurement that no time is left for is reported as such. Writes
``results/gpu-<device>.json``. ``--quick`` shrinks everything, to try the script without a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import subprocess
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.architecture import architecture_at, largest_architecture
from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.masked_supernet import MaskedSupernet
from fpnas.networks.network import Network
from fpnas.networks.supernet import Supernet
from fpnas.search.decode import most_probable_within
from fpnas.search.dnas import MaskedEvaluator
from fpnas.search.engine import Engine
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.loop import run_search
from fpnas.search.options import SearchOptions, WeightOptions
from fpnas.search.strategies import build_search
from fpnas.space import SearchSpace, load_space

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 460.0
NAIVE = Engine(merge_equal=False, share_prefixes=False, keep_activations=False)
_STARTED = time.monotonic()


class FixedBatches:
    """Endless batches: the same one again, or slices of a set of pictures in a seeded order."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, device: str) -> None:
        self.images, self.labels, self.device = images, labels, device
        self.batch_size, self.position = batch_size, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = torch.randint(
                len(self.images),
                (self.batch_size,),
                generator=torch.Generator().manual_seed(self.position),
            )
            self.position += 1
            images = self.images[rows].to(self.device).float().div(255).sub(0.45).div(0.25)
            images = images.contiguous(memory_format=torch.channels_last)
            yield images, self.labels[rows].to(self.device)

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Moves to a position."""
        self.position = state["position"]


class Halves:
    """Both halves of a set of pictures; see ``fpnas.search.strategies.Pictures``."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, device: str) -> None:
        self.num_classes, self.device = int(labels.max()) + 1, device
        self._parts = {
            split: FixedBatches(images[start::2], labels[start::2], batch_size, device)
            for split, start in (("weights", 0), ("alpha", 1))
        }

    def batches(self, split: str) -> FixedBatches:
        """Endless batches of a half."""
        return self._parts[split]

    def fixed(self, split: str, num_batches: int) -> list[tuple[Tensor, Tensor]]:
        """The same batches at every call."""
        part = self._parts[split]
        again = FixedBatches(part.images, part.labels, part.batch_size, part.device)
        return [batch for batch, _ in zip(again, range(num_batches), strict=False)]


def measure(step: Callable[[], object], device: str, repeats: int) -> dict[str, Any]:
    """Median seconds and peak memory of a step, after one that warms up."""
    on_gpu = device.startswith("cuda")
    if time.monotonic() - _STARTED > LIMIT_SECONDS:
        return {"skipped": "no time was left"}
    try:
        step()
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"skipped": "out of memory"}
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    return {"seconds": sorted(seconds)[len(seconds) // 2], "peak_mib": round(peak / 2**20)}


def steps(space: SearchSpace, batch_size: int, device: str, repeats: int) -> Iterator[Any]:
    """Every step to be measured, by name, precision and function."""
    num_classes = 100
    images = torch.randint(0, 256, (batch_size, 3, space.input_size, space.input_size))
    labels = torch.arange(batch_size) % num_classes
    halves = Halves(images, labels, batch_size, device)
    distribution = FactorizedDistribution(ChoiceLayout.of(space))
    num_samples = max(1, round(distribution.entropy().item() / 4))
    choices = distribution.sample(num_samples, torch.Generator().manual_seed(0))
    largest = largest_architecture(space)
    batch = next(iter(halves.batches("weights")))
    for precision in ("fp32", "bf16"):
        network = Network(largest, num_classes).to(device)
        network = network.to(memory_format=torch.channels_last)
        yield "largest architecture alone", precision, training_step(network, batch, precision)
        del network
        for name, engine in (
            ("fpnas, naive", NAIVE),
            ("fpnas", Engine()),
            ("fpnas, threshold 1e-3", Engine(negligible_weight=1e-3)),
        ):
            torch.manual_seed(0)
            evaluator = SupernetEvaluator(
                Supernet(space, num_classes).to(device),
                halves.batches("weights"),
                halves.batches("alpha"),
                temperature="ess",
                ess_fraction=0.5,
                **vars(WeightOptions()),
                engine=engine,
                precision=precision,  # type: ignore[arg-type]
            )
            yield f"{name}, K = {num_samples}", precision, both(evaluator, choices)
            if name == "fpnas":
                one = choices[:1]
                yield "uniform training, K = 1", precision, train_only(evaluator, one)
            del evaluator
        masked = MaskedSupernet(space, num_classes).to(device)
        dnas = MaskedEvaluator(
            masked, halves.batches("weights"), halves.batches("alpha"), **vars(WeightOptions())
        )
        gates = distribution.log_probs().detach().exp().to(device)
        yield "dnas", precision, masked_step(dnas, gates, precision, device)
        del masked, dnas


def training_step(network: Network, batch: Any, precision: str) -> Callable[[], None]:
    """A step of SGD on one network."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images, labels = batch

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def both(evaluator: SupernetEvaluator, choices: Tensor) -> Callable[[], None]:
    """A step on the weights and the likelihoods for a step on the distribution."""

    def step() -> None:
        evaluator.train_step(choices, 0.01)
        evaluator.log_likelihood(choices)

    return step


def train_only(evaluator: SupernetEvaluator, choices: Tensor) -> Callable[[], object]:
    """A step on the weights."""
    return lambda: evaluator.train_step(choices, 0.01)


def masked_step(
    dnas: MaskedEvaluator, gates: Tensor, precision: str, device: str
) -> Callable[[], None]:
    """Both steps of the masked supernet."""

    def step() -> None:
        kind = device.partition(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            dnas.weight_step(gates, 0.01)
            dnas.architecture_step(gates)

    return step


def read_pictures(path: Path, size: int) -> tuple[Tensor, Tensor]:
    """Training pictures of a folder or archive in ImageNet layout, uint8 (N, 3, S, S)."""
    from PIL import Image

    classes: dict[str, list[Any]] = defaultdict(list)

    def take(name: str, data: bytes) -> None:
        parts = Path(name).parts
        if "train" in parts and name.lower().endswith((".jpeg", ".jpg", ".png")):
            image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size))
            classes[parts[parts.index("train") + 1]].append(np.asarray(image))

    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                take(str(file), file.read_bytes())
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    take(member.name, archive.extractfile(member).read())  # type: ignore[union-attr]
    arrays = [np.stack(classes[name]) for name in sorted(classes)]
    labels = torch.cat([torch.full((len(a),), n) for n, a in enumerate(arrays)])
    images = torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).contiguous()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


def real_search(path: Path, device: str, num_steps: int) -> dict[str, Any]:
    """Both phases of FP-NAS on `tiny`, short."""
    space = load_space("tiny").open()
    halves = Halves(*read_pictures(path, space.input_size), 128, device)
    costs = CostModel(space, halves.num_classes)
    started = time.monotonic()
    previous = None
    for phase in ("coarse", "fine"):
        options = SearchOptions(
            num_steps=num_steps if phase == "coarse" else num_steps // 2,
            warmup_steps=num_steps // 2 if phase == "coarse" else 0,
            warmup_samples=1,
            learning_rate=0.1 if phase == "coarse" else 0.03,
            architecture_learning_rate=0.1,
        )
        torch.manual_seed(0)
        search = build_search(
            "fpnas",
            phase,  # type: ignore[arg-type]
            costs,
            options,
            pictures=halves,  # type: ignore[arg-type]
            weights=WeightOptions(),
            seed=int(phase == "fine"),
            previous=previous.distribution if previous else None,
        )
        if previous is not None:
            search.evaluator.load_state(previous.evaluator.state())
        run_search(search)
        previous = search
    decoded = most_probable_within(search.distribution, costs, space.target_macs)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "num_steps": num_steps + num_steps // 2,
        "architecture": str(architecture_at(space, decoded.choices.tolist())),
        "macs": decoded.macs,
        "entropy_nats": [
            search.history[0][1],
            search.history[-1][1],
        ],
        "loss": search.history[-1][5],
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="tiny-imagenet-25: a folder or an archive")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.quick:
        parser.error("there is no GPU; --quick tries the script without one")
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    batch_size, size, repeats = (8, 32, 1) if arguments.quick else (128, 224, 5)
    rows = []
    for space_name in ("fbnetv2_f", "sa_expanded"):
        space = load_space(space_name).open(input_size=size)
        alone: dict[str, dict[str, Any]] = {}
        naive: dict[str, dict[str, Any]] = {}
        for what, precision, step in steps(space, batch_size, device, repeats):
            row = measure(step, device, repeats)
            if what.startswith("largest"):
                alone[precision] = row
            if "naive" in what:
                naive[precision] = row
            if "seconds" in row:
                if row["peak_mib"] and alone[precision].get("peak_mib"):
                    row["memory_ratio_to_largest"] = row["peak_mib"] / alone[precision]["peak_mib"]
                if precision in naive and "seconds" in naive[precision]:
                    row["times_faster_than_naive"] = naive[precision]["seconds"] / row["seconds"]
            rows.append({"space": space_name, "what": what, "precision": precision, **row})
            print(rows[-1], flush=True)
            del step
            if device == "cuda":
                torch.cuda.empty_cache()
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    result: dict[str, Any] = {
        "device": name,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "batch_size": batch_size,
        "input_size": size,
        "steps": rows,
    }
    if arguments.images:
        result["search"] = real_search(arguments.images, device, 20 if arguments.quick else 300)
        print(result["search"], flush=True)
    slug = "-".join(name.lower().split())
    output = arguments.output or ROOT / "results" / f"gpu-{slug}.json"
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
