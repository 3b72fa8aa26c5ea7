"""Folders, archives, ILSVRC's own archives and downloads, built in miniature."""

import errno
import io
import socket
import tarfile

import numpy as np
import pytest

from fpnas.data import downloads, ilsvrc
from fpnas.data.archives import TarSource
from fpnas.data.sources import locate
from fpnas.errors import FpnasError, InputError

from .conftest import encode, noise


def add(archive, name, data, **attributes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    archive.addfile(member, io.BytesIO(data))


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            add(archive, name, data)


def contents(source):
    return {entry.name: source.read(entry) for entry in source.entries}


PICTURES = {f"root/{key}/{i}.jpg": encode(noise(i)) for key in "ab" for i in range(3)}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
def test_an_archive_is_read_in_place(tmp_path, suffix):
    mode = {"gz": "w:gz", "tgz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(suffix[-3:].strip("."))
    path = tmp_path / f"pictures{suffix}"
    write_tar(path, PICTURES, mode or "w:" + suffix.rpartition(".")[2].replace("tar", ""))
    with locate(str(path)).open(tmp_path) as source:
        assert source.kind == "tar"
        assert contents(source) == PICTURES


def test_links_and_unsafe_paths_in_an_archive_are_counted_not_followed(tmp_path):
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in PICTURES.items():
            add(archive, name, data)
        add(archive, "root/a/link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "root/a/hard.jpg", b"", type=tarfile.LNKTYPE, linkname="root/a/0.jpg")
        add(archive, "root/a/fifo.jpg", b"", type=tarfile.FIFOTYPE)
        add(archive, "../a/out.jpg", b"x")
        add(archive, "/a/out.jpg", b"x")
    with TarSource(path, tmp_path) as source:
        assert len(source.entries) == len(PICTURES)
        assert source.ignored == {
            "link in an archive": 2,
            "special file in an archive": 1,
            "unsafe path in an archive": 2,
        }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures.tar"]


def test_a_full_disk_is_not_taken_for_a_damaged_archive(tmp_path, monkeypatch):
    path = tmp_path / "pictures.tar.gz"
    write_tar(path, PICTURES, "w:gz")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(FpnasError, match=r"cannot be decompressed.*No space left.*TMPDIR"):
        TarSource(path, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pictures.tar.gz"]


@pytest.mark.parametrize("keep", [0.5, 0.99])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_an_archive_cut_short_is_refused(tmp_path, suffix, keep):
    whole = tmp_path / f"whole{suffix}"
    write_tar(whole, PICTURES, "w:" + suffix.rpartition(".")[2].replace("tar", ""))
    data = whole.read_bytes()
    # Tar pads with zeros that carry nothing: cut within the pictures.
    used = len(data) if suffix != ".tar" else len(data.rstrip(b"\0"))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(used * keep)])
    with pytest.raises(InputError, match="is not a complete tar archive"):
        locate(str(path)).open(tmp_path)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = tmp_path / "damaged.tar"
    write_tar(path, PICTURES)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[3].offset
    data[offset : offset + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged header"):
        TarSource(path, tmp_path)


def test_links_in_a_folder_are_followed_once(tmp_path, folder):
    (tmp_path / "subset").mkdir()
    for key in ("ape", "bee"):
        (tmp_path / "subset" / key).symlink_to(folder / key)
    (folder / "ape" / "loop").symlink_to(folder)
    with locate(str(tmp_path / "subset")).open(tmp_path) as source:
        names = [entry.name for entry in source.entries if entry.name.startswith("ape/")]
        # The loop leads to the class folders by another path; each real folder counts once.
        assert sum(name.count("/") == 1 for name in names) == 20
        assert len(source.entries) == len(contents(source)) <= 60


def write_ilsvrc(folder, *, val=True, devkit=True):
    """The official archives with three synsets, of which the third is not a leaf class."""
    from scipy.io import savemat

    folder.mkdir(exist_ok=True)
    classes = {}
    for number, wnid in enumerate(("n00000001", "n00000002")):
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as archive:
            for i in range(4):
                add(archive, f"{wnid}_{i}.JPEG", encode(noise(10 * number + i)))
        classes[f"{wnid}.tar"] = inner.getvalue()
    write_tar(folder / ilsvrc.TRAIN_TAR, classes)
    if val:
        pictures = {f"ILSVRC2012_val_{i:08d}.JPEG": encode(noise(100 + i)) for i in (1, 3, 2)}
        write_tar(folder / ilsvrc.VAL_TAR, pictures)
    if devkit:
        fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
        rows = [(1, "n00000002", "tench, fish"), (2, "n00000001", "cock"), (3, "n9", "thing")]
        meta = io.BytesIO()
        savemat(meta, {"synsets": np.array(rows, dtype=fields)})
        files = {"meta.mat": meta.getvalue()}
        files["ILSVRC2012_validation_ground_truth.txt"] = b"1\n2\n1\n"
        named = {f"ILSVRC2012_devkit_t12/data/{name}": data for name, data in files.items()}
        write_tar(folder / ilsvrc.DEVKIT_TAR, named, "w:gz")


@pytest.mark.parametrize("by_file", [False, True])
def test_the_official_archives_are_read_as_they_are(tmp_path, by_file):
    write_ilsvrc(tmp_path / "imagenet")
    path = tmp_path / "imagenet" / (ilsvrc.TRAIN_TAR if by_file else "")
    with locate(str(path)).open(tmp_path) as source:
        files = contents(source)
        labels = {entry.name: (entry.class_key, entry.split) for entry in source.entries}
        assert source.class_names["n00000002"] == "tench"
    assert files["train/n00000002/n00000002_3.JPEG"] == encode(noise(13))
    assert len(files) == 8 + 3
    # Ground truth is in the order of the names: pictures 1 and 3 have ILSVRC id 1, which is n2.
    assert labels["val/n00000002/ILSVRC2012_val_00000003.JPEG"] == ("n00000002", "val")
    assert labels["val/n00000001/ILSVRC2012_val_00000002.JPEG"] == ("n00000001", "val")
    assert files["val/n00000001/ILSVRC2012_val_00000002.JPEG"] == encode(noise(102))


def test_the_train_archive_alone_is_one_pool(tmp_path):
    write_ilsvrc(tmp_path, val=False, devkit=False)
    with locate(str(tmp_path)).open(tmp_path) as source:
        assert {entry.split for entry in source.entries} == {None}


def test_the_validation_archive_needs_its_devkit(tmp_path):
    write_ilsvrc(tmp_path, devkit=False)
    with pytest.raises(InputError, match="which holds its labels"):
        locate(str(tmp_path)).open(tmp_path)


def test_a_damaged_class_archive_is_named(tmp_path):
    write_tar(tmp_path / ilsvrc.TRAIN_TAR, {"n00000001.tar": b"\xff" * 2000})
    with pytest.raises(InputError, match=r"n00000001\.tar is not a complete tar archive"):
        locate(str(tmp_path)).open(tmp_path)


def test_digits_are_spread_over_eight_bits(tmp_path):
    with locate("digits").open(tmp_path) as source:
        assert len(source.entries) == 1797
        assert {entry.class_key for entry in source.entries} == set("0123456789")
        from fpnas.data.decode import Target

        pictures = [Target(8, None).decode(source.read(entry)) for entry in source.entries[:20]]
        assert np.shape(pictures) == (20, 8, 8, 3)
        assert np.max(pictures) == 255


def test_cifar10_is_read_from_its_binary_edition(tmp_path, monkeypatch):
    record = lambda label, value: bytes([label]) + bytes([value]) * 3072  # noqa: E731
    files = {
        "cifar-10-batches-bin/data_batch_1.bin": record(3, 10) + record(9, 20),
        "cifar-10-batches-bin/test_batch.bin": record(0, 30),
        "cifar-10-batches-bin/batches.meta.txt": b"",
    }
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        write_tar(path / fname, files, "w:gz")
        return str(path / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with downloads.open_cifar10(tmp_path) as source:
        found = [(entry.class_key, entry.split) for entry in source.entries]
    assert found == [("cat", "train"), ("truck", "train"), ("airplane", "val")]
    assert asked == [(downloads.CIFAR10_URL, "md5:c32a1d4ab5d03f1284b67883e8d87530")]


def test_imagenette_is_read_from_its_archive(tmp_path, monkeypatch):
    names = [
        f"imagenette2-320/{split}/{key}/{i}.JPEG"
        for split, num in (("train", 2), ("val", 1))
        for key in ("n01440764", "n02102040")
        for i in range(num)
    ]

    def retrieve(url, known_hash, fname, path):
        assert known_hash.startswith("md5:")
        write_tar(path / fname, {name: encode(noise(i)) for i, name in enumerate(names)}, "w:gz")
        return str(path / fname)

    monkeypatch.setattr("pooch.retrieve", retrieve)
    with downloads.open_imagenette(tmp_path) as source:
        assert source.kind == "imagenette"
        assert [entry.split for entry in source.entries].count("val") == 2
        assert len(source.entries) == 6


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_without_a_network_downloads_say_so(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise socket.gaierror("no such host")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(InputError, match="cannot be reached"):
        locate(name)
    opener = downloads.open_cifar10 if name == "cifar10" else downloads.open_imagenette
    with pytest.raises(FpnasError, match="could not be downloaded"):
        opener(tmp_path)


def test_bad_data_arguments_are_explained(tmp_path):
    def message(data):
        with pytest.raises(InputError) as caught:
            locate(data)
        assert caught.value.field == "DATA"
        return str(caught.value)

    assert "did you mean digits" in message("digit")
    assert "does not exist" in message(str(tmp_path / "absent"))
    assert "is an empty folder" in message(str(tmp_path))
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert "not a tar archive" in message(str(tmp_path / "a.zip"))
    (tmp_path / "a.tar").write_bytes(b"")
    assert "is an empty file" in message(str(tmp_path / "a.tar"))
    assert "no connection to S3" in message("s3://bucket/prefix")
    assert "is empty" in message("")
