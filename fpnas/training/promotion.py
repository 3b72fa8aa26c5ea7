"""When a newly trained model takes the place of the one in use."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """What the rule looks at.

    Attributes:
        top1: On the validation pictures, 0 to 1.
        macs: Cost of one picture.
        num_images: Validation pictures that ``top1`` was measured on.
        dataset: Digest of the pictures; accuracies on others say nothing of each other.
    """

    top1: float
    macs: int
    num_images: int
    dataset: str


def promotes(challenger: Candidate, champion: Candidate | None) -> tuple[bool, str]:
    """Decides whether the challenger becomes the champion, and says why.

    It does when there is no champion, or when it was measured on the same pictures, costs no more
    and is more accurate by more than one standard error of the difference of two proportions. Our
    choice.
    """
    if champion is None:
        return True, "there is no champion yet"
    if challenger.dataset != champion.dataset:
        return False, "the champion was measured on other pictures"
    if challenger.macs > champion.macs:
        return False, f"it costs {challenger.macs} MACs, the champion {champion.macs}"
    error = noise(challenger, champion)
    gain = challenger.top1 - champion.top1
    verdict = gain > error
    relation = "more" if verdict else "not more"
    return verdict, f"its top-1 gain of {gain:+.4f} is {relation} than the noise of {error:.4f}"


def noise(first: Candidate, second: Candidate) -> float:
    """One standard error of the difference of two accuracies, 0 to 1."""
    return math.sqrt(sum(c.top1 * (1 - c.top1) / c.num_images for c in (first, second)))
