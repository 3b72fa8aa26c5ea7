"""Names that the pipeline and the manifests under ``k8s/`` share."""

from __future__ import annotations

import re

NAMESPACE = "fpnas"
SERVICE_ACCOUNT = "fpnas-pipeline"
S3_SECRET = "fpnas-s3"  # noqa: S105, the name of a secret
S3_SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL_S3_SECRET_KEYS = ("AWS_SESSION_TOKEN",)
"""What the secret has besides with temporary keys."""
STORAGE_CONFIG_MAP = "fpnas-storage"
STORAGE_KEYS = ("S3_ENDPOINT_URL", "AWS_DEFAULT_REGION", "FPNAS_STORAGE", "MLFLOW_TRACKING_URI")
OPTIONAL_STORAGE_KEYS = ("FPNAS_EXPERIMENT",)
"""What the config map may have besides; without it the experiment is ``fpnas``."""
QUEUE_LABEL, QUEUE = "kueue.x-k8s.io/queue-name", "fpnas"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
STAGE_LABEL, RUN_LABEL = "fpnas.io/stage", "fpnas.io/run"
TRAINING_RUNTIME = "fpnas"
"""What a TrainJob's pods are, but for what its stage gets."""

SCRATCH = "/scratch"
USER_ID = 10001
"""User of the images; pods do not run as root."""

SCRATCH_VARIABLES = {"HOME": SCRATCH, "TMPDIR": SCRATCH, "FPNAS_HOME": f"{SCRATCH}/fpnas"}
"""Where a stage may write, as a pod's user owns nothing else."""

_LONGEST_LABEL = 63


def pod_labels(stage: str, priority: str | None) -> dict[str, str]:
    """Labels of a stage's pod: the stage, and the queue that admits it."""
    labels = {STAGE_LABEL: stage, QUEUE_LABEL: QUEUE}
    return {**labels, PRIORITY_LABEL: priority} if priority else labels


def run_name(run_id: str) -> str:
    """A run's name as Kubernetes takes names and labels; its end, a digest, is always whole."""
    name = "fpnas-" + re.sub(r"[^a-z0-9-]+", "-", run_id.lower()).strip("-")
    if len(name) <= _LONGEST_LABEL:
        return name
    words, _, digest = name.rpartition("-")
    return f"{words[: _LONGEST_LABEL - 1 - len(digest)].rstrip('-')}-{digest}"
