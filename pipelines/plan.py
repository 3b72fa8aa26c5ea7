"""From what a user asks for to the configuration of every stage, checked before any work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

import fpnas
from fpnas.canonical import digest
from fpnas.errors import InputError, closest
from fpnas.search.options import STRATEGIES
from fpnas.space import SpaceFile, load_space
from fpnas.stages.base import ALL_STAGES, STAGES, RunInfo
from fpnas.stages.config import SpaceConfig, StageConfig
from pipelines.resources import ResourceTable, check_processes, load_resources

PROFILES_DIR = Path(fpnas.__file__).parent / "profiles"
_SECTIONS = ("space", "recipe", "resources", *ALL_STAGES)


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        space: Name of a search space, or the path of a YAML file.
        model: Operating point; the space's first one by default.
        data: Pictures: a name, a folder, an archive or an ``s3://`` prefix.
        profile: Name of a profile, or the path of a YAML file.
        strategy: How to search.
        seed: Of everything that is drawn.
        overrides: ``section.key=value`` over the profile.
    """

    space: str = "tiny"
    model: str | None = None
    data: str = "digits"
    profile: str = "smoke"
    strategy: str = "fpnas"
    seed: int = 0
    overrides: tuple[str, ...] = ()

    def command(self) -> str:
        """The command line that repeats the run."""
        words = ["fpnas", "run"]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "overrides":
                words += [word for item in value for word in ("--set", item)]
            elif value is not None:
                words += [f"--{field.name}", str(value)]
        return shlex.join(words)


@dataclass(frozen=True)
class Plan:
    """A run, ready to start.

    Attributes:
        request: What was asked for.
        info: Names the run.
        space: The space at the operating point.
        configs: The configuration of every stage.
        resources: What every stage gets on a cluster; no part of what identifies the run.
    """

    request: Request
    info: RunInfo
    space: SpaceConfig
    configs: Mapping[str, StageConfig]
    resources: ResourceTable

    @property
    def pipeline(self) -> str:
        """The pipeline's name in :mod:`pipelines.definition`."""
        return "fpnas_pipeline"

    def parameters(self) -> dict[str, str]:
        """The parameters of the pipeline."""
        configs = {f"{name}_config": c.model_dump_json() for name, c in self.configs.items()}
        return {"run": self.info.model_dump_json(), **configs}

    def to_json(self) -> dict[str, Any]:
        """What is kept in the run's folder."""
        return {
            "request": asdict(self.request),
            "info": self.info.model_dump(mode="json"),
            "configs": {name: c.model_dump(mode="json") for name, c in self.configs.items()},
        }


def make_plan(request: Request) -> Plan:
    """Resolves a request.

    Raises:
        InputError: Naming what cannot be used.
    """
    if request.strategy not in STRATEGIES:
        raise InputError(
            "STRATEGY",
            request.strategy,
            "is not known",
            legal=", ".join(STRATEGIES),
            fix=closest(request.strategy, STRATEGIES),
        )
    if request.seed < 0:
        raise InputError("SEED", request.seed, "is negative", legal="0 or more", fix="use 0")
    file = load_space(request.space)
    sections = apply_overrides(load_profile(request.profile), request.overrides)
    space = resolve_space(file, request.model, sections["space"])
    data = request.data if "://" in request.data else absolute(request.data)
    configs = {
        name: STAGES[name].config_type.parse(section, name)
        for name, section in _stage_sections(sections, space, request, data).items()
    }
    resources = load_resources(sections["resources"])
    check_processes(resources, configs)
    identity = {name: config.identity() for name, config in configs.items()}
    run_id = f"{file.name}-{space.model}-{digest(identity)[:8]}"
    info = RunInfo(
        run_id=run_id,
        space=file.name,
        model=space.model,
        profile=Path(request.profile).stem,
        seed=request.seed,
        command=request.command(),
    )
    return Plan(request, info, space, configs, resources)


