"""Mixup and cutmix: what is mixed with what, and how much of each."""

import pytest
import torch

from fpnas.training.mixing import mix
from fpnas.training.recipe import Recipe


def numbered(count):
    """Pictures of one value each, from which a mixture can be told."""
    return torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, 3, 8, 8) ** 2


def test_without_either_nothing_is_mixed():
    assert mix(numbered(4), Recipe(epochs=2)) is None


@pytest.mark.parametrize("seed", range(4))
def test_mixup_averages_with_the_partner(seed):
    images = numbered(5)
    torch.manual_seed(seed)
    mixed = mix(images, Recipe(epochs=2, mixup=0.6))
    expected = mixed.share * images + (1 - mixed.share) * images[mixed.partners]
    torch.testing.assert_close(mixed.images, expected)
    assert 0 < mixed.share < 1
    assert sorted(mixed.partners.tolist()) == list(range(5))
    assert torch.equal(images, numbered(5))  # the given batch is left alone


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_pastes_a_box_of_the_partner(seed):
    images = numbered(5)
    torch.manual_seed(seed)
    mixed = mix(images, Recipe(epochs=2, cutmix=1.0))
    own = mixed.images == images
    pasted = mixed.images == images[mixed.partners]
    assert (own | pasted).all()
    assert own.float().mean() == pytest.approx(mixed.share)


def test_with_both_each_step_takes_one():
    kinds = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = mix(numbered(5), Recipe(epochs=2, mixup=1.0, cutmix=1.0))
        pasted = (mixed.images == numbered(5)) | (mixed.images == numbered(5)[mixed.partners])
        kinds.add("cutmix" if pasted.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_a_single_picture_stays_itself():
    torch.manual_seed(0)
    mixed = mix(numbered(1), Recipe(epochs=2, mixup=1.0))
    torch.testing.assert_close(mixed.images, numbered(1))
    assert mixed.share == 1
