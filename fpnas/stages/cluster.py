"""How a cluster's API is reached: through a kubeconfig, or as a pod's own account."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fpnas.errors import InputError

if TYPE_CHECKING:
    from kubernetes.client import ApiException


def load_cluster() -> None:
    """Tells the Kubernetes client where the cluster is, and who asks.

    Raises:
        InputError: There is no kubeconfig, and this is no pod.
    """
    from kubernetes import config

    try:
        try:
            config.load_kube_config()
        except config.ConfigException:
            config.load_incluster_config()  # load_config would print on stdout
    except (config.ConfigException, TypeError) as error:
        raise InputError(
            "KUBECONFIG",
            "(none)",
            "leads to no cluster",
            fix="set it to a kubeconfig, or work inside the cluster",
        ) from error


def reason_of(error: ApiException) -> str:
    """Why a cluster's API does not do what was asked of it, in its own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
