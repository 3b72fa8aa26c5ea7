"""The local engine: every stage a process of this machine, by KFP's SubprocessRunner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fpnas.stages.base import ENGINE_PID
from pipelines.engine import LocalPlan, Session, environment


class LocalEngine:
    """Runs stages in this environment."""

    name = "local"

    def check(self, plan: LocalPlan) -> None:
        """Nothing is needed beyond this package."""

    @contextlib.contextmanager
    def session(
        self, _plan: LocalPlan, _directory: Path, variables: Mapping[str, str]
    ) -> Iterator[Session]:
        """Stages inherit the environment of this process."""
        from kfp import local

        with environment({**variables, ENGINE_PID: str(os.getpid())}):
            yield Session(local.SubprocessRunner(use_venv=False))
