"""Pictures per second: fpnas's loader, torchvision's ImageFolder + DataLoader, and webdataset.

    python benchmarks/loader.py --tiny FOLDER --photos FOLDER [--repeats 5]

Every reader gives the same: shuffled batches of random resized crops (25 to 100 % of the area,
aspect 3/4 to 4/3, bilinear, antialiased), mirrored at random, uint8 (B, 3, S, S) in one process,
with two decoding threads (ours) or two worker processes (theirs, persistent). The pictures are

- ``tiny``: tiny-imagenet-25, 12,500 of 64 px, to 32 px;
- ``photos``: photos-1000 four times over, 3,600 of 224 px, to 128 px;
- ``mosaics``: two by two of the photographs in one, 900 of 448 px, to 224 and to 128 px.

Each measurement is a process of its own, and the readers take turns, so that they meet the same
load; the page has medians. CPU time is that of all processes but the S3 server, over both epochs.
An epoch begins with asking for its first batch, so the start of workers and, from S3, fetching
every shard into an empty cache belong to the first one. A later epoch of our loader gives kept
pictures when they fit its memory; ``later_decodes`` says whether they were decoded. Appends to
``results/loader.csv`` and writes ``results/loader.md``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loader_pages import CSV, write_page

NUM_WORKERS = 2
SHARD_BYTES = 8 << 20
MIN_AREA, MAX_ASPECT = 0.25, 4 / 3
KEY = "benchmarks/loader"


@dataclass(frozen=True)
class Case:
    """Pictures, and what they become."""

    pictures: str
    input_size: int
    batch_size: int


CASES = {
    "tiny 64 to 32": Case("tiny", 32, 128),
    "photos 224 to 128": Case("photos", 128, 64),
    "mosaics 448 to 224": Case("mosaics", 224, 64),
    "mosaics 448 to 128": Case("mosaics", 128, 64),
}
READERS = (
    "fpnas",
    "fpnas, S3",
    "fpnas, no memory",
    "ImageFolder",
    "ImageFolder, tensors",
    "webdataset",
    "webdataset, S3",
)


def make_folders(tiny: Path, photos: Path, scratch: Path) -> None:
    """Makes the folders of pictures, in ``train/<class>/*`` and ``val/<class>/*``."""
    from PIL import Image

    sources = sorted(photos.glob("val/*/*.jpg"))
    if not (scratch / "tiny").exists():
        shutil.copytree(tiny, scratch / "tiny")
    for name in ("photos", "mosaics"):
        if (scratch / name).exists():
            continue
        partial_folder = scratch / f"{name}.part"
        shutil.rmtree(partial_folder, ignore_errors=True)
        for i in range(4000 if name == "photos" else 1000):
            split = "val" if i % 100 < 10 else "train"
            path = partial_folder / split / f"class{i % 10}" / f"{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == "photos":
                shutil.copyfile(sources[i % len(sources)], path)
                continue
            mosaic = Image.new("RGB", (448, 448))
            for j in range(4):
                source = sources[(i * 7 + j * 251) % len(sources)]
                mosaic.paste(Image.open(source).convert("RGB"), (224 * (j % 2), 224 * (j // 2)))
            mosaic.save(path, quality=90)
        partial_folder.rename(scratch / name)


def prepare_all(scratch: Path, environ: dict[str, str]) -> None:
    """Prepares every folder once, and puts the result into S3."""
    from fpnas.data.options import PrepareOptions
    from fpnas.data.prepare import prepare
    from fpnas.storage import connect

    store = connect(environ)
    for name in ("tiny", "photos", "mosaics"):
        target = scratch / f"{name}-prepared"
        if not target.exists():
            prepare(PrepareOptions(str(scratch / name), shard_bytes=SHARD_BYTES), target)
        key = f"{KEY}/{name}"
        if store.find(key):
            continue
        with store.create(key, kind="Dataset", config={}, parents={}, code_version="") as writer:
            for path in sorted(p for p in target.rglob("*") if p.is_file()):
                shutil.copyfile(path, writer.path(path.relative_to(target).as_posix()))
            writer.commit()


def fpnas_epochs(case: Case, scratch: Path, from_s3: bool, **options: Any) -> Iterator[Any]:
    """Our loader, over a local folder or over S3 with an empty cache."""
    from fpnas.data.augment import Augmentation
    from fpnas.data.dataset import Dataset
    from fpnas.data.loader import ImageLoader
    from fpnas.stages.batches import open_dataset
    from fpnas.storage import connect

    if from_s3:
        store = connect()
        data = open_dataset(store.open(store.uri(f"{KEY}/{case.pictures}")))
    else:
        folder = scratch / f"{case.pictures}-prepared"
        data = Dataset(lambda name: folder / name)
    augmentation = Augmentation(
        flip=True,
        min_area=MIN_AREA,
        max_aspect=MAX_ASPECT,
        working_scale=1.5,
        train_crop=1.0,
    )
    loader = ImageLoader(
        data,
        "train",
        batch_size=case.batch_size,
        input_size=case.input_size,
        training=True,
        seed=0,
        augmentation=augmentation,
        num_threads=NUM_WORKERS,
        **options,
    )
    yield None  # what was opened is not timed
    batches = iter(loader)
    while True:
        yield (batch[:2] for batch in itertools.islice(batches, len(loader)))


def _transform(case: Case, from_pil: bool) -> Any:
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(
            case.input_size, (MIN_AREA, 1.0), (1 / MAX_ASPECT, MAX_ASPECT), antialias=True
        ),
        v2.RandomHorizontalFlip(),
    ]
    return v2.Compose([*steps, v2.PILToTensor()] if from_pil else steps)


def _read_tensor(path: str) -> Any:
    from torchvision.io import ImageReadMode, decode_image, read_file

    return decode_image(read_file(path), ImageReadMode.RGB)


def folder_epochs(case: Case, scratch: Path, tensors: bool) -> Iterator[Any]:
    """ImageFolder with Pillow, its default, or with torchvision's own decoder and kernels."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    choice = {"loader": _read_tensor} if tensors else {}
    data = ImageFolder(
        str(scratch / case.pictures / "train"), _transform(case, not tensors), **choice
    )
    loader = DataLoader(
        data,
        case.batch_size,
        shuffle=True,
        num_workers=NUM_WORKERS,
        drop_last=True,
        persistent_workers=True,
    )
    yield None
    while True:
        yield loader


def _to_sample(transform: Any, sample: dict[str, Any]) -> tuple[Any, int]:
    return transform(sample["jpg"]), int(sample["cls"])


def _signed(case: Case, names: list[str]) -> list[str]:
    """Commands that write shards of the artifact in S3 to their standard output."""
    import boto3
    from botocore.config import Config

    from fpnas.storage import connect

    store = connect()
    artifact = store.open(store.uri(f"{KEY}/{case.pictures}"))
    client = boto3.client(
        "s3", endpoint_url=os.environ["S3_ENDPOINT_URL"], config=Config(signature_version="s3v4")
    )
    commands = []
    for name in names:
        key = artifact.file_uri(f"shards/{name}").split("/", 3)[3]
        signed = client.generate_presigned_url("get_object", {"Bucket": store.bucket, "Key": key})
        commands.append(f"pipe:curl --silent --show-error --fail '{signed}'")
    return commands


def webdataset_epochs(case: Case, scratch: Path, from_s3: bool) -> Iterator[Any]:
    """The own reader of webdataset over our shards, from files or through curl from S3."""
    import webdataset
    from torch.utils.data import DataLoader

    shards = scratch / f"{case.pictures}-prepared" / "shards"
    names = sorted(path.name for path in shards.glob("*.tar") if not path.name.startswith("val"))
    urls = _signed(case, names) if from_s3 else [str(shards / name) for name in names]
    data = (
        webdataset.WebDataset(urls, shardshuffle=100, seed=0)
        .shuffle(1000)
        .decode("pil")
        .map(partial(_to_sample, _transform(case, True)))
    )
    loader = DataLoader(
        data, case.batch_size, num_workers=NUM_WORKERS, drop_last=True, persistent_workers=True
    )
    yield None
    while True:
        yield loader


def epochs_of(reader: str, case: Case, scratch: Path) -> Iterator[Any]:
    name, _, how = reader.partition(", ")
    if name == "fpnas":
        options = {"memory_bytes": 0} if how == "no memory" else {}
        return fpnas_epochs(case, scratch, how == "S3", **options)
    if name == "ImageFolder":
        return folder_epochs(case, scratch, how == "tensors")
    return webdataset_epochs(case, scratch, how == "S3")


def measure(reader: str, case: Case, scratch: Path) -> list[float]:
    """Pictures per second in the first two epochs, and CPU microseconds a picture in both."""
    epochs = epochs_of(reader, case, scratch)
    next(epochs)
    rates, count, cpu_began = [], 0, _cpu_seconds()
    for _ in range(2):
        began = time.perf_counter()
        number = consume(next(epochs), case)
        rates.append(number / (time.perf_counter() - began))
        count += number
    epochs.close()
    gc.collect()  # ends the workers, whose time counts then
    return [*rates, 1e6 * (_cpu_seconds() - cpu_began) / count]


def _cpu_seconds() -> float:
    usages = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def consume(batches: Iterable[Any], case: Case) -> int:
    """Takes every batch and looks at it; returns how many pictures there were."""
    import torch

    count = 0
    for images, labels in batches:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, case.input_size, case.input_size)
        assert len(images) == len(labels)
        count += len(images)
    return count


def in_turns(arguments: argparse.Namespace, environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Runs every case's readers in turns; yields a row for each."""
    for case, _, reader in itertools.product(
        arguments.cases, range(arguments.repeats), arguments.readers
    ):
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as cache:
            command = [sys.executable, __file__, "--measure", case, reader]
            command += ["--scratch", str(arguments.scratch)]
            done = subprocess.run(
                command, env={**environ, "FPNAS_CACHE": cache}, capture_output=True, text=True
            )
        if done.returncode:
            sys.exit(f"{case}, {reader} failed:\n{done.stderr}")
        first, later, cpu = json.loads(done.stdout.splitlines()[-1])
        yield {
            "case": case,
            "reader": reader,
            "first_images_per_second": round(first),
            "later_images_per_second": round(later),
            "later_decodes": "no" if reader in ("fpnas", "fpnas, S3") else "yes",
            "cpu_microseconds": round(cpu),
            "workers": NUM_WORKERS,
            "load": f"{os.getloadavg()[0]:.1f}",
        }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", type=Path, help="tiny-imagenet-25, extracted")
    parser.add_argument("--photos", type=Path, help="photos-1000, extracted")
    parser.add_argument("--scratch", type=Path, default=Path("build/bench-loader").absolute())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=list(READERS))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        case, reader = arguments.measure
        print(json.dumps(measure(reader, CASES[case], arguments.scratch)))
        return
    if not (arguments.tiny and arguments.photos):
        parser.error("give --tiny and --photos")
    from workshop import append

    from fpnas.services import local_s3

    arguments.scratch.mkdir(parents=True, exist_ok=True)
    make_folders(arguments.tiny, arguments.photos, arguments.scratch)
    with local_s3(arguments.scratch) as service:
        environ = {**os.environ, **service.environment}
        environ["FPNAS_CACHE"] = str(arguments.scratch / "cache")
        prepare_all(arguments.scratch, environ)
        for row in in_turns(arguments, environ):
            print(row, file=sys.stderr)
            append(CSV, row)
    write_page()


if __name__ == "__main__":
    main()
