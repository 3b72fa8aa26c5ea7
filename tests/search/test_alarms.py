"""The alarms: searches that go wrong sound them, sound ones do not."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.search.alarms import alarms, drift_alarm, invalid_alarm, skip_alarm
from fpnas.search.evaluator import TableEvaluator
from fpnas.search.loop import HISTORY_COLUMNS, run_search
from fpnas.search.options import SearchOptions
from fpnas.search.population import UniformTraining
from fpnas.search.probabilistic import ProbabilisticSearch
from fpnas.space import ACTIVATION, KERNEL, load_space

TINY = load_space("tiny").open()
COSTS = CostModel(TINY, 10)


class Objective:
    """One random value for every choice, summed, and noise that is new at every call."""

    def __init__(self, seed, *, signal=1.0, noise=0.0):
        self.generator = torch.Generator().manual_seed(seed)
        sizes = ChoiceLayout.of(TINY).sizes
        shape = (*sizes.shape, int(sizes.max()))
        self.values = torch.randn(shape, generator=self.generator, dtype=torch.float64) * signal
        self.noise = noise

    def __call__(self, choices):
        table = self.values.expand(len(choices), -1, -1, -1)
        value = table.gather(-1, choices.unsqueeze(-1)).squeeze(-1).sum(dim=(1, 2))
        noise = torch.randn(len(choices), generator=self.generator, dtype=torch.float64)
        return value + self.noise * noise


def search(objective, *, seed=0, **options):
    values = {"num_steps": 80, "cost_weight": 0.0, "architecture_learning_rate": 0.15, **options}
    searched = ProbabilisticSearch(
        FactorizedDistribution(ChoiceLayout.of(TINY)),
        TableEvaluator(objective, 64),
        COSTS,
        SearchOptions(**values),
        seed,
    )
    run_search(searched)
    return searched


def frame(searched):
    return pd.DataFrame(searched.history, columns=list(HISTORY_COLUMNS))


def names(history):
    return [alarm.name for alarm in alarms(history)]


def rows(num_steps=40, **columns):
    """A sound history, and what is wrong with it."""
    sound = {
        **dict.fromkeys(HISTORY_COLUMNS, 1.0),
        "step": np.arange(1.0, num_steps + 1),
        "entropy_nats": np.linspace(20.0, 10.0, num_steps),
        "num_samples": 5.0,
        "agreement": 0.5 + 0.3 * np.sin(np.arange(num_steps)),
        "mean_log_likelihood": -100.0,
        "num_invalid": 0.0,
        "skip_rate": 0.3,
        **columns,
    }
    return {name: np.broadcast_to(value, num_steps).tolist() for name, value in sound.items()}


def test_a_sound_history_gives_no_alarm_in_either_form():
    assert alarms(rows()) == []
    assert alarms(pd.DataFrame(rows())) == []
    assert alarms(pd.DataFrame(columns=list(HISTORY_COLUMNS))) == []


# Skips.


def test_an_objective_that_rewards_skipping_sounds():
    history = frame(search(lambda choices: 3.0 * (choices[:, :, KERNEL] == 0).double().sum(dim=1)))
    (alarm,) = alarms(history)
    assert alarm.name == "skips"
    end = history["skip_rate"].iloc[-10:].mean()
    assert end > 0.8
    assert f"from {history['skip_rate'].iloc[0]:.0%} to {end:.0%}" in alarm.message
    assert "warmup_steps" in alarm.message


@pytest.mark.parametrize(
    ("start", "end", "sounds"),
    [
        (0.3, 0.5, False),  # not above one half
        (0.3, 0.51, True),
        (0.5, 0.75, False),  # not above 1.5 times the start
        (0.5, 0.76, True),
        (0.9, 0.8, False),
    ],
)
def test_both_limits_of_skips(start, end, sounds):
    rates = np.array([start] * 30 + [end] * 10)
    assert (skip_alarm(rows(skip_rate=rates)) is not None) == sounds
    # One step is not the mean of ten.
    assert skip_alarm(rows(skip_rate=np.array([start] * 39 + [end]))) is None


# Drift.


@pytest.mark.parametrize("seed", range(3))
def test_noise_that_lowers_the_entropy_sounds(seed):
    history = frame(
        search(
            Objective(seed, signal=0.0, noise=1.0),
            seed=seed,
            baseline=False,
            temperature="mean",
            architecture_learning_rate=0.2,
        )
    )
    assert history["entropy_nats"].iloc[-1] < 0.7 * history["entropy_nats"].iloc[0]
    (alarm,) = alarms(history)
    assert alarm.name == "drift"
    assert "no better than chance" in alarm.message


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_signal_does_not_sound(seed, noise):
    # The signal's standard deviation over uniform architectures is about 3.
    history = frame(
        search(Objective(seed, noise=noise), seed=seed, architecture_learning_rate=0.08)
    )
    assert history["entropy_nats"].iloc[-1] < 0.9 * history["entropy_nats"].iloc[0]
    assert names(history) == []


def test_a_sound_search_does_not_sound_after_it_has_converged():
    searched = search(Objective(1, noise=5.0), seed=1, num_samples=8, num_steps=150)
    history = frame(searched)
    late = history["agreement"].dropna().iloc[-60:]
    assert late.mean() < 2 * late.sem()  # what is left to compare hardly differs
    assert history["entropy_nats"].iloc[-1] < 0.3 * history["entropy_nats"].iloc[0]
    assert names(history) == []


def test_two_architectures_a_step_cannot_be_told_from_chance():
    history = frame(search(Objective(0), num_samples=2, num_steps=40))
    assert history["agreement"].isna().all()
    (alarm,) = alarms(history)
    assert alarm.name == "drift"
    assert "only 0 of the steps" in alarm.message
    assert "min_samples to 3 or more" in alarm.message


def correlations(rng, num_steps, num_samples, signal):
    """Of ``num_samples`` pairs a step, which share a signal next to noise of size 1."""
    shared = signal * rng.standard_normal((num_steps, num_samples))
    pair = [shared + rng.standard_normal((num_steps, num_samples)) for _ in range(2)]
    first, second = (half - half.mean(axis=1, keepdims=True) for half in pair)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return (first * second).sum(axis=1) / scale


@pytest.mark.parametrize("num_samples", [3, 4, 6])
def test_how_often_chance_sounds_and_a_signal_does_not(num_samples):
    rng = np.random.default_rng(num_samples)

    def rate(signal):
        histories = [
            rows(80, agreement=correlations(rng, 80, num_samples, signal)) for _ in range(300)
        ]
        return np.mean([drift_alarm(history) is not None for history in histories])

    assert rate(0.0) > 0.94  # 2 standard errors: 97.7 %
    assert rate(1.0) < 0.06


def test_only_the_upper_half_of_the_fall_counts():
    chance = np.tile([0.5, -0.5], 10)
    high = np.full(20, 0.5)
    assert drift_alarm(rows(agreement=np.concatenate([high, chance]))) is None
    assert drift_alarm(rows(agreement=np.concatenate([chance, high]))) is not None
    assert drift_alarm(rows(agreement=np.ones(40))) is None
    assert drift_alarm(rows(agreement=-np.ones(40))) is not None


def test_nine_steps_are_too_few():
    nine = np.where(np.arange(40) < 9, 0.9, math.nan)
    assert "only 9" in drift_alarm(rows(agreement=nine)).message
    ten = np.where(np.arange(40) < 10, 0.9, math.nan)
    assert drift_alarm(rows(agreement=ten)) is None


def test_without_a_fall_there_is_no_drift():
    chance = np.tile([0.5, -0.5], 20)
    for end, sounds in ((18.1, False), (17.9, True), (25.0, False)):
        history = rows(agreement=chance, entropy_nats=np.linspace(20.0, end, 40))
        assert (drift_alarm(history) is not None) == sounds


def test_strategies_that_do_not_learn_from_draws_do_not_drift():
    falling = {"entropy_nats": [20.0] + [0.0] * 39, "agreement": math.nan}
    population = {"mean_log_likelihood": math.nan, "effective_sample_size": math.nan}
    assert alarms(rows(**falling, **population, skip_rate=np.linspace(0.2, 0.9, 40))) == []
    dnas = {"effective_sample_size": math.nan}
    assert alarms(rows(**falling, **dnas)) == []
    assert names(rows(**falling, **dnas, skip_rate=np.linspace(0.2, 0.9, 40))) == ["skips"]
    trained = UniformTraining(
        TableEvaluator(Objective(0)), COSTS, SearchOptions(num_steps=3), seed=0
    )
    run_search(trained)
    assert names(frame(trained)) == []


# Invalid architectures.


def test_architectures_without_a_likelihood_get_no_weight_and_sound():
    objective = Objective(0)

    def partly(choices):
        # Only with an activation are there values; the middle group's is either.
        values = objective(choices)
        return values.where(choices[:, 2, ACTIVATION] == 1, torch.nan)

    searched = search(partly, num_samples=12, num_steps=60, warmup_steps=5)
    history = frame(searched)
    assert torch.isfinite(searched.distribution.logits).all()
    assert searched.distribution.marginals()[2, ACTIVATION, 1] > 0.9  # NaN has no weight
    learning = history["step"] > 5
    assert history["num_invalid"].sum() > 20
    assert (history["num_invalid"][~learning] <= 2).all()  # one half of the pictures
    assert (history["num_invalid"][learning] % 2 == 0).all()  # both of them
    valid = 12 - history["num_invalid"][learning] / 2
    assert (history["effective_sample_size"][learning] <= valid + 1e-9).all()
    (alarm,) = alarms(history)
    assert alarm.name == "invalid"
    taken = 2 * 5 + 2 * 12 * 55
    assert f"{history['num_invalid'].sum():.0f} of {taken} log-likelihoods" in alarm.message


def test_one_in_a_hundred_is_allowed():
    # 40 steps of 5 architectures, both halves: 400 log-likelihoods.
    for number, sounds in ((4, False), (5, True)):
        history = rows(num_invalid=np.array([number] + [0] * 39))
        assert (invalid_alarm(history) is not None) == sounds
    # Without the update, and so the other half, there are 200.
    for number, sounds in ((2, False), (3, True)):
        history = rows(
            num_invalid=np.array([number] + [0] * 39),
            mean_log_likelihood=math.nan,
            agreement=math.nan,
        )
        assert (invalid_alarm(history) is not None) == sounds
