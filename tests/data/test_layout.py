"""Classes and splits from paths."""

from fpnas.data.layout import arrange


def keys(*paths):
    return [(entry.name, entry.class_key, entry.split) for entry in arrange(paths).entries]


def test_imagenet_layout_under_any_root_gives_the_official_splits():
    assert keys("x/val/a/2.JPEG", "x/train/b/1.png", "x/train/a/sub/1.jpg") == [
        ("x/train/a/sub/1.jpg", "a", "train"),
        ("x/train/b/1.png", "b", "train"),
        ("x/val/a/2.JPEG", "a", "val"),
    ]


def test_class_folders_and_a_lone_train_folder_are_one_pool():
    assert keys("a/1.jpg", "b/1.jpg") == [("a/1.jpg", "a", None), ("b/1.jpg", "b", None)]
    assert keys("train/a/1.jpg", "train/b/1.jpg")[0] == ("train/a/1.jpg", "a", None)


def test_a_class_may_be_called_train():
    assert [key for _, key, _ in keys("car/1.jpg", "train/1.jpg")] == ["car", "train"]


def test_the_only_class_is_not_taken_for_a_root():
    assert keys("cats/1.jpg", "cats/2.jpg") == [
        ("cats/1.jpg", "cats", None),
        ("cats/2.jpg", "cats", None),
    ]


def test_what_is_passed_over_is_counted():
    paths = ["train/a/1.jpg", "train/b/2.jpg", "train/3.jpg", "val/a/1.jpg", "test/a/1.jpg"]
    paths += ["train/a/.DS_Store", "train/a/readme.txt", "__MACOSX/train/a/1.jpg"]
    layout = arrange(paths)
    assert len(layout.entries) == 3
    assert layout.ignored == {
        "hidden file": 2,
        "not a picture by its suffix": 1,
        "in the test folder": 1,
        "not in a class folder": 1,
    }


def test_a_name_that_is_not_utf8_is_made_printable():
    from fpnas.data.layout import printable

    assert printable("a/\udcff.jpg") == "a/\\xff.jpg"
