"""From a DATA argument to a source of pictures.

| DATA | what it is |
|---|---|
| ``digits`` | scikit-learn's digits, no download |
| ``cifar10``, ``imagenette`` | downloaded |
| a folder | ImageNet layout, one folder per class, or the official ILSVRC archives |
| a ``.tar``, ``.tar.gz``, ``.tar.xz`` file | the same, packed; or ILSVRC2012_img_train.tar |
| ``s3://bucket/prefix`` | any of these in S3 |
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpnas.data import downloads, ilsvrc, s3_source
from fpnas.data.archives import TAR_SUFFIXES, TarSource, is_compressed, is_tar_name
from fpnas.data.source import AbstractSource, FolderSource
from fpnas.errors import InputError, closest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUILT_IN = ("digits", "cifar10", "imagenette")
LEGAL_DATA = (
    "digits, cifar10, imagenette, a folder (train/<class>/ and val/<class>/, or <class>/), "
    f"a tar archive ({', '.join(TAR_SUFFIXES)}), the official ILSVRC archives, s3://bucket/prefix"
)
# Listing a compressed archive means decompressing it, which takes seconds up to about this size.
_CHEAP_ARCHIVE_BYTES = 64 << 20


@dataclass(frozen=True)
class Located:
    """A DATA argument that exists, not opened yet.

    Attributes:
        open: Opens it, given an existing folder for temporary files.
        is_cheap: Whether opening takes seconds, so that a check may do it.
    """

    open: Callable[[Path], AbstractSource]
    is_cheap: bool


def locate(data: str, s3_client: S3Client | None = None) -> Located:
    """Finds what DATA names, without reading pictures.

    Args:
        data: See the module's table.
        s3_client: Needed for ``s3://`` only.

    Raises:
        InputError: When it is missing, empty, or nothing that can be read.
    """
    if not data:
        raise InputError("DATA", "''", "is empty", legal=LEGAL_DATA, fix="name a data set")
    if data == "digits":
        return Located(lambda scratch: downloads.open_digits(), is_cheap=True)
    if data in BUILT_IN:
        downloads.check_reachable(data)
        opener = downloads.open_cifar10 if data == "cifar10" else downloads.open_imagenette
        return Located(opener, is_cheap=False)
    if data.startswith("s3://"):
        return _locate_s3(data, s3_client)
    return _locate_path(data)


def _locate_path(data: str) -> Located:
    path = Path(data).expanduser()
    if not path.exists():
        near = closest(data, BUILT_IN) if "/" not in data else "check the path"
        raise InputError("DATA", data, "does not exist", legal=LEGAL_DATA, fix=near)
    if not os.access(path, os.R_OK):
        raise InputError("DATA", data, "may not be read", fix="give yourself the right to read it")
    if path.is_dir():
        if (path / ilsvrc.TRAIN_TAR).is_file():
            return Located(lambda scratch: ilsvrc.IlsvrcSource(path), is_cheap=True)
        if not any(path.iterdir()):
            raise InputError("DATA", data, "is an empty folder", fix="check the path")
        return Located(lambda scratch: FolderSource(path), is_cheap=True)
    if path.name == ilsvrc.TRAIN_TAR:
        return Located(lambda scratch: ilsvrc.IlsvrcSource(path.parent), is_cheap=True)
    if not is_tar_name(path.name):
        raise InputError(
            "DATA",
            data,
            "is a file, but not a tar archive",
            legal=LEGAL_DATA,
            fix="give the folder that holds the class folders, or a tar archive of it",
        )
    if path.stat().st_size == 0:
        raise InputError("DATA", data, "is an empty file", fix="download or copy it again")
    cheap = not is_compressed(path) or path.stat().st_size <= _CHEAP_ARCHIVE_BYTES
    return Located(lambda scratch: TarSource(path, scratch), is_cheap=cheap)


def _locate_s3(url: str, client: S3Client | None) -> Located:
    if client is None:
        raise InputError(
            "DATA",
            url,
            "is in S3, but there is no connection to S3",
            fix="set S3_ENDPOINT_URL and the credentials",
        )
    sizes = s3_source.list_objects(client, url)
    base = url.rstrip("/")
    if len(sizes) == 1 and base.endswith("/" + next(iter(sizes))) and is_tar_name(base):
        base = base.rpartition("/")[0]
        (name,) = sizes
        names = [name]
        if name == ilsvrc.TRAIN_TAR:
            beside = s3_source.list_objects(client, base + "/")
            names = [official for official in ilsvrc.OFFICIAL_TARS if official in beside]
            sizes = beside
    elif ilsvrc.TRAIN_TAR in sizes:
        names = [official for official in ilsvrc.OFFICIAL_TARS if official in sizes]
    else:
        return Located(lambda scratch: s3_source.S3FolderSource(client, url), is_cheap=True)

    def open_archives(scratch: Path) -> AbstractSource:
        _require_space(url, scratch, sum(sizes[name] for name in names))
        for name in names:
            s3_source.download(client, f"{base}/{name}", scratch / name)
        if names[0] == ilsvrc.TRAIN_TAR:
            return ilsvrc.IlsvrcSource(scratch)
        return TarSource(scratch / names[0], scratch)

    return Located(open_archives, is_cheap=False)


def _require_space(data: str, scratch: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(scratch).free
    if free < num_bytes:
        raise InputError(
            "DATA",
            data,
            f"needs {num_bytes / 1e9:.1f} GB of temporary space, and {scratch} has "
            f"{free / 1e9:.1f} GB",
            fix="set TMPDIR to a larger disk",
        )
