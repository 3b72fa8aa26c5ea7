"""Compares formats for prepared pictures: fpnas's own reader, webdataset, LitData, MosaicML.

Every format stores the same 12,500 training JPEGs of tiny-imagenet-25 with their labels, untouched,
and gives back bytes and label without decoding, so what is compared is the format.
Each is measured in a process of its own; the best of ``--repeats`` passes counts, because the
processors are shared. The table goes to ``results/shard_formats.csv``.

    python benchmarks/shard_formats.py --mosaicml-path FOLDER

MosaicML Streaming does not install beside the project's pins without moving numpy. Make it a
folder with ``pip install --no-deps --target FOLDER mosaicml-streaming==0.13.0 ...`` and what
``pip install --dry-run mosaicml-streaming==0.13.0`` names; without it that row is left out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SEED = 0
SHARD_BYTES = 8 << 20
FORMATS = ("fpnas", "webdataset", "litdata", "mosaicml")
Pictures = list[tuple[bytes, int]]


def load_pictures(archive: Path) -> Pictures:
    from fpnas.data.sources import locate

    with (
        tempfile.TemporaryDirectory() as scratch,
        locate(str(archive)).open(Path(scratch)) as source,
    ):
        entries = [entry for entry in source.entries if entry.split == "train"]
        keys = sorted({entry.class_key for entry in entries})
        return [(source.read(entry), keys.index(entry.class_key)) for entry in entries]


class Fpnas:
    """webdataset's writer, a parquet index, and our reader, which verifies every picture."""

    package = "webdataset"

    def write(self, pictures: Pictures, folder: Path) -> None:
        """Writes all pictures with their labels."""
        import pandas as pd

        from fpnas.data.shards import ShardWriter

        writer = ShardWriter(folder, "train", SHARD_BYTES)
        rows = []
        for data, label in pictures:
            shard, offset = writer.add(data, "jpg", label)
            rows.append((label, shard, offset, len(data), hashlib.sha256(data).hexdigest()))
        writer.close()
        columns = ["class_index", "shard", "offset", "num_bytes", "sha256"]
        pd.DataFrame(rows, columns=columns).to_parquet(folder / "index.parquet", index=False)

    def read(self, folder: Path, shuffle: bool) -> Iterator[tuple[bytes, int]]:
        """Yields bytes and label of every picture once."""
        import numpy as np
        import pandas as pd

        from fpnas.data.dataset import verify
        from fpnas.data.order import epoch_order
        from fpnas.data.shards import ShardCache

        table = pd.read_parquet(folder / "index.parquet")
        sizes = {name: (folder / name).stat().st_size for name in table["shard"].unique()}
        cache = ShardCache(lambda name: folder / name, None, sizes, 1 << 30)
        shards = table["shard"].tolist()
        order = np.arange(len(table))
        if shuffle:
            order = epoch_order(order, np.array(list(sizes.values())), 0, seed=SEED, epoch=0)
        columns = [
            table[name].tolist() for name in ("offset", "num_bytes", "sha256", "class_index")
        ]
        for row in order:
            offset, num_bytes, digest, label = (column[row] for column in columns)
            data = cache.read(shards[row], offset, num_bytes)
            verify(data, digest, shards[row])
            yield data, label


class Webdataset:
    """webdataset's own writer and reader; its shuffle is a buffer, here of 5,000 pictures."""

    package = "webdataset"

    def write(self, pictures: Pictures, folder: Path) -> None:
        """Writes all pictures with their labels."""
        import webdataset

        pattern = str(folder / "train-%05d.tar")
        with webdataset.ShardWriter(
            pattern, maxcount=10**9, maxsize=SHARD_BYTES, mtime=0, verbose=0
        ) as writer:
            for i, (data, label) in enumerate(pictures):
                writer.write({"__key__": f"{i:08d}", "jpg": data, "cls": str(label).encode()})

    def read(self, folder: Path, shuffle: bool) -> Iterator[tuple[bytes, int]]:
        """Yields bytes and label of every picture once."""
        import webdataset

        shards = sorted(str(path) for path in folder.glob("*.tar"))
        samples = webdataset.WebDataset(shards, shardshuffle=100 if shuffle else False, seed=SEED)
        if shuffle:
            samples = samples.shuffle(5000, seed=SEED)
        for sample in samples:
            yield sample["jpg"], int(sample["cls"])


def _same(item: dict[str, Any]) -> dict[str, Any]:
    return item


class Litdata:
    """LitData's optimize with one worker, and its StreamingDataset."""

    package = "litdata"

    def write(self, pictures: Pictures, folder: Path) -> None:
        """Writes all pictures with their labels."""
        import litdata

        litdata.optimize(
            fn=_same,
            inputs=[{"image": data, "label": label} for data, label in pictures],
            output_dir=str(folder),
            chunk_bytes=SHARD_BYTES,
            num_workers=1,
            start_method="fork",
        )

    def read(self, folder: Path, shuffle: bool) -> Iterator[tuple[bytes, int]]:
        """Yields bytes and label of every picture once."""
        import litdata

        for item in litdata.StreamingDataset(str(folder), shuffle=shuffle, seed=SEED):
            yield item["image"], int(item["label"])


