"""What became of a retraining, as Markdown for a job's page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fpnas.report.formats import (
    format_count,
    format_macs,
    format_percent,
    format_points,
    format_seconds,
)

_ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("top-1", "top1", format_percent),
    ("validation pictures", "num_val_images", format_count),
    ("MACs", "macs", format_macs),
    ("parameters", "params", format_count),
    ("latency, batch 1", "latency_ms", lambda value: f"{value:.2f} ms"),
    ("strategy", "search_strategy", str),
    ("architectures sampled", "search_num_samples", format_count),
    ("search", "search_seconds", format_seconds),
    ("all stages", "total_seconds", format_seconds),
    ("run", "run", lambda value: _code(value)),
)
_MOST_DIFFERENCES = 30


def markdown(document: Mapping[str, Any]) -> str:
    """Writes a summary.

    Args:
        document: From :func:`pipelines.retrain.retrain`.
    """
    champion, challenger = document["champion"], document["challenger"]
    lines = [f"## Retraining {_code(document['model'])}: {_headline(document)}", ""]
    lines += [*_why(document), ""]
    if champion or challenger:
        lines += [*_table(champion, challenger), ""]
    if challenger and document["noise"] is not None:
        gain = challenger["top1"] - champion["top1"]
        lines += [
            f"Top-1 changed by {format_points(gain)}; the noise is "
            f"{format_points(document['noise']).lstrip('+')}, one standard error of the "
            "difference.",
            "",
        ]
    lines += [f"**Decision:** {_headline(document)}. {_sentence(document['reason'])}", ""]
    lines += [f"Fingerprint {_code(document['fingerprint'])}, engine {document['engine']}.", ""]
    lines += [f"- [{name}]({url})" for name, url in document["links"].items()]
    return "\n".join(lines).rstrip() + "\n"


def failure(model: str, run: str, message: str) -> str:
    """Writes a summary of a retraining that came to no decision.

    Args:
        model: Of the registry, or the operating point.
        run: The run's name.
        message: Of the error.
    """
    fence = "`" * max(3, 1 + max((len(f) for f in re.findall(r"`+", message)), default=0))
    text = "The champion stays. The run is"
    return f"## Retraining {_code(model)}: failed\n\n{text} {_code(run)}.\n\n" + (
        f"{fence}text\n{message}\n{fence}\n"
    )


def _headline(document: Mapping[str, Any]) -> str:
    champion, challenger = document["champion"], document["challenger"]
    if not document["retrained"]:
        return "nothing changed, nothing done"
    if document["promoted"]:
        return f"version {challenger['version']} is the champion"
    if champion is None:
        return f"version {challenger['version']} is not the champion"
    return f"version {champion['version']} stays the champion"


def _why(document: Mapping[str, Any]) -> list[str]:
    champion, differences = document["champion"], document["differences"]
    if not document["retrained"]:
        return [_sentence(document["reason"])]
    forced = "It was asked for whatever has changed. " if document["forced"] else ""
    if champion is None:
        return [f"{forced}There was no champion."]
    if not differences:
        return [f"{forced}Nothing differs from the champion, version {champion['version']}."]
    shown = differences[:_MOST_DIFFERENCES]
    more = len(differences) - len(shown)
    return [
        f"{forced}What differs from the champion, version {champion['version']}:",
        "",
        *(f"- {_code(line)}" for line in shown),
        *([f"- and {more} more"] if more else []),
    ]


def _table(champion: Mapping[str, Any] | None, challenger: Mapping[str, Any] | None) -> list[str]:
    columns = {"champion": champion, "challenger": challenger}
    present = {name: told for name, told in columns.items() if told is not None}
    names = [f"{name} (version {told['version']})" for name, told in present.items()]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for label, key, shown in _ROWS:
        cells = [shown(told[key]) if key in told else "" for told in present.values()]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cell.replace('|', '') for cell in cells)} |")
    return lines


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _code(text: str) -> str:
    """Text as code, whatever is in it."""
    return f"`{' '.join(text.replace('`', '').split())}`"
