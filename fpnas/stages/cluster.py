"""How a cluster's API is reached: through a kubeconfig, or as a pod's own account."""

from __future__ import annotations

from fpnas.errors import InputError


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
