"""Training again when something that the model depends on has changed, and not otherwise."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fpnas.data.sources import BUILT_IN, locate
from fpnas.errors import FpnasError, InputError, ServiceDownError
from fpnas.mlflow_pages import run_url
from fpnas.stages.fingerprint import Fingerprint, fingerprint_for
from fpnas.stages.prepare import Config as Preparation
from fpnas.stages.register import Config as Registration
from fpnas.stages.tracked import patiently
from fpnas.storage import Store, connect, home_directory
from fpnas.tracking import Tracking
from pipelines.kfp_runs import KFP
from pipelines.plan import Plan
from pipelines.run import check, services

if TYPE_CHECKING:
    from fpnas.registry import ModelVersion

_FIGURES: Mapping[str, Callable[[str], Any]] = {
    "top1": float,
    "macs": int,
    "params": int,
    "latency_ms": float,
    "num_val_images": int,
    "search_strategy": str,
    "search_num_samples": int,
    "search_seconds": float,
    "total_seconds": float,
    "dataset_digest": str,
    "architecture": str,
    "run": str,
}
"""Tags of a version that the comparison shows."""


@dataclass(frozen=True)
class State:
    """What a run would be made of, and what the registry has.

    Attributes:
        name: Of the registered model.
        place: The registry.
        current: Of what a run would make now.
        champion: None where there is none.
        same: The newest version that was made of the same; None where there is none.
    """

    name: str
    place: Tracking
    current: Fingerprint
    champion: ModelVersion | None
    same: ModelVersion | None

    @property
    def differences(self) -> list[str]:
        """What has changed since the champion was made, a line an option or a part."""
        if self.champion is None or (self.same and self.same.version == self.champion.version):
            return []
        before = Fingerprint.from_tags(self.champion.tags)
        if before is None:
            return ["the champion does not say what it was made of"]
        return self.current.differences(before)


@dataclass(frozen=True)
class Ended:
    """A run of the pipeline that has ended.

    Attributes:
        links: Where it can be seen.
        adopted: It was under way before, perhaps with other code.
        failure: Of an adopted run, which says nothing of the code that is here.
    """

    links: Mapping[str, str] = field(default_factory=dict)
    adopted: bool = False
    failure: FpnasError | None = None


def look(plan: Plan, store: Store) -> State:
    """Computes the fingerprint, and finds the champion and the version with this fingerprint.

    Raises:
        InputError: The registry does not answer.
        ServiceDownError: It has ceased to.
    """
    from fpnas import registry, tracking
    from fpnas.stages.registering import CHAMPION

    preparation, registration = plan.configs["prepare"], plan.configs["register"]
    assert isinstance(preparation, Preparation)
    assert isinstance(registration, Registration)
    if preparation.data not in BUILT_IN:
        locate(preparation.data, store.client)
    current = fingerprint_for(plan.configs, store)
    place = tracking.initialise()
    try:
        champion = registry.version_with_alias(place, registration.name, CHAMPION)
        same = registry.version_with_tag(place, registration.name, current.mark, "yes")
    except FpnasError:
        raise
    except Exception as error:  # MLflow raises errors of many libraries
        raise ServiceDownError(f"MLflow's registry does not answer: {error}") from error
    return State(registration.name, place, current, champion, same)


def fingerprint(plan: Plan) -> dict[str, Any]:
    """The fingerprint of what a run would make, and what differs from the champion.

    Returns:
        The JSON document of ``fpnas fingerprint --json``.

    Raises:
        InputError: The pictures or the registry cannot be read.
    """
    with services(home_directory()):
        return description(look(plan, connect()))


def retrain(
    plan: Plan, start: Callable[[], Ended], engine: str, *, force: bool = False
) -> dict[str, Any]:
    """Runs the pipeline unless a version was made of the same before.

    Args:
        plan: The run.
        start: Runs it to its end, or waits for one of the same name that is under way.
        engine: One of :data:`pipelines.engine.ENGINES`.
        force: Run it whatever is there.

    Returns:
        The JSON document of ``fpnas retrain --json``.

    Raises:
        InputError: Before any work; the registry does not answer, or something cannot be used.
        FpnasError: The run failed, was stopped, or did not make what was asked for.
    """
    with services(home_directory()) if engine != KFP else contextlib.nullcontext():
        store = connect()
        if engine != KFP:
            check(plan.configs, store)
        elif not os.environ.get("MLFLOW_TRACKING_URI"):
            raise InputError(
                "MLFLOW_TRACKING_URI",
                "(empty)",
                "does not say where the cluster registers its models",
                fix="give the address of the MLflow server that the pods use",
            )
        else:
            store.check_readable()
        before = look(plan, store)
        document = {
            "engine": engine,
            "run": plan.info.run_id,
            "changed": before.same is None,
            "forced": force,
            "retrained": force or before.same is None,
            **description(before),
        }
        if not document["retrained"]:
            return {**document, **_unchanged(before)}
        after, links = _run(plan, start)
        return {**document, **_decision(before, after), "links": {**_pages(after), **links}}


def _run(plan: Plan, start: Callable[[], Ended]) -> tuple[State, Mapping[str, str]]:
    """Runs it, and once more where a run with other code was under way."""
    for _ in range(2):
        ended = start()
        after = patiently(lambda: look(plan, connect()), 60.0, f"fpnas register {plan.info.run_id}")
        if after.same is not None or not ended.adopted:
            break
    if ended.failure is not None:
        raise ended.failure
    return after, ended.links


def description(state: State) -> dict[str, Any]:
    """The fingerprint, its parts and the champion, for the JSON document."""
    return {
        "model": state.name,
        "fingerprint": state.current.digest,
        "parts": dict(state.current.digests),
        "differences": state.differences,
        "champion": figures(state.champion),
    }


def figures(version: ModelVersion | None) -> dict[str, Any] | None:
    """What a version says of itself; what it does not say is absent."""
    if version is None:
        return None
    told: dict[str, Any] = {"version": version.version}
    for key, kind in _FIGURES.items():
        with contextlib.suppress(KeyError, ValueError):
            told[key] = kind(version.tags[key])
    return told


def _unchanged(state: State) -> dict[str, Any]:
    from fpnas.stages.registering import PROMOTION

    same, champion = state.same, state.champion
    assert same is not None
    number = f"version {same.version}"
    if champion is not None and champion.version == same.version:
        reason = f"nothing has changed since the champion, {number}, was trained"
    else:
        told = same.tags.get(PROMOTION, "unknown")
        reason = f"nothing has changed since {number} was trained, which is not the champion; "
        reason += f"when it was registered: {told}"
    links = _pages(state)
    return {"challenger": None, "promoted": False, "reason": reason, "links": links}


def _decision(before: State, after: State) -> dict[str, Any]:
    """What the run registered, and what became of it.

    Raises:
        FpnasError: It registered nothing that was made of what is here.
    """
    from fpnas.stages.registering import PROMOTION, candidate
    from fpnas.training.promotion import noise

    made, champion = after.same, before.champion
    if made is None:
        raise FpnasError(
            f"The run ended, and {after.name} has no version with the fingerprint "
            f"{after.current.digest[:12]}. Where its images have other code than this checkout, "
            "build and push them, and run again. Where the registry was emptied, delete the "
            "artifact of the stage register from the storage, and run again."
        )
    of_champion = figures(champion)
    told: dict[str, Any] = {"challenger": figures(made), "noise": None}
    if champion is not None and champion.version == made.version:
        told |= {"promoted": False, "reason": "it is the champion's own model again"}
        return told
    told["promoted"] = after.champion is not None and after.champion.version == made.version
    told["reason"] = made.tags.get(PROMOTION, "unknown")
    with contextlib.suppress(KeyError, ValueError):  # a champion that was made elsewhere
        if champion is not None and of_champion is not None:
            told["noise"] = noise(candidate(made.tags), candidate(champion.tags))
    return told


def _pages(state: State) -> dict[str, str]:
    """MLflow's pages of the champion's and the challenger's run, where MLflow is a server."""
    place = state.place
    if not place.uri.startswith("http"):
        return {}
    versions = {"challenger": state.same, "champion": state.champion}
    return {
        name: run_url(place.uri, place.experiment_id, version.run_id)
        for name, version in versions.items()
        if version is not None
    }
