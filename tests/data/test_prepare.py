"""What a preparation writes, and when it refuses to."""

import csv
import hashlib
import json

import pandas as pd
import pytest
from PIL import Image

from fpnas.data.class_names import name_classes
from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import check, prepare
from fpnas.errors import FpnasError, InputError

from .conftest import encode, noise, write_folder
from .test_sources import write_tar


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_every_row_of_the_index_leads_to_its_bytes(folder, tmp_path):
    summary = prepare(PrepareOptions(str(folder)), tmp_path / "out")
    index = pd.read_parquet(tmp_path / "out" / "index.parquet")
    assert len(index) == 60
    for row in index.itertuples():
        with (tmp_path / "out" / row.shard).open("rb") as file:
            file.seek(row.offset)
            data = file.read(row.num_bytes)
        assert data == (folder / row.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.sha256
    assert (index["width"].unique(), index["height"].unique()) == ([12], [10])
    assert summary.counts == {"weights": 24, "alpha": 24, "val": 12}
    val = index[index["split"] == "val"]
    assert val.groupby("class_key").size().to_dict() == {"ape": 4, "bee": 4, "cow": 4}
    assert [info.key for info in summary.classes] == ["ape", "bee", "cow"]


# webdataset leaves the shards it has read to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_other_tools_read_the_shards(folder, tmp_path):
    import webdataset

    prepare(PrepareOptions(str(folder)), tmp_path / "out")
    shard = str(tmp_path / "out" / "shards" / "val-00000.tar")
    samples = list(webdataset.WebDataset(shard, shardshuffle=False, empty_check=False))
    assert len(samples) == 12
    index = pd.read_parquet(tmp_path / "out" / "index.parquet").query("split == 'val'")
    assert [int(sample["cls"]) for sample in samples] == index["class_index"].tolist()
    found = [hashlib.sha256(sample["jpg"]).hexdigest() for sample in samples]
    assert found == index["sha256"].tolist()


def test_equal_input_gives_equal_files_wherever_it_lies(folder, tmp_path):
    options = PrepareOptions(str(folder), num_classes=2, seed=3)
    prepare(options, tmp_path / "one")
    prepare(options, tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.jpg")}
    write_tar(tmp_path / "pictures.tar", files)
    prepare(PrepareOptions(str(tmp_path / "pictures.tar"), num_classes=2, seed=3), tmp_path / "tar")
    one, tar = digests(tmp_path / "one"), digests(tmp_path / "tar")
    assert {name for name in one if one[name] != tar[name]} == {"dataset.json"}
    prepare(PrepareOptions(str(folder), num_classes=2, seed=4), tmp_path / "seed")
    assert digests(tmp_path / "seed") != one


def test_bad_pictures_are_quarantined_and_odd_ones_converted_in_the_report(folder, tmp_path):
    (folder / "ape" / "bad.jpg").write_bytes(encode(noise(0, 64, 64))[:-500])
    (folder / "bee" / "empty.png").write_bytes(b"")
    (folder / "cow" / "grey.jpg").write_bytes(encode(noise(7).convert("L")))
    (folder / "cow" / "cmyk.jpg").write_bytes(encode(noise(8).convert("CMYK")))
    (folder / "cow" / "notes.txt").write_text("x")
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff"
    (folder / "cow" / "exif.jpg").write_bytes(encode(noise(9), exif=exif))
    calls = []
    summary = prepare(
        PrepareOptions(str(folder)), tmp_path / "out", progress=lambda *done: calls.append(done)
    )
    with (tmp_path / "out" / "quarantine.csv").open() as file:
        rows = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert rows.keys() == {"ape/bad.jpg", "bee/empty.png"}
    assert rows["ape/bad.jpg"].startswith("truncated")
    assert rows["bee/empty.png"] == "the file is empty"
    document = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert document["num_quarantined"] == summary.num_quarantined == 2
    assert document["converted"] == {"cmyk": 1, "grey": 1}
    assert document["ignored"] == {"not a picture by its suffix": 1}
    assert sum(document["counts"].values()) == 63
    assert calls == [(i, 65) for i in range(1, 66)]


def test_a_file_that_cannot_be_read_is_quarantined_without_its_absolute_path(folder, tmp_path):
    (folder / "ape" / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    prepare(PrepareOptions(str(folder)), tmp_path / "out")
    listed = (tmp_path / "out" / "quarantine.csv").read_text()
    assert "ape/dangling.jpg,cannot be read: No such file or directory" in listed
    assert str(tmp_path) not in listed


def test_too_many_bad_pictures_stop_it_and_leave_nothing(folder, tmp_path):
    for i in range(10):
        (folder / "ape" / f"bad{i}.jpg").write_bytes(b"x")
    with pytest.raises(FpnasError, match=r"10 of 70 pictures.*ape/bad0\.jpg: not a picture"):
        prepare(PrepareOptions(str(folder)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prepare(PrepareOptions(str(folder), max_quarantined_fraction=0.2), tmp_path / "out")


def test_a_class_left_without_pictures_stops_it(folder, tmp_path):
    (folder / "dog").mkdir()
    for i in range(3):
        (folder / "dog" / f"{i}.jpg").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    with pytest.raises(FpnasError, match=r"class dog .* has no usable picture left"):
        prepare(PrepareOptions(str(folder)), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_pictures_in_both_train_and_val_are_counted(tmp_path):
    write_folder(tmp_path / "in" / "train", ["a", "b"], 6)
    write_folder(tmp_path / "in" / "val", ["a", "b"], 3, seed=500)
    (tmp_path / "in" / "val" / "b" / "copy.jpg").write_bytes(
        (tmp_path / "in" / "train" / "a" / "2.jpg").read_bytes()
    )
    summary = prepare(PrepareOptions(str(tmp_path / "in")), tmp_path / "out")
    assert summary.counts == {"weights": 6, "alpha": 6, "val": 7}
    # Noise is drawn with seeds 0-5 and 1000-1005 for train, 500-502 and 1500-1502 for val.
    assert summary.num_duplicates == 1


def test_mean_and_deviation_are_of_the_training_pictures(tmp_path):
    for split, value in (("train", 51), ("val", 255)):
        for key in "ab":
            folder = tmp_path / "in" / split / key
            folder.mkdir(parents=True)
            for i in range(2):
                picture = Image.new("RGB", (4 + i, 4), (value, 0, 2 * value % 256))
                (folder / f"{i}.png").write_bytes(encode(picture, "PNG"))
    summary = prepare(PrepareOptions(str(tmp_path / "in")), tmp_path / "out")
    assert summary.mean == (0.2, 0.0, 0.4)
    assert summary.std == (0.0, 0.0, 0.0)


def test_shards_are_cut_at_their_size(prepared):
    document = json.loads((prepared / "dataset.json").read_text())
    sizes = [shard["num_bytes"] for shard in document["shards"]]
    assert len(sizes) > 6
    # A shard is closed once it has reached the size: it is over by one picture at the most.
    assert max(sizes) < (1 << 20) + 200_000
    for shard in document["shards"]:
        data = (prepared / shard["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]


def test_checks_come_before_any_work(folder, tmp_path):
    assert [info.key for info in check(PrepareOptions(str(folder)))] == ["ape", "bee", "cow"]
    assert [info.key for info in check(PrepareOptions("digits"))] == list("0123456789")
    for data, message in ((folder / "ape", "no pictures in class folders"), (tmp_path, None)):
        if message:
            with pytest.raises(InputError, match=message):
                check(PrepareOptions(str(data)))
    (tmp_path / "one" / "only").mkdir(parents=True)
    (tmp_path / "one" / "only" / "1.jpg").write_bytes(encode(noise(0)))
    with pytest.raises(InputError, match="only one class, only"):
        prepare(PrepareOptions(str(tmp_path / "one")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is not empty"):
        prepare(PrepareOptions(str(folder)), folder)


def test_wnids_get_their_names_and_the_source_comes_first():
    keys = ("n01440764", "n99999999", "cat")
    infos = name_classes(keys, {"cat": "house cat"})
    assert [info.name for info in infos] == ["tench", "n99999999", "house cat"]


def test_digits_are_prepared_without_conversions(tmp_path):
    options = PrepareOptions("digits", max_images_per_class=10)
    summary = prepare(options, tmp_path / "out")
    assert (summary.source, summary.converted) == ("digits", {})
    assert summary.counts == {"weights": 40, "alpha": 40, "val": 20}


@pytest.mark.slow
def test_real_pictures(tiny_imagenet, tmp_path):
    options = PrepareOptions(str(tiny_imagenet), num_classes=5, max_images_per_class=40)
    summary = prepare(options, tmp_path / "out")
    assert summary.counts == {"weights": 100, "alpha": 100, "val": 200}
    assert summary.num_quarantined == 0
    assert set(summary.converted) <= {"grey"}
    assert all(info.name != info.key for info in summary.classes)
