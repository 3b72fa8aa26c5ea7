"""Requests to Kubeflow Pipelines, and what came of them: an answer, or none that can be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fpnas.errors import FpnasError, InputError, ServiceDownError

if TYPE_CHECKING:
    import requests

_TIMEOUT_SECONDS = (5.0, 30.0)  # to connect, and between two bytes of an answer
_READ_AGAIN_SECONDS = (0.2, 0.4, 0.8, 1.6)  # waits before reading is tried again
_READ_AGAIN = (None, 429, 500, 502, 503, 504)
_TOKEN = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105, the name of a variable


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        status: Of HTTP; None when no whole answer came, so that nobody knows what was done.
        body: The document; empty where the answer has none.
        text: The answer as text, or why there is none.
    """

    status: int | None
    body: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether what was asked for was done."""
        return self.status is not None and self.status < 400


class Connection:
    """Sends requests to an API server of Kubeflow Pipelines.

    Args:
        endpoint: Its address, such as ``https://kubeflow.example.com/pipeline``.
        token_path: A file with a bearer token. It is read at every request, because a token lives
            for an hour and a run for days.
        wait: Sleeps; a test gives its own.

    Raises:
        InputError: The endpoint is no address, or the token cannot be read.
    """

    def __init__(
        self, endpoint: str, token_path: Path | None, wait: Callable[[float], None]
    ) -> None:
        import requests

        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                "KF_PIPELINES_ENDPOINT",
                parts.hostname or endpoint or "(empty)",
                "is not the address of a server",
                legal="http://... or https://...",
                fix="kubectl port-forward -n kubeflow svc/ml-pipeline 8888, and http://localhost:8888",
            )
        self._endpoint, self._token_path, self._wait = endpoint.rstrip("/"), token_path, wait
        self.name = f"{parts.scheme}://{parts.hostname}"  # without what may be a password
        self._session = requests.Session()
        self._headers()

    def send(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> Answer:
        """Sends a request; reading is repeated while the server is away.

        Raises:
            InputError: A page came in place of an answer, or the token cannot be read.
        """
        answer = self._once(method, path, body, query)
        for seconds in _READ_AGAIN_SECONDS if method == "GET" else ():
            if answer.status not in _READ_AGAIN:
                break
            self._wait(seconds)
            answer = self._once(method, path, body, query)
        return answer

    def failure(self, answer: Answer, doing: str) -> FpnasError:
        """The error for an answer that is not what was asked for."""
        if answer.status is None:
            return ServiceDownError(
                f"KFP at {self.name} did not answer to {doing} ({answer.text}). The same command "
                "looks first what there is, and makes nothing twice."
            )
        if answer.status in (401, 403):
            return InputError(
                _TOKEN,
                answer.status,
                f"is what KFP answered to {doing}",
                fix="give a token that has not expired, of an account that may do this: "
                "see docs/cluster.md",
            )
        message = f"KFP at {self.name} answered {answer.status} to {doing}: {answer.text[:500]}"
        return (ServiceDownError if answer.status >= 500 else FpnasError)(message)

    def _once(self, method: str, path: str, body: Any, query: Mapping[str, str] | None) -> Answer:
        import requests

        headers = self._headers()
        try:
            response = self._session.request(
                method,
                f"{self._endpoint}/apis/{path}",
                json=body,
                params=query,
                headers=headers,
                timeout=_TIMEOUT_SECONDS,
            )
        except requests.RequestException as error:
            return Answer(None, text=type(error).__name__)  # its words may hold a password
        return self._understood(response)

    def _understood(self, response: requests.Response) -> Answer:
        if not response.ok:
            return Answer(response.status_code, text=response.text)
        if "html" in response.headers.get("Content-Type", ""):
            raise InputError(
                _TOKEN,
                self._token_path or "(not set)",
                f"leads to a page for people and not to the API of {self.name}",
                fix="give a file with a token, see docs/cluster.md, and the address of the API "
                "in KF_PIPELINES_ENDPOINT",
            )
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return Answer(None, text="what came is no JSON object")
        return Answer(response.status_code, body, response.text)

    def _headers(self) -> dict[str, str]:
        if self._token_path is None:
            return {}
        try:
            token = self._token_path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                _TOKEN, self._token_path, "cannot be read", fix="correct or unset it"
            ) from error
        return {"Authorization": f"Bearer {token}"} if token else {}
