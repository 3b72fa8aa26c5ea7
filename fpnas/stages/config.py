"""What the configurations of the stages have in common. Light to import."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fpnas.errors import InputError, closest
from fpnas.space import SearchSpace, parse_space


class Strict(BaseModel):
    """A frozen model to which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Runtime(Strict):
    """What may change between two tries of one computation without changing its result.

    Attributes:
        device: ``auto`` takes the GPU when there is one.
        checkpoint_seconds: Least time between two checkpoints.
        tracking_seconds: How long a stage waits for an MLflow that does not answer.
    """

    device: str = "auto"
    checkpoint_seconds: float = Field(default=15.0, ge=0)
    tracking_seconds: float = Field(default=60.0, ge=0)


class StageConfig(Strict):
    """The configuration of a stage; ``runtime`` is not part of what identifies its result."""

    runtime: Runtime = Runtime()

    def identity(self) -> dict[str, Any]:
        """The JSON object that the result depends on."""
        return self.model_dump(mode="json", exclude={"runtime"})

    @classmethod
    def parse(cls, data: Any, section: str) -> Self:
        """Validates a section of a profile.

        Raises:
            InputError: Naming the field as ``section.field``.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause from error
            loc = [str(part) for part in first["loc"]]
            if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
                fix = closest(loc[-1], cls.model_fields) if len(loc) == 1 else "remove the key"
                raise InputError(
                    ".".join([section, *loc]), first["input"], "is not an option", fix=fix
                ) from error
            raise InputError(
                ".".join([section, *loc]),
                first.get("input"),
                f"is wrong: {first['msg']}",
                fix="correct the profile or the --set option",
            ) from error


def num_processes(config: StageConfig) -> tuple[int, str]:
    """How many processes a stage has, and the option that says so; empty where there is none."""
    for holder, field in ((config, "num_processes"), (config.runtime, "runtime.num_processes")):
        if hasattr(holder, "num_processes"):
            return holder.num_processes, field
    return 1, ""


class SpaceConfig(Strict):
    """A search space at an operating point, complete, so that a stage needs no file.

    Attributes:
        definition: The space file's contents.
        model: The operating point.
        input_size: Pixels.
        target_macs: The budget.
    """

    definition: dict[str, Any]
    model: str
    input_size: int
    target_macs: int

    def open(self) -> SearchSpace:
        """Returns the space."""
        return parse_space(self.definition, "the configuration").open(
            self.model, input_size=self.input_size, target_macs=self.target_macs
        )
