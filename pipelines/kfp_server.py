"""Kubeflow Pipelines over HTTP: whatever happens to an answer, nothing is made twice.

KFP's own client waits without end for a server that is silent, and repeats nothing or everything.
Here reading is repeated, and making something is followed by a look when its answer was lost.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fpnas.canonical import digest
from fpnas.errors import FpnasError, InputError, ServiceDownError
from pipelines.kfp_http import Connection

_LOOKS_SECONDS = (0.5, 2.0, 5.0)  # waits before looking for what a lost answer may have made
_NOT_TAKEN = (429, 503)  # the server says that it did nothing
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_MADE_AGAIN = ("FAILED", "CANCELED", "CANCELING")


class Server:
    """An API server of Kubeflow Pipelines.

    Args:
        endpoint: Its address, such as ``https://kubeflow.example.com/pipeline``.
        token_path: A file with a bearer token, which is read at every request.
        namespace: Of a server with several users.
        wait: Sleeps; a test gives its own.

    Raises:
        InputError: The endpoint is no address, or the token cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        token_path: Path | None = None,
        namespace: str | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = Connection(endpoint, token_path, wait)
        self._namespace, self._wait = namespace, wait

    @property
    def name(self) -> str:
        """Its address, without what may be a password."""
        return self._http.name

    def check(self) -> str:
        """Checks that the server answers, and that it knows what this SDK compiles.

        Returns:
            Its version; empty where it does not tell.

        Raises:
            ServiceDownError: It does not answer.
            InputError: It is older than the SDK, refuses the token, or shows a page to log in.
        """
        found = self._get("v2beta1/healthz", missing=None)
        own = importlib.metadata.version("kfp")
        tag = (self._get("v1beta1/healthz", missing={}) or {}).get("tag_name", "")
        numbers = re.match(r"v?(\d+)\.(\d+)", tag)
        older = numbers and tuple(map(int, numbers.groups())) < _minor(own)
        if found is None or older:
            raise InputError(
                "KF_PIPELINES_ENDPOINT",
                self.name,
                f"has KFP {tag or '1'}, older than the SDK {own} that compiles for it",
                fix=f"upgrade the server to {own}, or install kfp of the server's version",
            )
        return str(tag)

    def experiment(self, name: str) -> str:
        """The identifier of an experiment, which is made when there is none."""
        body = {"display_name": name, **self._of_namespace()}

        def look() -> dict[str, Any] | None:
            return self._experiment(name)

        found = look() or self._make("experiments", body, look)
        return str(found["experiment_id"])

    def known_experiment(self, name: str) -> str:
        """The identifier of an experiment that is there.

        Raises:
            InputError: There is none of this name.
        """
        found = self._experiment(name)
        if found is None:
            raise InputError(
                "--experiment",
                name,
                f"is not an experiment of KFP at {self.name}",
                fix="give the one that the run was submitted to; without the option it is fpnas",
            )
        return str(found["experiment_id"])

    def runs(self, name: str, experiment: str) -> list[dict[str, Any]]:
        """The runs of a name, the newest first."""
        return self._named("runs", name, {"experiment_id": experiment})

    def run(self, identifier: str) -> dict[str, Any]:
        """A run with its tasks."""
        found = self._get(f"v2beta1/runs/{identifier}")
        assert found is not None
        return found

    def submit(
        self, name: str, experiment: str, body: Mapping[str, Any], *, again: bool = False
    ) -> tuple[dict[str, Any], bool]:
        """Makes a run, unless one of its name is under way or has succeeded.

        Args:
            name: Derived from the plan, so that equal plans have equal names.
            experiment: Identifier.
            body: The rest of the run.
            again: Make another one even after success.

        Returns:
            The run, and whether it was made now.

        Raises:
            ServiceDownError: It is not known whether it was made; the same call finds out.
        """
        before = self.runs(name, experiment)
        replaced = (*_MADE_AGAIN, "SUCCEEDED") if again else _MADE_AGAIN
        for run in before:
            if run.get("state", "PENDING") not in replaced:
                return run, False
        known = {run["run_id"] for run in before}

        def look() -> dict[str, Any] | None:
            return next((r for r in self.runs(name, experiment) if r["run_id"] not in known), None)

        made = self._make("runs", {"display_name": name, "experiment_id": experiment, **body}, look)
        return made, True

    def schedule(
        self, name: str, experiment: str, cron: str, body: Mapping[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """Makes a recurring run, unless there is one of its name.

        Raises:
            InputError: There is one with another schedule, or that starts something else.
        """
        contents = f"fpnas {digest(body)}"

        def look() -> dict[str, Any] | None:
            found = self._named("recurringruns", name, {"experiment_id": experiment})
            return next(iter(found), None)

        found = look()
        if found is not None:
            _check_schedule(found, cron, contents)
            return found, False
        trigger = {"cron_schedule": {"cron": cron}}
        more = {"trigger": trigger, "mode": "ENABLE", "max_concurrency": "1", "no_catchup": True}
        named = {"display_name": name, "description": contents, "experiment_id": experiment}
        return self._make("recurringruns", {**named, **more, **body}, look), True

    def unschedule(self, name: str, experiment: str) -> list[str]:
        """Deletes the recurring runs of a name; their identifiers."""
        found = self._named("recurringruns", name, {"experiment_id": experiment})
        for item in found:
            path = f"v2beta1/recurringruns/{item['recurring_run_id']}"
            answer = self._http.send("DELETE", path)
            if not answer.ok and answer.status != 404:
                raise self._http.failure(answer, f"delete {path}")
        return [item["recurring_run_id"] for item in found]

    def cancel(self, identifier: str) -> dict[str, Any]:
        """Stops a run; one that has ended stays as it is."""

        def look() -> dict[str, Any] | None:
            run = self.run(identifier)
            return run if run.get("state") in (*ENDED, "CANCELING") else None

        if look() is None:
            self._make(f"runs/{identifier}:terminate", {}, look)
        return self.run(identifier)

    def wait(self, identifier: str, pause_seconds: float = 15.0) -> dict[str, Any]:
        """Waits for the end of a run, and lives through a server that is away for a while.

        Raises:
            ServiceDownError: The server was away for 40 looks in a row; the run goes on.
        """
        missed = 0
        while True:
            try:
                run = self.run(identifier)
                missed = 0
            except ServiceDownError:
                missed += 1
                if missed == 40:
                    raise
            else:
                if run.get("state") in ENDED:
                    return run
            self._wait(pause_seconds)

    def _make(
        self, path: str, body: Mapping[str, Any], look: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any]:
        for _ in range(3):
            answer = self._http.send("POST", f"v2beta1/{path}", body)
            if answer.ok:
                return dict(answer.body)
            status = answer.status
            if status is not None and status < 500 and status not in (409, 429):
                break
            # The answer is lost or an error: what was asked for may exist all the same.
            for seconds in _LOOKS_SECONDS:
                self._wait(seconds)
                found = look()
                if found is not None:
                    return found
            if status not in _NOT_TAKEN:
                break
        raise self._http.failure(answer, f"make {path.partition('/')[0]}")

    def _experiment(self, name: str) -> dict[str, Any] | None:
        return next(iter(self._named("experiments", name, self._of_namespace())), None)

    def _named(self, kind: str, name: str, where: Mapping[str, str]) -> list[dict[str, Any]]:
        predicate = {"key": "display_name", "operation": "EQUALS", "string_value": name}
        query = {"filter": json.dumps({"predicates": [predicate]}), "page_size": "100"}
        found = self._get(f"v2beta1/{kind}", {**query, "sort_by": "created_at desc", **where}) or {}
        listed = found.get({"recurringruns": "recurringRuns"}.get(kind, kind), [])
        return [item for item in listed if item.get("display_name") == name]

    def _of_namespace(self) -> dict[str, str]:
        return {"namespace": self._namespace} if self._namespace else {}

    def _get(
        self, path: str, query: Mapping[str, str] | None = None, missing: Any = FpnasError
    ) -> dict[str, Any] | None:
        answer = self._http.send("GET", path, query=query)
        if answer.status == 404 and missing is not FpnasError:
            return missing  # type: ignore[no-any-return]
        if not answer.ok:
            raise self._http.failure(answer, f"read {path}")
        return dict(answer.body)


def _check_schedule(found: Mapping[str, Any], cron: str, contents: str) -> None:
    """Raises InputError when a recurring run is not the one that was asked for."""
    fix = "run fpnas schedule with --remove first"
    other = found.get("trigger", {}).get("cron_schedule", {}).get("cron")
    if other != cron:
        problem = f"differs from {other}, the schedule of {found['display_name']}"
        raise InputError("CRON", cron, problem, fix=fix)
    if found.get("description") != contents:
        raise InputError(
            "schedule",
            found["display_name"],
            "starts a pipeline with other images, resources or options than these",
            fix=fix,
        )


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])
