"""Sets with a name: one that is part of the package, and two that are downloaded.

Nothing here is unpickled. CIFAR-10 comes in the publisher's binary edition, not the Python
edition that ``torchvision.datasets.CIFAR10`` unpickles; the two hold the same pictures.
"""

from __future__ import annotations

import gzip
import io
import urllib.request
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fpnas.data.archives import TarSource, list_members, plain_tar
from fpnas.data.layout import Entry, SplitHint
from fpnas.data.source import AbstractSource
from fpnas.errors import FpnasError, InputError

DIGITS_FILE = "digits.csv.gz"
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
# As torchvision has it.
_IMAGENETTE_MD5 = "3df6f0d01a2c9592104656642f5e78a3"
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


def _download(name: str, md5: str, scratch: Path) -> Path:
    import pooch

    url = URLS[name]
    try:
        path = pooch.retrieve(
            url, known_hash=f"md5:{md5}", fname=url.rpartition("/")[2], path=scratch
        )
    except (OSError, ValueError) as error:
        raise FpnasError(
            f"{name} could not be downloaded from {url}: {error}. "
            "Run again on a machine with internet, or give a local folder."
        ) from error
    return Path(path)


def open_imagenette(scratch: Path) -> AbstractSource:
    """Downloads Imagenette at 320 px (326 MB), checks its md5 and opens it.

    Raises:
        FpnasError: When the download fails or its checksum is wrong.
    """
    source = TarSource(_download("imagenette", _IMAGENETTE_MD5, scratch), scratch)
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
    """Opens the handwritten digits of scikit-learn: 1,797 pictures of 8x8 pixels.

    They are the test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
    UCI Machine Learning Repository, 1998, CC BY 4.0), in scikit-learn's own file, so that neither
    it nor SciPy has to be installed for them. Values 0..16 are spread over 0..255.
    """
    packed = resources.files("fpnas.data").joinpath(DIGITS_FILE).read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",")
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    keys = tuple(str(digit) for digit in range(10))
    return ArraySource("digits", images, labels, [None] * len(labels), keys)


def open_cifar10(scratch: Path) -> AbstractSource:
    """Downloads CIFAR-10's binary edition (162 MB), checks its md5 and opens it.

    Raises:
        FpnasError: When the download fails or its checksum is wrong.
    """
    return read_cifar10(_download("cifar10", _CIFAR10_MD5, scratch), scratch)


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
