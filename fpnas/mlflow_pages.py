"""Addresses of pages in MLflow's UI."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_TRAINING_PAGES = "workflowType=machine_learning"  # without it the UI shows those for agents


def experiment_url(server: str, experiment_id: str) -> str:
    """Returns the UI's page with an experiment's runs, and charts of their figures."""
    return (
        f"{_page(server)}/#/experiments/{experiment_id}/runs"
        f"?compareRunsMode=CHART&{_TRAINING_PAGES}"
    )


def run_url(server: str, experiment_id: str, run_id: str) -> str:
    """Returns the UI's page of one run."""
    return f"{_page(server)}/#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING_PAGES}"


def compare_url(server: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Returns the UI's page that compares runs."""
    runs = json.dumps(list(run_ids), separators=(",", ":"))
    experiments = json.dumps([experiment_id])
    return f"{_page(server)}/#/compare-runs?runs={runs}&experiments={experiments}&{_TRAINING_PAGES}"


def _page(server: str) -> str:
    """A server's address as a page's: a person has a password of their own."""
    return re.sub(r"//[^/@]*@", "//", server).rstrip("/")
