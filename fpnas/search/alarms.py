"""Alarms: what a search's history says against its result.

A history is anything whose columns can be taken by name: a data frame, or a mapping of lists, with
the columns of :data:`fpnas.search.loop.HISTORY_COLUMNS` and one row a step. What a strategy does
not record cannot go wrong in it: random search and evolution learn no distribution and leave
``mean_log_likelihood`` NaN; DNAS draws no architectures and leaves ``effective_sample_size`` NaN.

Array shapes: T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# All of these are our choice: from where on a figure is worth an alarm.
SKIP_RATE_LIMIT = 0.5
SKIP_RATE_GROWTH = 1.5
NUM_LAST_STEPS = 10
ENTROPY_FALL = 0.1
LEAST_AGREEMENTS = 10
STANDARD_ERRORS = 2.0
INVALID_SHARE = 0.01


@dataclass(frozen=True)
class Alarm:
    """Something that makes the result of a search doubtful.

    Attributes:
        name: Which alarm: ``skips``, ``drift`` or ``invalid``.
        message: What was seen, what it means, and what to do about it.
    """

    name: Literal["skips", "drift", "invalid"]
    message: str


class History(Protocol):
    """Columns by name: a data frame, or a mapping of lists."""

    def __getitem__(self, column: str, /) -> Any:
        """The values of a column, (T,)."""


def alarms(history: History) -> list[Alarm]:
    """Returns the alarms of one search; the coarse and the fine one have a history each."""
    if not len(history["step"]):
        return []
    found = (skip_alarm(history), drift_alarm(history), invalid_alarm(history))
    return [alarm for alarm in found if alarm is not None]


def skip_alarm(history: History) -> Alarm | None:
    """Sounds when the search collapses to bypassed blocks.

    The expected share of bypassed blocks, averaged over the last 10 steps, is above both one half
    and 1.5 times its value at the start.
    """
    if not _learning(history).any():
        return None
    rates = _column(history, "skip_rate")
    start, end = rates[0], rates[-NUM_LAST_STEPS:].mean()
    if end <= max(SKIP_RATE_LIMIT, SKIP_RATE_GROWTH * start):
        return None
    return Alarm(
        "skips",
        f"The expected share of bypassed blocks rose from {start:.0%} to {end:.0%}: the search "
        "collapses to skips. Small networks learn faster early on, so that half-trained weights "
        "speak for them. Lower architecture_learning_rate, lengthen warmup_steps, or lower "
        "cost_weight.",
    )


def drift_alarm(history: History) -> Alarm | None:
    """Sounds when the entropy falls although the likelihoods carry no signal that can be told.

    If the log-likelihoods of a step's K architectures on the two halves of the pictures differ by
    chance alone, their correlation has the mean 0 and the variance 1 / (K - 1), whatever their
    distribution. For K of 3 to 6 one step therefore says nothing, but the mean over steps does:
    it has to be 2 standard errors above 0 (by chance in 2 of 100 searches).

    The mean is over the steps whose entropy is in the upper half of the fall. Later on, a sound
    search compares architectures that hardly differ any more and agree no better than chance: of 9
    searches of 200 steps on the space ``tiny``, with noise of the size of the signal, the last half
    of the steps was within 2 standard errors of 0 in 8, and the upper half of the fall in none. The
    rule is ours, as is that fewer than 10 steps with a correlation say nothing; with K = 2 none has
    one.
    """
    if not (_learning(history) & np.isfinite(_column(history, "effective_sample_size"))).any():
        return None
    entropies = _column(history, "entropy_nats")
    start, end = entropies[0], entropies[-1]
    if not start - end > ENTROPY_FALL * start:
        return None
    agreements = _column(history, "agreement")
    measured = agreements[np.isfinite(agreements) & (entropies > (start + end) / 2)]
    seen = f"The entropy fell from {start:.3g} to {end:.3g} nats"
    if len(measured) < LEAST_AGREEMENTS:
        return Alarm(
            "drift",
            f"{seen}, and only {len(measured)} of the steps in the upper half of this fall "
            "compared three or more architectures that differ: too few to tell a signal from "
            f"chance, which takes {LEAST_AGREEMENTS}. Lower architecture_learning_rate, or draw "
            "more architectures: raise sampling_rate, or min_samples to 3 or more.",
        )
    mean = measured.mean()
    error = measured.std(ddof=1) / len(measured) ** 0.5
    if mean > 0 and mean >= STANDARD_ERRORS * error:
        return None
    return Alarm(
        "drift",
        f"{seen}, but the log-likelihoods on the two halves of the pictures agree no better than "
        f"chance: their correlation is {mean:.2f} with a standard error of {error:.2f}, over "
        f"{len(measured)} steps. The distribution drifts without a signal, and its most probable "
        "architecture means nothing. Lengthen warmup_steps, draw more architectures "
        "(sampling_rate) or raise batch_size, and lower architecture_learning_rate; keep the "
        "baseline.",
    )


def invalid_alarm(history: History) -> Alarm | None:
    """Sounds when more than 1 % of the architectures' log-likelihoods were NaN or infinite.

    A step that updates the distribution takes two of every architecture, one on each half of the
    pictures; any other step takes one.
    """
    num_samples = _column(history, "num_samples")
    taken = np.nansum(num_samples * (1 + _learning(history)))
    invalid = np.nansum(_column(history, "num_invalid"))
    if not invalid > INVALID_SHARE * taken:
        return None
    return Alarm(
        "invalid",
        f"{invalid:.0f} of {taken:.0f} log-likelihoods of sampled architectures "
        f"({invalid / taken:.1%}) were NaN or infinite. These architectures got no weight, so the "
        "search avoids them, whatever they are worth. Lower learning_rate or max_grad_norm, and "
        "look whether the pictures are finite.",
    )


def _column(history: History, name: str) -> FloatArray:
    return np.asarray(history[name], dtype=np.float64)


def _learning(history: History) -> NDArray[np.bool_]:
    """The steps in which the pictures moved the distribution, (T,)."""
    return np.isfinite(_column(history, "mean_log_likelihood"))
