"""A classifier on a teacher's features, and that it does not repeat what it was told."""

import torch

from fpnas.training.fitted_head import FittedHead, cross_fitted_logits

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(300) % 3
CENTRES = 4 * torch.eye(3, 8)
FEATURES = CENTRES[LABELS][:, None] + torch.randn(300, 2, 8, generator=GENERATOR)


def accuracy(logits, labels):
    return (logits.mean(dim=1).argmax(dim=1) == labels).double().mean().item()


def test_it_separates_what_can_be_separated():
    head = FittedHead.fit(FEATURES[:200], LABELS[:200], 3)
    assert head(FEATURES).shape == (300, 2, 3)
    assert accuracy(head(FEATURES[200:]), LABELS[200:]) > 0.97
    assert head.weight.requires_grad is False


def test_scale_and_shift_of_a_feature_do_not_matter():
    head = FittedHead.fit(FEATURES, LABELS, 3)
    scale, shift = torch.linspace(1, 40, 8), torch.linspace(-5, 5, 8)
    other = FittedHead.fit(scale * FEATURES + shift, LABELS, 3)
    torch.testing.assert_close(
        head(FEATURES), other(scale * FEATURES + shift), rtol=0.02, atol=0.02
    )


def test_a_larger_penalty_is_less_sure():
    sure, unsure = (FittedHead.fit(FEATURES, LABELS, 3, penalty) for penalty in (0.001, 0.3))
    assert sure(FEATURES).std() > 2 * unsure(FEATURES).std()


def test_labels_of_chance_are_not_repeated():
    noise = torch.randn(300, 1, 200, generator=GENERATOR)
    labels = torch.randint(0, 3, (300,), generator=GENERATOR)
    assert accuracy(FittedHead.fit(noise, labels, 3, 0.001)(noise), labels) > 0.9
    assert accuracy(cross_fitted_logits(noise, labels, 3), labels) < 0.45


def test_cross_fitting_is_repeatable_and_judges_every_picture():
    one, two = (cross_fitted_logits(FEATURES, LABELS, 3) for _ in range(2))
    assert torch.equal(one, two)
    assert accuracy(one, LABELS) > 0.97
    assert (one.abs().sum(dim=2) > 0).all()
