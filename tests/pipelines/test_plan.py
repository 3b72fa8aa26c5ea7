"""What a user asks for, checked before any work."""

from __future__ import annotations

import pytest

from fpnas.errors import InputError
from fpnas.space import load_space
from pipelines.plan import Request, available_profiles, make_plan, resolve_space


def message(request: Request) -> str:
    with pytest.raises(InputError) as caught:
        make_plan(request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(space="tinny"), ["SPACE=tinny", "did you mean", "tiny"]),
        (Request(space="none.yaml"), ["SPACE=none.yaml", "does not exist"]),
        (Request(model="l0"), ["MODEL=l0", "t0"]),
        (Request(profile="smoky"), ["PROFILE=smoky", "smoke"]),
        (Request(strategy="darts"), ["STRATEGY=darts", "fpnas"]),
        (Request(seed=-1), ["SEED=-1", "0 or more"]),
        (Request(overrides=("coarse",)), ["--set=coarse", "section.key=value"]),
        (Request(overrides=("corse.x=1",)), ["--set=corse.x=1"]),
        (Request(overrides=("coarse.batchsize=1",)), ["coarse.batchsize=1", "batch_size"]),
        (Request(overrides=("coarse.batch_size=1",)), ["coarse.batch_size=1"]),
        (Request(overrides=("coarse.search.steps=1",)), ["coarse.search.steps=1"]),
        (Request(overrides=("coarse.search.num_steps=0",)), ["num_steps=0", "1 or more"]),
        (Request(overrides=("recipe.epochs=0",)), ["recipe.epochs=0", "1 to"]),
        (Request(overrides=("recipe.epochs=1",)), ["recipe.warmup_epochs=1", "less than the 1"]),
        (Request(overrides=("recipe.mixups=1",)), ["train.recipe.mixups=1", "remove the key"]),
        (Request(overrides=("space.input_size=4",)), ["input_size=4", "at least 8"]),
        (Request(overrides=("space.width=4",)), ["space.width=4", "input_size"]),
        (Request(overrides=("distill.teacher=nobody",)), ["distill.teacher=nobody"]),
    ],
)
def test_bad_input_names_the_field_the_value_and_the_fix(request_, expected):
    text = message(request_)
    for part in [*expected, "Fix: "]:
        assert part in text


def test_a_budget_out_of_reach_states_the_range():
    text = message(Request(overrides=("space.target_macs=100",)))
    low, high = text.partition("Legal: ")[2].partition(".")[0].split(" to ")
    for value in (low, high):
        assert make_plan(Request(overrides=(f"space.target_macs={value}",)))
    assert "target_macs" in message(Request(overrides=(f"space.target_macs={int(high) + 1}",)))


def test_a_profile_with_an_unknown_section_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("coarser: {}")
    assert "coarser" in message(Request(profile=str(path)))
    path.write_text("- 1")
    assert "is not a mapping" in message(Request(profile=str(path)))
    path.write_text("a: [")
    assert "is not valid YAML" in message(Request(profile=str(path)))


@pytest.mark.parametrize("profile", available_profiles())
@pytest.mark.parametrize(
    ("space", "model"), [("tiny", "t1"), ("sa_expanded", "l1"), ("fbnetv2_f_fine", None)]
)
def test_every_profile_fits_every_space(profile, space, model):
    plan = make_plan(Request(space=space, model=model, profile=profile))
    assert plan.info.run_id.startswith(f"{space}-{plan.space.model}-")


def test_the_budget_follows_the_input_size():
    file = load_space("fbnetv2_f")
    own = resolve_space(file, "s1", {})
    assert (own.input_size, own.target_macs) == (128, 58_000_000)
    larger = resolve_space(file, "s1", {"input_size": 256})
    assert larger.target_macs / own.target_macs == pytest.approx(128 / 34, rel=0.05)
    stated = resolve_space(file, "s1", {"input_size": 256, "target_macs": 90_000_000})
    assert stated.target_macs == 90_000_000


def test_the_name_of_a_run_depends_on_what_it_computes_and_on_nothing_else():
    base = make_plan(Request()).info.run_id
    assert (
        make_plan(Request(overrides=("coarse.runtime.checkpoint_seconds=1",))).info.run_id == base
    )
    for other in (
        Request(seed=1),
        Request(overrides=("recipe.epochs=2",)),
        Request(overrides=("distill.weight=0.5",)),
        Request(model="t1"),
    ):
        assert make_plan(other).info.run_id != base


def test_the_seed_reaches_every_stage_that_draws():
    plan = make_plan(Request(seed=5))
    assert {
        name for name, config in plan.configs.items() if getattr(config, "seed", None) == 5
    } == {"prepare", "coarse", "fine", "train", "distill"}


def test_the_plan_does_not_depend_on_the_tracking_address_of_this_machine(monkeypatch):
    base = make_plan(Request())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:hunter2@example.com")
    assert make_plan(Request()).parameters() == base.parameters()


def test_the_command_repeats_the_request():
    request = Request(space="sa_f", model="s1pp", overrides=("recipe.epochs=3",))
    assert request.command() == (
        "fpnas run --space sa_f --model s1pp --data digits --profile smoke "
        "--strategy fpnas --seed 0 --set recipe.epochs=3"
    )
