"""What int8 costs in accuracy, by how ranges are found and by what stays in float.

    python benchmarks/int8.py --images FOLDER [--seeds 0,1,2]

Trains two architectures of ``tiny`` on the digits and one on ``--images`` (tiny-imagenet-25,
extracted) under each seed, keeps the weights under ``build/int8``, quantizes each in every way of
:data:`WAYS`, and scores it on the validation pictures. Appends what is missing to
``results/int8.csv``, and prints means. Accuracies depend on the seed alone; latencies are of one
thread, beside whatever else the machine does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from statistics import mean

from workshop import RECIPE, RESULTS, ROOT, Row, append, dataset, prepared, read

# isort: split
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fpnas.architecture import parse_architecture
from fpnas.data.loader import ImageLoader
from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import prepare
from fpnas.networks.network import Classifier, Network
from fpnas.stages.training import Workbench
from fpnas.stages.training_config import TrainingConfig
from fpnas.training.export import export_program, write_onnx
from fpnas.training.inference import ModelCard, Runner, runner, without_gradients
from fpnas.training.int8 import Int8Recipe, write_int8
from fpnas.training.loop import label_loss
from fpnas.training.recipe import Recipe
from fpnas.training.speed import measure_speed

TABLE = RESULTS / "int8.csv"
WORK = ROOT / "build" / "int8"

DIGITS, PHOTOGRAPHS = "digits", "tiny-imagenet-25"
JOBS = (
    # What the smoke profile has found on the digits (the first in results/pipeline_runs.csv; the
    # second has attention), and what the laptop profile has found on tiny-imagenet-25.
    (DIGITS, "c16s2-e1c16k5s-skipc16-2xskipc48d2-2xskipc96d2-skipc128-c256@32"),
    (DIGITS, "c16s2-e1c16k5ra1-skipc24-2xskipc48d2-2xskipc88d2-e4.5c128k3sa1-c256@32"),
    (PHOTOGRAPHS, "c16s2-e1c16k3sa1-e3c32k3s-2xskipc40d2-2xe1.5c80k3rd2-e4.5c112k3ra1-c256@32"),
)
RECIPES = {
    DIGITS: Recipe(epochs=25, batch_size=64, learning_rate=0.1, warmup_epochs=1),
    PHOTOGRAPHS: RECIPE,
}
WEIGHTED = Int8Recipe(only_weighted=True)
WAYS: dict[str, tuple[Int8Recipe, int]] = {
    "everything, percentile 99.999": (Int8Recipe(only_weighted=False), 512),
    "everything, minmax": (Int8Recipe(calibration="minmax", only_weighted=False), 512),
    "everything, entropy": (Int8Recipe(calibration="entropy", only_weighted=False), 512),
    "weighted, percentile 99.999": (WEIGHTED, 512),
    "weighted, minmax": (Int8Recipe(calibration="minmax", only_weighted=True), 512),
    "weighted, entropy": (Int8Recipe(calibration="entropy", only_weighted=True), 512),
    "weighted, percentile 99.999, first and last float": (
        Int8Recipe(only_weighted=True, floats=("first", "last")),
        512,
    ),
    "weighted, percentile 99.999, gates float": (
        Int8Recipe(only_weighted=True, floats=("gates",)),
        512,
    ),
    "weighted, percentile 99.999, 2,048 pictures": (WEIGHTED, 2048),
    "weighted, percentile 99.999, 7 bits": (
        Int8Recipe(only_weighted=True, reduce_range=True),
        512,
    ),
}
_BATCH = 16


def main() -> None:
    """Measures what is missing, and prints means over architectures and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    folders = {DIGITS: _digits(), PHOTOGRAPHS: prepared(arguments.images)}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for (data, line), seed in product(JOBS, seeds):
        known = {
            row["way"]
            for row in read(TABLE)
            if (row["data"], row["architecture"], int(row["seed"])) == (data, line, seed)
        }
        missing = [way for way in WAYS if way not in known]
        if missing:
            _measure(folders[data], data, line, seed, missing)
    _print_means(read(TABLE))


