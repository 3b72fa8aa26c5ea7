"""Sets that are downloaded through torchvision, for machines with internet.

Nothing here is unpickled. CIFAR-10 comes in the publisher's binary edition, not the Python
edition that ``torchvision.datasets.CIFAR10`` unpickles; the two hold the same pictures.
"""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpnas.data.archives import list_members, plain_tar
from fpnas.data.layout import Entry, SplitHint
from fpnas.data.source import AbstractSource, FolderSource
from fpnas.errors import FpnasError, InputError

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
# From the publisher's page, https://www.cs.toronto.edu/~kriz/cifar.html.
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32
IMAGENETTE_URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"
URLS = {"cifar10": CIFAR10_URL, "imagenette": IMAGENETTE_URL}


def check_reachable(name: str, timeout_seconds: float = 10.0) -> None:
    """Asks the publisher's server for the archive's header.

    Raises:
        InputError: When the server cannot be reached.
    """
    request = urllib.request.Request(URLS[name], method="HEAD")  # noqa: S310 - constant https URL
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds):  # noqa: S310
            return
    except (OSError, ValueError) as error:
        raise InputError(
            "DATA",
            name,
            f"is downloaded from {URLS[name]}, which cannot be reached ({error})",
            fix="use a machine with internet, or give a local folder, a tar archive or digits",
        ) from error


def _downloading(name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        raise FpnasError(
            f"{name} could not be downloaded from {URLS[name]}: {error}. "
            "Run again on a machine with internet, or give a local folder."
        ) from error


def open_imagenette(scratch: Path) -> AbstractSource:
    """Downloads Imagenette at 320 px (326 MB) and opens its folder.

    Raises:
        FpnasError: When the download fails or its checksum is wrong.
    """
    from torchvision.datasets import Imagenette

    _downloading(
        "imagenette", lambda: Imagenette(scratch, split="train", size="320px", download=True)
    )
    source = FolderSource(scratch / "imagenette2-320")
    source.kind = "imagenette"
    return source


class ArraySource(AbstractSource):
    """Pictures that are arrays in memory, encoded as PNG when they are read.

    Args:
        kind: Name of the source.
        images: uint8, (N, H, W) grey or (N, H, W, 3) RGB.
        labels: Index into ``class_keys``, (N,).
        splits: Official split of each picture, or None for one pool.
        class_keys: The classes.
        class_names: Human names by key, where they differ from the key.
    """

    def __init__(
        self,
        kind: str,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        splits: list[SplitHint | None],
        class_keys: tuple[str, ...],
        class_names: dict[str, str] | None = None,
    ) -> None:
        self.kind, self._images = kind, images
        self._rows: dict[str, int] = {}
        entries = []
        for row, (label, split) in enumerate(zip(labels.tolist(), splits, strict=True)):
            name = f"{split or 'all'}/{class_keys[label]}/{row:05d}.png"
            self._rows[name] = row
            entries.append(Entry(name, class_keys[label], split))
        self.entries = tuple(sorted(entries, key=lambda entry: entry.name))
        self.ignored, self.class_names = {}, class_names or {}

    def read(self, entry: Entry) -> bytes:
        """Encodes one picture as RGB PNG."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self._images[self._rows[entry.name]]).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()


def open_digits() -> AbstractSource:
    """Opens scikit-learn's digits: 1,797 pictures of 8x8 pixels, part of the package.

    Values 0..16 are spread over 0..255.

    Raises:
        InputError: When scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "DATA", "digits", "needs scikit-learn", fix="pip install 'fpnas[digits]'"
        ) from error
    values, labels = load_digits(return_X_y=True)
    images = np.rint(values.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    keys = tuple(str(digit) for digit in range(10))
    return ArraySource("digits", images, labels.astype(np.int64), [None] * len(labels), keys)


def open_cifar10(scratch: Path) -> AbstractSource:
    """Downloads CIFAR-10's binary edition (162 MB), checks its md5 and opens it.

    Raises:
        FpnasError: When the download fails or its checksum is wrong.
    """
    from torchvision.datasets.utils import download_url

    filename = CIFAR10_URL.rpartition("/")[2]
    _downloading(
        "cifar10",
        lambda: download_url(CIFAR10_URL, scratch, filename=filename, md5=_CIFAR10_MD5),
    )
    return read_cifar10(scratch / filename, scratch)


def read_cifar10(path: Path, scratch: Path) -> AbstractSource:
    """Opens the archive of CIFAR-10's binary edition: records of a label and 3x32x32 bytes.

    Raises:
        InputError: When the archive is damaged or holds no batches.
    """
    plain = plain_tar(path, scratch)
    with plain.open("rb") as fileobj:
        spans, _ = list_members(fileobj, path)
        records, splits = [], []
        for name, span in sorted(spans.items()):
            if not name.endswith(".bin"):
                continue
            fileobj.seek(span.offset)
            data = np.frombuffer(fileobj.read(span.num_bytes), dtype=np.uint8)
            records.append(data.reshape(-1, _CIFAR10_RECORD_BYTES))
            hint: SplitHint | None = "val" if "test_batch" in name else "train"
            splits += [hint] * len(records[-1])
    if not records:
        raise InputError("DATA", path, "holds no CIFAR-10 batches", fix="use the binary edition")
    table = np.concatenate(records)
    images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = table[:, 0].astype(np.int64)
    return ArraySource("cifar10", np.ascontiguousarray(images), labels, splits, _CIFAR10_CLASSES)