def absolute(data: str) -> str:
    """The path of a folder or file that is there; anything else stays as it is."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def _stage_sections(
    sections: Mapping[str, Any],
    space: SpaceConfig,
    request: Request,
    data: str,
) -> dict[str, dict[str, Any]]:
    own = {name: dict(sections[name]) for name in STAGES}
    shared_space = {"space": space.model_dump()}
    seed = {"seed": request.seed}
    search = {**shared_space, **seed, "strategy": request.strategy}
    recipe = {"recipe": sections["recipe"]}
    return {
        "prepare": {"data": data, **seed, **own["prepare"]},
        "coarse": {**search, **own["coarse"]},
        "fine": {**search, **own["fine"]},
        "decode": own["decode"],
        "train": {**recipe, **seed, **own["train"]},
        "distill": {**shared_space, **recipe, **seed, **own["distill"]},
        "register": {"name": f"fp-nas-{space.model}", **own["register"]},
    }


def available_profiles() -> dict[str, Path]:
    """The profiles that come with the package, by name."""
    return {path.stem: path for path in sorted(PROFILES_DIR.glob("*.yaml"))}


def load_profile(name_or_path: str) -> dict[str, dict[str, Any]]:
    """Loads a profile: one mapping a section, empty where the file has none.

    Raises:
        InputError: Unknown name, unreadable file, or unknown section.
    """
    known = available_profiles()
    path = known.get(name_or_path) or Path(name_or_path)
    if not path.is_file():
        raise InputError(
            "PROFILE",
            name_or_path,
            "is not a known profile",
            legal=f"{', '.join(known)}, or the path of a .yaml file",
            fix=closest(name_or_path, known),
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            "PROFILE", path, f"is not valid YAML: {error}", fix="correct it"
        ) from error
    if not isinstance(data, dict):
        raise InputError("PROFILE", path, "is not a mapping", fix="see fpnas/profiles/smoke.yaml")
    for section, content in data.items():
        if section not in _SECTIONS:
            raise InputError(
                "PROFILE",
                path,
                f"has an unknown section {section}",
                legal=", ".join(_SECTIONS),
                fix=closest(str(section), _SECTIONS),
            )
        if content is not None and not isinstance(content, dict):
            raise InputError(
                f"PROFILE {section}", content, "is not a mapping", fix="write key: value lines"
            )
    return {section: dict(data.get(section) or {}) for section in _SECTIONS}


def apply_overrides(
    sections: dict[str, dict[str, Any]], overrides: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Puts ``section.key=value`` over a profile; the value is read as YAML."""
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.split(".")
        if not equals or len(keys) < 2 or keys[0] not in _SECTIONS:
            raise InputError(
                "--set",
                override,
                "is not section.key=value",
                legal=f"sections {', '.join(_SECTIONS)}",
                fix="for example --set coarse.search.num_steps=100",
            )
        target: dict[str, Any] = sections
        for key in keys[:-1]:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise InputError("--set", override, f"{key} holds no keys", fix="shorten the path")
        target[keys[-1]] = yaml.safe_load(text)
    return sections


def resolve_space(file: SpaceFile, model: str | None, section: Mapping[str, Any]) -> SpaceConfig:
    """Opens a space at the input size and the budget that a profile may override.

    A budget belongs to an input size. When only the size is overridden, the budget is scaled by
    the median cost of uniformly drawn architectures at the two sizes.

    Raises:
        InputError: An unknown key, a size too small, or a budget out of reach.
    """
    for key, value in section.items():
        if key not in ("input_size", "target_macs"):
            raise InputError(
                f"space.{key}",
                value,
                "is not an option",
                legal="input_size, target_macs",
                fix=closest(key, ("input_size", "target_macs")),
            )
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(
                f"space.{key}", value, "is not a positive integer", fix="give a whole number"
            )
    opened = file.open(
        model, input_size=section.get("input_size"), target_macs=section.get("target_macs")
    )
    point = file.models[opened.model]
    target = opened.target_macs
    if not section.get("target_macs") and opened.input_size != point.input_size:
        own = file.open(opened.model)
        target = round(target * _median(opened) / _median(own))
    config = SpaceConfig(
        definition=file.model_dump(mode="json"),
        model=opened.model,
        input_size=opened.input_size,
        target_macs=target,
    )
    _check_target(config)
    return config


def _median(space: Any) -> int:
    from fpnas.cost import CostModel

    return CostModel(space, num_classes=1000).median_macs()


def _check_target(config: SpaceConfig) -> None:
    from fpnas.cost import CostModel

    space = config.open()
    low, _ = CostModel(space, num_classes=2).range_macs()
    _, high = CostModel(space, num_classes=1000).range_macs()
    if not low <= config.target_macs <= high:
        raise InputError(
            "target_macs",
            config.target_macs,
            f"is outside what {space.name} can reach at {space.input_size} px",
            legal=f"{low} to {high}",
            fix="choose a target in the range or another input size",
        )
