"""What a model depends on, in parts that can be named: whether training it again can differ.

| part | what |
|---|---|
| ``space`` | the search space, the input size and the budget |
| ``recipe`` | every other option of the stages that make the model, and the shared recipe |
| ``data`` | names, sizes and times of the pictures, or the tags that S3 gives to their contents |
| ``teacher`` | the file or the registered version that a teacher comes from |
| ``seed`` | of everything that is drawn, the split of the pictures among it |
| ``code`` | the syntax trees of every stage's code, without comments and docstrings |

The seed counts, since equal fingerprints shall mean equal models. Nodes, memory, devices and other
options of ``runtime`` do not: they change where a model is made. Nor does the stage ``register``,
which only writes down what the others have made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from fpnas.canonical import canonical_json, digest
from fpnas.stages.base import MAKERS, STAGES, sources

if TYPE_CHECKING:
    from fpnas.stages.config import StageConfig
    from fpnas.storage import Artifact, Store

PARTS = ("space", "recipe", "data", "teacher", "seed", "code")
FINGERPRINT = "fingerprint"
"""Tag of a registered version with the whole digest; ``fingerprint_<part>`` has a part's."""

_DETAILS = f"{FINGERPRINT}_details"
_MAX_DETAILS = 50_000  # characters; MLflow takes twice as many
_SHARED = ("space", "seed", "recipe")
_SOURCES, _RESOLVED = "sources", "resolved"
_MAX_VALUE = 60


@dataclass(frozen=True)
class Fingerprint:
    """A digest of what a model depends on, and its parts.

    Attributes:
        digests: One for each of :data:`PARTS`.
        details: The JSON behind each digest; None where it was too long to keep.
    """

    digests: Mapping[str, str]
    details: Mapping[str, Any] | None

    @classmethod
    def of_parts(cls, parts: Mapping[str, Any]) -> Self:
        """Makes the digests of the parts."""
        return cls({name: digest(parts[name]) for name in PARTS}, parts)

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Self | None:
        """Reads the tags of a registered version; None when it was made elsewhere."""
        try:
            digests = {name: tags[f"{FINGERPRINT}_{name}"] for name in PARTS}
            details = json.loads(tags[_DETAILS]) if _DETAILS in tags else None
        except (KeyError, ValueError):
            return None
        return cls(digests, details)

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return digest(self.digests)

    def tags(self) -> dict[str, str]:
        """Tags of a registered version, from which :meth:`from_tags` makes the fingerprint."""
        parts = {f"{FINGERPRINT}_{name}": value for name, value in self.digests.items()}
        text = canonical_json(self.details)
        kept = {_DETAILS: text} if len(text) <= _MAX_DETAILS else {}
        return {FINGERPRINT: self.digest, self.mark: "yes", **parts, **kept}

    @property
    def mark(self) -> str:
        """Name of a tag that stays when the same model is made of something else as well."""
        return f"made_of_{self.digest[:32]}"

    def differences(self, before: Fingerprint) -> list[str]:
        """Says what has changed, a line an option or a part.

        Args:
            before: What it is compared with.

        Returns:
            Such as ``recipe.epochs: 20 -> 25``; nothing when the two are equal.
        """
        lines = []
        for name in PARTS:
            if self.digests[name] == before.digests[name]:
                continue
            if self.details is None or before.details is None:
                lines.append(f"{name}: changed")
                continue
            old, new = (dict(_leaves(d.details[name])) for d in (before, self))  # type: ignore[index]
            if name == "code":  # digests say nothing to a person
                stages = [key for key in MAKERS.values() if old.get(key) != new.get(key)]
                lines.append(f"code: that of {', '.join(stages)}")
                continue
            found = [
                f"{_path(name, key)}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
                for key in {**old, **new}
                if old.get(key) != new.get(key)
            ]
            lines += found or [f"{name}: changed"]
        return lines


def fingerprint_for(configs: Mapping[str, StageConfig], store: Store) -> Fingerprint:
    """The fingerprint of the model that a run would make now; nothing of it is made.

    Args:
        configs: Of the stages.
        store: Reads the names of pictures that are in S3.
    """
    return _combine(
        {
            name: (
                configs[name].identity(),
                sources(STAGES[name], configs[name], store),
                STAGES[name].code_version(),
            )
            for name in MAKERS.values()
        }
    )


def fingerprint_of(artifacts: Mapping[str, Artifact]) -> Fingerprint:
    """The fingerprint of a model that was made, from the manifests of what it was made of.

    Args:
        artifacts: By the roles of :data:`fpnas.stages.base.MAKERS`.
    """
    return _combine(
        {
            MAKERS[role]: (
                {k: v for k, v in artifact.config.items() if k not in (_SOURCES, _RESOLVED)},
                artifact.config.get(_SOURCES, {}),
                artifact.manifest["code_version"],
            )
            for role, artifact in artifacts.items()
        }
    )


def _combine(
    stages: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]],
) -> Fingerprint:
    """Sorts configuration, sources and code of every stage into parts."""
    options = {name: dict(config) for name, (config, _, _) in stages.items()}
    del options["prepare"]["data"]  # a place; what counts is what is there
    shared = {}
    for key in _SHARED:
        holders = [own for own in options.values() if key in own]
        shared[key] = holders[0][key]
        for own in holders:  # an option that one stage has of its own stays with it
            if own[key] == shared[key]:
                del own[key]
    return Fingerprint.of_parts(
        {
            "space": shared["space"],
            "recipe": {"recipe": shared["recipe"], **options},
            "data": stages["prepare"][1],
            "teacher": stages["distill"][1],
            "seed": shared["seed"],
            "code": {name: code for name, (_, _, code) in stages.items()},
        }
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _path(part: str, path: str) -> str:
    """As ``--set`` names an option, where it can."""
    if part == "recipe":
        return path
    return f"{part}.{path}" if path else part


def _shown(value: Any) -> str:
    text = "(none)" if value is None else canonical_json(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."
