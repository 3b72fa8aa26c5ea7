"""The promotion rule, case by case."""

import math

import pytest

from fpnas.training.promotion import Candidate, promotes

CHAMPION = Candidate(0.5, macs=100, num_images=800, dataset="digits")
# The standard error of a difference of two halves over 800 pictures each.
NOISE = math.sqrt(2 * 0.25 / 800)


def test_without_a_champion_anything_is_promoted():
    assert promotes(Candidate(0.0, 10**12, 1, "digits"), None) == (True, "there is no champion yet")


@pytest.mark.parametrize(
    ("top1", "macs", "verdict", "reason"),
    [
        (0.9, 101, False, "it costs 101 MACs, the champion 100"),
        (0.9, 100, True, "+0.4000 is more than"),
        (0.9, 1, True, "is more than"),
        (0.5, 1, False, "+0.0000 is not more than"),
        (0.4, 100, False, "-0.1000 is not more than"),
        (0.5 + 0.9 * NOISE, 100, False, "is not more than the noise of 0.0250"),
        (0.5 + 1.1 * NOISE, 100, True, "is more than the noise of 0.0250"),
    ],
)
def test_promotion(top1, macs, verdict, reason):
    promoted, why = promotes(Candidate(top1, macs, 800, "digits"), CHAMPION)
    assert promoted is verdict
    assert reason in why


def test_few_pictures_make_more_noise():
    challenger = Candidate(0.5 + 1.1 * NOISE, 100, 800, "digits")
    few = Candidate(challenger.top1, 100, 80, "digits")
    assert promotes(challenger, CHAMPION)[0]
    assert not promotes(few, CHAMPION)[0]


def test_a_perfect_champion_stays():
    perfect = Candidate(1.0, 100, 50, "digits")
    assert promotes(perfect, perfect)[0] is False


def test_an_accuracy_on_other_pictures_is_not_compared():
    promoted, why = promotes(Candidate(0.9, 1, 800, "photographs"), CHAMPION)
    assert promoted is False
    assert "other pictures" in why
