"""What ``fpnas doctor`` looks at for an engine, besides what every run needs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fpnas.doctor import Check, checked
from pipelines.engine import ENGINES, unknown_engine
from pipelines.kfp_runs import ENDPOINT, KFP, server_at


def engine_checks(engine: str, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Looks at what an engine needs.

    Args:
        engine: One of :data:`pipelines.engine.ENGINES`.
        environ: The variables that a run would read.

    Raises:
        InputError: There is no such engine.
    """
    if engine not in ENGINES:
        raise unknown_engine(engine)
    if engine == "docker":
        from pipelines import container_engine

        return container_engine.checks(environ)
    return checked("kubeflow pipelines", lambda: _server(environ)) if engine == KFP else []


def _server(environ: Mapping[str, str]) -> Check:
    server = server_at(environ.get(ENDPOINT, ""), None, environ)
    version = server.check()
    return Check("kubeflow pipelines", "ok", f"version {version or 'not told'} at {server.name}")