def _digits() -> Path:
    folder = WORK / "digits-prepared"
    if not folder.exists():
        prepare(PrepareOptions(DIGITS), folder)
    return folder


def _measure(folder: Path, data: str, line: str, seed: int, ways: list[str]) -> None:
    model = _trained(folder, data, line, seed)
    images = dataset(folder)
    architecture = parse_architecture(line)
    size = architecture.input_size
    card = ModelCard(tuple(info.name for info in images.classes), size, None, line)

    def pictures(split: str, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = ImageLoader(
            images,
            split,  # type: ignore[arg-type]
            batch_size=batch,
            input_size=size,
            training=False,
            seed=0,
            augmentation=RECIPES[data].augmentation,
        )
        for values, labels, _ in loader:
            yield values.float() / 255, labels

    val = list(pictures("val", 64))
    with tempfile.TemporaryDirectory() as temporary:
        source, path = Path(temporary) / "model.onnx", Path(temporary) / "int8.onnx"
        write_onnx(export_program(model, size), source, card)
        reference, float_top1 = _first_classes(without_gradients(model), val)
        float_speed, _ = measure_speed(runner(source), size, runtime="onnx")
        for way in ways:
            recipe, number = WAYS[way]
            calibration = islice(pictures("alpha", _BATCH), number // _BATCH)
            write_int8(source, path, (values for values, _ in calibration), recipe)
            found, top1 = _first_classes(runner(path), val)
            latency, _ = measure_speed(runner(path), size, runtime="int8")
            append(
                TABLE,
                {
                    "data": data,
                    "architecture": line,
                    "seed": seed,
                    "way": way,
                    "num_calibration": number,
                    "float_top1": round(float_top1, 4),
                    "int8_top1": round(top1, 4),
                    "loss_points": round(100 * (float_top1 - top1), 2),
                    "agreement": round(float((found == reference).float().mean()), 4),
                    "float_bytes": source.stat().st_size,
                    "int8_bytes": path.stat().st_size,
                    "float_ms": round(1e3 * float_speed.median_seconds, 3),
                    "int8_ms": round(1e3 * latency.median_seconds, 3),
                },
            )


def _trained(folder: Path, data: str, line: str, seed: int) -> Classifier:
    """The network of a job; its weights are kept, since training is what takes the time."""
    images, architecture = dataset(folder), parse_architecture(line)
    path = WORK / f"{data}-{architecture.sha256[:8]}-{seed}.safetensors"
    network = Network(architecture, images.num_classes)
    if not path.is_file():
        recipe = RECIPES[data]
        bench = Workbench(images, architecture, "cpu", TrainingConfig(recipe=recipe, seed=seed))
        trained = bench.network(architecture, seed, recipe.dropout)
        trainer = bench.trainer(trained, recipe, label_loss(recipe))
        trainer.run(lambda record: None)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {k: v.contiguous() for k, v in trainer.final_network.state_dict().items()}
        save_file(state, path)
    network.load_state_dict(load_file(path))
    return Classifier(network, list(images.mean), list(images.std)).eval()


def _first_classes(run: Runner, batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, float]:
    found = torch.cat([run(images).argmax(dim=1) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    return found, float((found == labels).float().mean())


def _print_means(rows: list[Row]) -> None:
    print(f"{'':58} {'data':17} {'points lost':>16} {'agreement':>10} {'ms':>6} {'float':>6}")
    for way in WAYS:
        for data in (DIGITS, PHOTOGRAPHS):
            mine = [row for row in rows if row["way"] == way and row["data"] == data]
            if mine:
                lost = [float(row["loss_points"]) for row in mine]
                print(
                    f"{way:58} {data:17} {mean(lost):6.2f} (max {max(lost):4.1f}) "
                    f"{mean(float(row['agreement']) for row in mine):10.4f} "
                    f"{mean(float(row['int8_ms']) for row in mine):6.3f} "
                    f"{mean(float(row['float_ms']) for row in mine):6.3f}"
                )


if __name__ == "__main__":
    main()
