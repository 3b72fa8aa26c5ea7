"""A baseline on this machine: the plan, the run, and what is printed at its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fpnas.canonical import digest
from fpnas.report.formats import format_count, format_macs, format_percent
from fpnas.space import load_space
from fpnas.stages.base import BASELINE_STAGES, RunInfo
from fpnas.stages.config import StageConfig
from fpnas.storage import Store
from pipelines.engine import engine_named
from pipelines.outcomes import Outcome
from pipelines.plan import (
    Plan,
    Request,
    absolute,
    apply_overrides,
    load_profile,
    make_plan,
    resolve_space,
)
from pipelines.resources import ResourceTable, check_processes, load_resources
from pipelines.run import carry_out, stage_entries

_RANDOM = "random"


@dataclass(frozen=True)
class BaselinePlan:
    """A baseline, ready to start.

    Attributes:
        name: Of the network.
        request: What it is compared with: the same options as of a search.
        info: Names the run.
        configs: The configuration of both stages.
        resources: What every stage gets on a cluster; no part of what identifies the run.
    """

    name: str
    request: Request
    info: RunInfo
    configs: Mapping[str, StageConfig]
    resources: ResourceTable

    @property
    def pipeline(self) -> str:
        """The pipeline's name in :mod:`pipelines.definition`."""
        return "baseline_pipeline"

    def parameters(self) -> dict[str, str]:
        """The parameters of the pipeline."""
        configs = {f"{name}_config": c.model_dump_json() for name, c in self.configs.items()}
        return {"run": self.info.model_dump_json(), **configs}

    def to_json(self) -> dict[str, Any]:
        """What is kept in the run's folder."""
        return {
            "baseline": self.name,
            "request": asdict(self.request),
            "info": self.info.model_dump(mode="json"),
            "configs": {name: c.model_dump(mode="json") for name, c in self.configs.items()},
        }


def plan_baseline(name: str, request: Request) -> BaselinePlan:
    """Resolves a request: the pictures, the input size and the recipe are those of a search.

    Raises:
        InputError: Naming what cannot be used.
    """
    from fpnas.stages.baseline import Config
    from fpnas.stages.baseline import check as check_network

    file = load_space(request.space)
    sections = apply_overrides(load_profile(request.profile), request.overrides)
    space = resolve_space(file, request.model, sections["space"])
    data = request.data if "://" in request.data else absolute(request.data)
    seed = {"seed": request.seed}
    own = {"name": name, "recipe": sections["recipe"], "input_size": space.input_size}
    if name == _RANDOM:
        own["space"] = space.model_dump()
    contents = {
        "prepare": {"data": data, **seed, **sections["prepare"]},
        "baseline": {**own, **seed, **sections["baseline"]},
    }
    configs = {
        stage: BASELINE_STAGES[stage].config_type.parse(content, stage)
        for stage, content in contents.items()
    }
    config = configs["baseline"]
    assert isinstance(config, Config)
    check_network(config)
    resources = load_resources(sections["resources"])
    check_processes(resources, configs)
    identity = {stage: c.identity() for stage, c in configs.items()}
    words = re.sub(r"\W+", "-", name)
    info = RunInfo(
        run_id=f"{words}-{space.input_size}px-{digest(identity)[:8]}",
        space=file.name if name == _RANDOM else "none",
        model=space.model if name == _RANDOM else name,
        profile=Path(request.profile).stem,
        seed=request.seed,
        command=_command(name, request),
        kind="baseline",
    )
    return BaselinePlan(name, request, info, configs, resources)


def plan_for(request: Request, baseline: str | None) -> Plan | BaselinePlan:
    """Resolves a request of a search, or of a baseline when one is named.

    Raises:
        InputError: Naming what cannot be used.
    """
    return plan_baseline(baseline, request) if baseline else make_plan(request)


def _command(name: str, request: Request) -> str:
    options = shlex.split(request.command())[2:]
    at = options.index("--strategy")  # there is no search
    return shlex.join(["fpnas", "baseline", name, *options[:at], *options[at + 2 :]])


def run_baseline(
    name: str, request: Request, console: Console, engine: str = "local"
) -> dict[str, Any]:
    """Trains a baseline on this machine; the same call again finds or resumes it.

    Args:
        name: ``random``, or a name as :mod:`fpnas.networks.named` reads it.
        request: The options of the search that it is compared with.
        console: Where progress goes.
        engine: ``local`` or ``docker``.

    Returns:
        The JSON document, of the same form as that of a search.

    Raises:
        InputError: Before any work.
        FpnasError: A stage failed, or was stopped.
    """
    plan, carried_by = plan_baseline(name, request), engine_named(engine)
    return carry_out(plan, BASELINE_STAGES, _summarize, console, carried_by)


def _summarize(
    info: RunInfo, outcomes: Mapping[str, Outcome], store: Store, _directory: Path
) -> dict[str, Any]:
    from fpnas import tracking
    from fpnas.stages.baseline import log_parent
    from fpnas.stages.tracked import parent_run_id

    artifact = store.open(outcomes["baseline"].artifact or "")
    summary = artifact.read_json("summary.json")
    place = tracking.initialise()
    bills = {n: dict(store.open(outcome.artifact or "").bill) for n, outcome in outcomes.items()}
    speed = bills["baseline"].pop("speed")
    if outcomes["baseline"].cached:  # made under another MLflow, perhaps
        seconds = {name: float(bill["seconds"]) for name, bill in bills.items()}
        log_parent(info, summary, seconds, speed)
    return {
        "run_id": info.run_id,
        "space": info.space,
        "model": info.model,
        "profile": info.profile,
        "seed": info.seed,
        "stages": stage_entries(outcomes, bills),
        **{key: summary[key] for key in ("baseline", "architecture", "search", "train", "distill")},
        "speed": speed,
        "registered_model": None,
        "mlflow": {
            "tracking_uri": place.uri,
            "experiment_id": place.experiment_id,
            "run_id": parent_run_id(info),
        },
        "report": None,
        "command": info.command,
    }


def print_baseline(result: Mapping[str, Any], console: Console) -> None:
    """Prints what was trained and how good it is.

    Args:
        result: From :func:`run_baseline`.
        console: Where to.
    """
    architecture, candidates = result["architecture"], result["baseline"]["candidates"]
    lines = {
        "baseline": architecture["string"],
        "cost": f"{format_macs(architecture['macs'])} MACs, "
        f"{format_count(architecture['params'])} parameters",
        "top-1": f"{format_percent(result['train']['top1'])} on "
        f"{format_count(result['train']['num_images'])} validation pictures",
    }
    if candidates:
        lines["chosen"] = f"best of {len(candidates)} random architectures, trained shortly"
    lines["next"] = "fpnas compare puts it beside the searched models"
    width = max(len(name) for name in lines)
    for name, text in lines.items():
        console.print(f"[bold]{name:>{width}}[/]  {text}", highlight=False, soft_wrap=True)
