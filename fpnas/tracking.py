"""MLflow: runs, metrics in batches and figures.

A run must not die of its bookkeeping: MLflow has to answer when a run starts, but when it fails
later there is one warning, metrics wait in memory, and they are sent when it answers again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpnas.errors import InputError, first_line, without_password
from fpnas.storage import connect, home_directory

_LOG = logging.getLogger(__name__)
DEFAULT_EXPERIMENT = "fpnas"
OWN_SERVER = "FPNAS_OWN_MLFLOW"
"""Environment variable: address of an MLflow server that this machine started for itself."""

_SECRET = re.compile(
    r"secret|password|passwd|token|credential|(^|[._-])(api)?_?key($|[._-]|_id)", re.I
)
_MAX_VALUE_LENGTH = 6000  # MLflow's limit for a parameter; longer ones are refused
_MAX_TAG_LENGTH = 8000
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
# Metrics of a long outage; the oldest go first. About 100 MB.
_MAX_WAITING = 200_000
_RETRY_SECONDS = 30.0


@dataclass(frozen=True)
class Tracking:
    """Where runs are tracked: MLflow's address and the experiment."""

    uri: str
    experiment_id: str
    experiment: str


def tracking_uri(environ: Mapping[str, str] = os.environ) -> str:
    """Returns ``MLFLOW_TRACKING_URI``, else the address of a sqlite file in the home."""
    given = environ.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{home_directory(environ) / 'mlflow.db'}"


def registry_name(environ: Mapping[str, str] = os.environ) -> str:
    """Returns what tells one registry from another, and is empty for this machine's own.

    It is a digest of ``MLFLOW_TRACKING_URI``, since an address may hold a password. A server that
    this machine has started over its own file, and named in ``FPNAS_OWN_MLFLOW``, is this
    machine's own too.
    """
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    own = uri in ("", environ.get(OWN_SERVER))
    return "" if own else hashlib.sha256(uri.encode()).hexdigest()[:12]


def initialise(environ: Mapping[str, str] = os.environ) -> Tracking:
    """Makes the database and the experiment when they are not there.

    Call it once before anything runs in parallel; it is safe in several processes.

    Args:
        environ: ``MLFLOW_TRACKING_URI``, ``FPNAS_EXPERIMENT`` (default ``fpnas``), and what
            :func:`fpnas.storage.connect` reads: artifacts go to ``<FPNAS_STORAGE>/mlflow``, and on
            an MLflow server of somebody's where it puts them.

    Raises:
        InputError: Naming MLFLOW_TRACKING_URI if MLflow cannot be used, or FPNAS_EXPERIMENT if
            the experiment was deleted.
    """
    uri = tracking_uri(environ)
    name = environ.get("FPNAS_EXPERIMENT") or DEFAULT_EXPERIMENT
    client = connect_client(uri)
    lock = home_directory(environ) / "mlflow.lock"
    # The first writers of a fresh sqlite database crash each other.
    with _locked(lock) if uri.startswith("sqlite:") else contextlib.nullcontext():
        try:
            experiment = client().get_experiment_by_name(name)
            if experiment is None:
                try:
                    location = _artifact_location(environ)
                    experiment_id = client().create_experiment(name, artifact_location=location)
                except Exception:
                    experiment = client().get_experiment_by_name(name)
                    if experiment is None:
                        raise
                else:
                    return Tracking(uri, experiment_id, name)
        except InputError:
            raise
        except Exception as error:  # MLflow raises errors of many libraries
            raise InputError(
                "MLFLOW_TRACKING_URI",
                without_password(uri),
                f"cannot be used ({first_line(error)})",
                legal="http(s)://HOST:PORT or sqlite:///PATH",
                fix="start the server or correct the address; unset it to use a file on this "
                "machine",
            ) from error
    if experiment.lifecycle_stage == "deleted":
        raise InputError(
            "FPNAS_EXPERIMENT",
            name,
            "was deleted in MLflow",
            fix="restore it with `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}`, or set FPNAS_EXPERIMENT to another name",
        )
    return Tracking(uri, str(experiment.experiment_id), name)


