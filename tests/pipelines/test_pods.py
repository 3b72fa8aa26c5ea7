"""Why a pod is stuck, from what Kubernetes says about it."""

from __future__ import annotations

import pytest

from pipelines.pods import diagnose

FIT = "0/3 nodes are available: "


def pod(*, phase="Pending", pool="gpu-spot", waiting=None, terminated=None, **status):
    state = {"waiting": waiting} if waiting else {"terminated": terminated} if terminated else {}
    container = {"name": "main", "image": "fpnas-search:0.1.0", "state": state}
    return {
        "metadata": {"labels": {"fpnas.io/stage": "fine"}},
        "spec": {"nodeSelector": {"fpnas.io/pool": pool}},
        "status": {"phase": phase, "containerStatuses": [container] if state else [], **status},
    }


def unscheduled(message, reason="Unschedulable"):
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return pod(conditions=[condition])


def config_error(message):
    return pod(waiting={"reason": "CreateContainerConfigError", "message": message})


@pytest.mark.parametrize(
    ("stuck", "words"),
    [
        (pod(waiting={"reason": "ImagePullBackOff"}), "fpnas-search:0.1.0 cannot be pulled"),
        (config_error('secret "fpnas-s3" not found'), "the secret fpnas-s3 is missing"),
        (config_error('configmap "fpnas-storage" not found'), "configmap fpnas-storage is missing"),
        (
            config_error("couldn't find key AWS_ACCESS_KEY_ID in Secret fpnas/fpnas-s3"),
            "the secret fpnas/fpnas-s3 has no AWS_ACCESS_KEY_ID",
        ),
        (
            unscheduled(f"{FIT}3 node(s) didn't match Pod's node affinity/selector."),
            "no node of the pool gpu-spot",
        ),
        (
            unscheduled(f"{FIT}1 node(s) had untolerated taint {{a: b}}."),
            "no node of the pool gpu-spot",
        ),
        (
            unscheduled(f"{FIT}1 Insufficient nvidia.com/gpu, 2 Insufficient memory."),
            "has enough memory, nvidia.com/gpu left",
        ),
        (unscheduled("", "SchedulingGated"), "Kueue's queue"),
        (pod(phase="Failed", reason="Evicted", message="disk"), "evicted: disk"),
        (pod(phase="Failed", reason="DeadlineExceeded"), "its time was up"),
        (pod(phase="Failed", reason="Terminated"), "its node went away"),
        (
            pod(phase="Failed", conditions=[{"type": "DisruptionTarget", "status": "True"}]),
            "its node went away",
        ),
        (pod(phase="Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), "out of memory"),
        (pod(phase="Failed", terminated={"exitCode": 2}), "bad input"),
        (pod(phase="Failed", terminated={"exitCode": 75}), "the next try goes on"),
        (pod(phase="Failed", terminated={"exitCode": 1}), "failed with status 1"),
    ],
)
def test_a_cause_and_what_to_do(stuck, words):
    assert words in diagnose(stuck).cause


@pytest.mark.parametrize(
    ("stuck", "words"),
    [
        (pod(phase="Failed", reason="DeadlineExceeded"), "raise resources.fine.timeout_seconds"),
        (
            pod(phase="Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}),
            "raise resources.fine.memory",
        ),
        (pod(phase="Failed", terminated={"exitCode": 2}), "fpnas logs RUN fine"),
        (unscheduled(f"{FIT}1 Insufficient memory."), "resources.fine"),
    ],
)
def test_the_advice_names_the_stage(stuck, words):
    assert words in diagnose(stuck).fix


def test_events_say_more():
    waiting = unscheduled(f"{FIT}3 node(s) didn't match Pod's node affinity/selector.")
    assert "being added" in diagnose(waiting, [{"reason": "TriggeredScaleUp"}]).cause
    mount = {"reason": "FailedMount", "message": 'MountVolume failed: secret "tls" not found'}
    assert "the secret tls is missing" in diagnose(pod(), [mount]).cause


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_a_healthy_pod_has_no_cause(phase):
    assert diagnose(pod(phase=phase), [{"reason": "Pulled", "message": "pulled"}]) is None
