"""Small pictures and datasets, made on the spot."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpnas.data.dataset import Dataset
from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import prepare


def encode(image, file_format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def noise(seed, width=12, height=10):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_folder(root, classes, per_class, seed=0):
    """Writes ``per_class`` different JPEGs for each class folder."""
    for number, key in enumerate(classes):
        folder = Path(root) / key
        folder.mkdir(parents=True)
        for i in range(per_class):
            (folder / f"{i}.jpg").write_bytes(encode(noise(seed + 1000 * number + i)))


@pytest.fixture
def folder(tmp_path):
    """Three classes of twenty pictures, one pool."""
    write_folder(tmp_path / "pictures", ["ape", "bee", "cow"], 20)
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A dataset of 3 x 40 noise PNGs in shards of 1 MiB, several a split."""
    root = tmp_path_factory.mktemp("prepared")
    for number, key in enumerate(["ape", "bee", "cow"]):
        (root / "in" / key).mkdir(parents=True)
        for i in range(40):
            picture = encode(noise(1000 * number + i, 220, 200), "PNG")
            (root / "in" / key / f"{i}.png").write_bytes(picture)
    options = PrepareOptions(str(root / "in"), shard_bytes=1 << 20)
    prepare(options, root / "out")
    return root / "out"


@pytest.fixture
def dataset(prepared):
    return Dataset(lambda name: prepared / name)


@pytest.fixture
def tiny_imagenet():
    """The real pictures, when this machine has them."""
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("FPNAS_SHARED_DATA", shared))
    archive = folder / "tiny-imagenet-25.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is absent; set FPNAS_SHARED_DATA to the folder that has it")
    return archive