class Run:
    """One MLflow run. Not for use by several threads.

    Args:
        tracking: Where.
        run_id: The run.
        flush_seconds: Metrics are sent when the oldest has waited this long.
        flush_entries: Or when there are this many.
    """

    def __init__(
        self,
        tracking: Tracking,
        run_id: str,
        *,
        flush_seconds: float = 10.0,
        flush_entries: int = _METRICS_PER_BATCH,
    ) -> None:
        self.tracking, self.run_id = tracking, run_id
        self._client = connect_client(tracking.uri)
        self._flush_seconds, self._flush_entries = flush_seconds, flush_entries
        self._waiting: list[Any] = []
        self._next_flush = time.monotonic() + flush_seconds
        self._warned = False

    @classmethod
    def start_or_resume(
        cls,
        tracking: Tracking,
        *,
        name: str,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        flush_seconds: float = 10.0,
        flush_entries: int = _METRICS_PER_BATCH,
    ) -> Run:
        """Starts a run, or goes on with one.

        Args:
            tracking: From :func:`initialise`.
            name: Its name in the UI.
            run_id: The run to go on with; None starts a new one.
            parent_run_id: The run under which it is shown.
            tags: Its tags.
            flush_seconds: See :class:`Run`.
            flush_entries: See :class:`Run`.

        Raises:
            InputError: If MLflow does not answer, or does not know ``run_id``.
        """
        all_tags = {key: str(value)[:_MAX_TAG_LENGTH] for key, value in (tags or {}).items()}
        if parent_run_id is not None:
            all_tags["mlflow.parentRunId"] = parent_run_id
        client = connect_client(tracking.uri)
        try:
            if run_id is None:
                created = client().create_run(tracking.experiment_id, run_name=name, tags=all_tags)
                run_id = str(created.info.run_id)
            else:
                client().update_run(run_id, status="RUNNING", name=name)
                for key, value in all_tags.items():
                    client().set_tag(run_id, key, value)
        except Exception as error:
            raise InputError(
                "MLFLOW_TRACKING_URI",
                without_password(tracking.uri),
                f"does not let a run start ({first_line(error)})",
                fix="see that MLflow answers and knows the run, then run again",
            ) from error
        return cls(tracking, run_id, flush_seconds=flush_seconds, flush_entries=flush_entries)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs a nested configuration as ``outer.inner`` names; secrets are left out."""
        from mlflow.entities import Param

        entries = [Param(key[:250], value[:_MAX_VALUE_LENGTH]) for key, value in _flatten(params)]
        for start in range(0, len(entries), _PARAMS_PER_BATCH):
            batch = entries[start : start + _PARAMS_PER_BATCH]
            self._try("parameters", lambda: self._client().log_batch(self.run_id, params=batch))  # noqa: B023

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes metrics of a step; they are sent later, in batches."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting.extend(Metric(key, float(value), now, step) for key, value in metrics.items())
        if len(self._waiting) > _MAX_WAITING:
            del self._waiting[: len(self._waiting) - _MAX_WAITING]
        due = time.monotonic() >= self._next_flush
        if due or (not self._warned and len(self._waiting) >= self._flush_entries):
            self.flush()

    def flush(self) -> bool:
        """Sends the metrics that wait; tells whether none wait any more."""
        while self._waiting:
            batch = self._waiting[:_METRICS_PER_BATCH]
            if not self._try(
                "metrics",
                lambda: self._client().log_batch(self.run_id, metrics=batch),  # noqa: B023
            ):
                self._next_flush = time.monotonic() + max(_RETRY_SECONDS, self._flush_seconds)
                return False
            del self._waiting[: len(batch)]
        self._next_flush = time.monotonic() + self._flush_seconds
        return True

    def log_artifact(self, path: Path, folder: str | None = None) -> bool:
        """Logs a file; tells whether it arrived."""
        return self._try(
            str(path), lambda: self._client().log_artifact(self.run_id, str(path), folder)
        )

    def log_figure(self, figure: Any, name: str) -> bool:
        """Logs a matplotlib figure as a file such as ``curves.png``; tells whether it arrived."""
        return self._try(name, lambda: self._client().log_figure(self.run_id, figure, name))

    def log_text(self, text: str, name: str) -> bool:
        """Logs text as a file; tells whether it arrived."""
        return self._try(name, lambda: self._client().log_text(self.run_id, text, name))

    def set_tags(self, tags: Mapping[str, Any]) -> bool:
        """Sets tags; tells whether they arrived."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, str(value)[:_MAX_TAG_LENGTH]) for key, value in tags.items()]
        return self._try("tags", lambda: self._client().log_batch(self.run_id, tags=entries))

    def finish(self, status: str = "FINISHED") -> bool:
        """Sends what waits and ends the run.

        Args:
            status: ``FINISHED``, ``FAILED`` or ``KILLED``.

        Returns:
            Whether everything arrived.
        """
        sent = self.flush()
        if not sent:
            _LOG.warning("MLflow did not get %d metrics of the run", len(self._waiting))
        ended = self._try(
            "the end of the run", lambda: self._client().set_terminated(self.run_id, status)
        )
        return sent and ended

    def _try(self, what: str, call: Callable[[], Any]) -> bool:
        try:
            call()
        except Exception as error:
            level = logging.DEBUG if self._warned else logging.WARNING
            _LOG.log(
                level,
                "MLflow did not take %s (%s); the run goes on, and metrics are kept and sent later",
                what,
                first_line(error),
            )
            self._warned = True
            return False
        self._warned = False
        return True


