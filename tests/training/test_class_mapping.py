"""Classes are mapped by id or by exact name, or refused."""

import pytest

from fpnas.data.class_names import ClassInfo
from fpnas.errors import InputError
from fpnas.training.class_mapping import map_classes, map_imagenet_classes

CAT, DOG = ClassInfo("n1", "tabby cat"), ClassInfo("n2", "dog")


def test_by_key_before_name_and_whatever_the_case():
    assert map_classes([CAT, DOG], ["Dog", "n9", "n1"], "t") == [2, 0]
    assert map_classes([CAT, DOG], ["tabby_cat", "n2"], "t") == [0, 1]


@pytest.mark.parametrize(
    ("theirs", "named"),
    [(["dog"], "n1 .tabby cat."), (["cat", "dog"], "n1"), (["n1", "dog", "dog"], "n2 .dog.")],
)
def test_what_is_absent_or_ambiguous_is_an_error_and_not_a_guess(theirs, named):
    with pytest.raises(InputError, match=f"does not know these classes: {named}"):
        map_classes([CAT, DOG], theirs, "t")


def test_many_missing_classes_are_counted():
    with pytest.raises(InputError, match=r"c0, c1, c2, c3, c4 and 7 more"):
        map_classes([ClassInfo(f"c{i}", f"c{i}") for i in range(12)], [], "t")


def test_imagenets_by_wordnet_id_or_by_name():
    classes = [ClassInfo("n01443537", "whatever"), ClassInfo("tench", "tench")]
    assert map_imagenet_classes(classes, "t") == [1, 0]
    # ImageNet has two classes of this name: the dog and the garment.
    with pytest.raises(InputError, match="cardigan"):
        map_imagenet_classes([ClassInfo("cardigan", "cardigan")], "t")