class Mosaicml:
    """MosaicML's MDS with sha256 per shard, and its StreamingDataset, which checks them."""

    package = "mosaicml-streaming"

    def write(self, pictures: Pictures, folder: Path) -> None:
        """Writes all pictures with their labels."""
        from streaming import MDSWriter

        columns = {"image": "bytes", "label": "int"}
        with MDSWriter(
            out=str(folder), columns=columns, hashes=["sha256"], size_limit=SHARD_BYTES
        ) as writer:
            for data, label in pictures:
                writer.write({"image": data, "label": label})

    def read(self, folder: Path, shuffle: bool) -> Iterator[tuple[bytes, int]]:
        """Yields bytes and label of every picture once."""
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        dataset = StreamingDataset(
            local=str(folder),
            shuffle=shuffle,
            shuffle_seed=SEED,
            batch_size=1,
            validate_hash="sha256",
        )
        for item in dataset:
            yield item["image"], int(item["label"])


BACKENDS: dict[str, type[Any]] = {
    "fpnas": Fpnas,
    "webdataset": Webdataset,
    "litdata": Litdata,
    "mosaicml": Mosaicml,
}


def passes(
    read: Callable[[], Iterable[tuple[bytes, int]]], repeats: int
) -> tuple[float, list[str]]:
    """Returns the best pictures per second and a digest of each pass's order and content."""
    best, digests = 0.0, []
    for _ in range(repeats):
        digest, count, begin = hashlib.sha256(), 0, time.perf_counter()
        for data, label in read():
            digest.update(data[-16:] + bytes([label]))
            count += 1
        best = max(best, count / (time.perf_counter() - begin))
        digests.append(f"{count}:{digest.hexdigest()}")
    return best, digests


def decode_rate(pictures: Pictures) -> float:
    """Returns how many pictures one thread decodes to 32 px in a second, to compare with."""
    from fpnas.data.decode import Target

    target, begin = Target(32, None), time.perf_counter()
    for data, _ in pictures:
        target.decode(data)
    return len(pictures) / (time.perf_counter() - begin)


def measure(name: str, archive: Path, folder: Path, repeats: int) -> dict[str, Any]:
    backend = BACKENDS[name]()
    pictures = load_pictures(archive)
    begin = time.perf_counter()
    backend.write(pictures, folder)
    write_seconds = time.perf_counter() - begin
    sequential, plain = passes(lambda: backend.read(folder, False), repeats)
    shuffled, mixed = passes(lambda: backend.read(folder, True), repeats)
    assert len({text.split(":")[0] for text in plain + mixed}) == 1, "a pass lost pictures"
    return {
        "format": name,
        "package": f"{backend.package}=={importlib.metadata.version(backend.package)}",
        "num_images": len(pictures),
        "image_bytes": sum(len(data) for data, _ in pictures),
        "stored_bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "write_seconds": round(write_seconds, 2),
        "sequential_images_per_second": round(sequential),
        "shuffled_images_per_second": round(shuffled),
        "decode_images_per_second": round(decode_rate(pictures[:2000])),
        "shuffled_order_repeats": len(set(mixed)) == 1,
        "is_shuffled": mixed[0] != plain[0],
    }


def environment() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "seed": SEED,
        "shard_bytes": SHARD_BYTES,
        "processors": len(os.sched_getaffinity(0)),
        "processor": model[0].partition(":")[2].strip() if model else platform.machine(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() if commit.returncode == 0 else "uncommitted",
    }


def find_archive() -> Path:
    shared = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("FPNAS_SHARED_DATA", shared)) / "tiny-imagenet-25.tar.xz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--archive", type=Path, default=find_archive())
    parser.add_argument("--mosaicml-path", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("results/shard_formats.csv"))
    parser.add_argument("--measure", choices=FORMATS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.archive.exists():
        sys.exit(f"{arguments.archive} is absent; set FPNAS_SHARED_DATA to the folder that has it")
    if arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(arguments.measure, arguments.archive, Path(folder), arguments.repeats)
        print("\n" + json.dumps(row))
        return
    rows = []
    for name in FORMATS:
        variables = dict(os.environ)
        if name == "mosaicml":
            if arguments.mosaicml_path is None:
                continue
            variables["PYTHONPATH"] = str(arguments.mosaicml_path)
        command = [sys.executable, __file__, "--measure", name, "--archive", arguments.archive]
        command += ["--repeats", str(arguments.repeats)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{name} failed:\n{done.stderr}")
        rows.append({**json.loads(done.stdout.splitlines()[-1]), **environment()})
        print(rows[-1], file=sys.stderr)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