def find_run(tracking: Tracking, tags: Mapping[str, str]) -> str | None:
    """Returns the id of the newest run with these tags, or None.

    Raises:
        InputError: If MLflow does not answer.
    """
    terms = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    try:
        found = connect_client(tracking.uri)().search_runs(
            [tracking.experiment_id],
            filter_string=" and ".join(terms),
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
    except Exception as error:
        raise InputError(
            "MLFLOW_TRACKING_URI",
            without_password(tracking.uri),
            f"does not answer ({first_line(error)})",
            fix="see that MLflow is up, then run again",
        ) from error
    return str(found[0].info.run_id) if found else None


def connect_client(uri: str) -> Callable[[], Any]:
    """Returns a function that gives a client; the connection is made when first needed."""
    held: list[Any] = []

    def get() -> Any:
        if not held:
            _configure()
            from mlflow import MlflowClient

            held.append(MlflowClient(tracking_uri=uri, registry_uri=uri))
        return held[0]

    return get


def _artifact_location(environ: Mapping[str, str]) -> str | None:
    """Where a new experiment's artifacts are; None leaves it to the server.

    A server takes and hands out artifacts itself, so that its clients need no keys of its store.
    One that this machine has started over its own file goes away with the run: what it has kept
    must be found without it.
    """
    uri = tracking_uri(environ)
    if uri.startswith(("http:", "https:")) and uri != environ.get(OWN_SERVER):
        return None
    return connect(environ).uri("mlflow")


def _configure() -> None:
    """Sets what MLflow only reads from the environment. A value that the user set stays."""
    endpoint = os.environ.get("S3_ENDPOINT_URL")
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Standard output belongs to the caller's JSON.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # MLflow's own defaults would stop a run for minutes when its server is away.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        **({"MLFLOW_S3_ENDPOINT_URL": endpoint} if endpoint else {}),
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    for logger in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        name = f"{prefix}{key}"
        if _SECRET.search(str(key)):
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, json.dumps(value, default=str)
