"""A quota that keeps a pod from being made: neither the pod nor an event of it exists."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.kfp_body import run_body
from pipelines.plan import Request, make_plan
from pipelines.pods import waiting_stages, without_pod

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
MANIFEST = Path(__file__).parents[2] / "k8s" / "base" / "quota.yaml"
GPU = ("resources.fine.pool=gpu", "resources.fine.gpus=1")


def run_of(*tasks, state="RUNNING", overrides=()):
    """A run as KFP gives it."""
    details = [{"display_name": name, "state": state} for name, state in tasks]
    body = run_body(make_plan(Request(overrides=overrides)), None, "a", {})
    return {**body, "run_id": "1", "state": state, "run_details": {"task_details": details}}


def pod(stage, phase):
    return {
        "metadata": {"name": f"{stage}-1", "labels": {"fpnas.io/stage": stage}},
        "status": {"phase": phase},
    }


def quota(**used):
    """The quota of k8s/base, as the cluster's API gives it when so much is used."""
    documents = yaml.safe_load_all(MANIFEST.read_text())
    manifest = next(d for d in documents if d["kind"] == "ResourceQuota")
    hard = manifest["spec"]["hard"]
    return {**manifest, "status": {"hard": hard, "used": {**dict.fromkeys(hard, "0"), **used}}}


def causes(run, pods, quotas):
    return {e["stage"]: e for e in without_pod(run, waiting_stages(run, pods), quotas)}


def test_a_stage_whose_pod_is_refused_is_told_why():
    run = run_of(("coarse", "SUCCEEDED"), ("fine", "PENDING"))
    full = quota(**{"limits.cpu": "92", "requests.cpu": "60", "pods": "7"})
    found = causes(run, [pod("coarse", "Succeeded")], [full])
    assert list(found) == ["fine"]
    assert found["fine"]["phase"] == "Pending"
    assert "quota fpnas (limits.cpu 92 of 96, requests.cpu 60 of 64 used)" in found["fine"]["cause"]
    assert "resources.fine" in found["fine"]["fix"]


def test_gpus_that_the_quota_does_not_allow_concern_only_who_asks_for_one():
    tasks = (("fine", "PENDING"),)
    assert causes(run_of(*tasks), [], [quota()]) == {}
    found = causes(run_of(*tasks, overrides=GPU), [], [quota()])
    assert "requests.nvidia.com/gpu 0 of 0 used" in found["fine"]["cause"]


def test_a_run_whose_first_pod_is_refused():
    (found,) = causes(run_of(state="PENDING"), [], [quota(pods="100")]).values()
    assert "pods 100 of 100 used" in found["cause"]
    assert found["stage"] == ""


def test_a_full_quota_is_no_news_where_nothing_waits_for_it():
    full = quota(pods="100")
    running = run_of(("fine", "RUNNING"))
    assert causes(running, [pod("fine", "Running")], [full]) == {}
    assert causes(running, [pod("fine", "Failed")], [full]).keys() == {"fine"}
    assert causes(run_of(("fine", "FAILED"), state="FAILED"), [], [full]) == {}
