"""KFP's HTTP API in memory, with faults on demand."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KINDS = {"runs": "run_id", "experiments": "experiment_id", "recurringruns": "recurring_run_id"}
LOOP = "/loop"


class Stub:
    """The server's memory.

    Attributes:
        things: What exists, by kind.
        faults: For each of the next requests of a method: a status; done, but ``lost`` (the
            connection breaks before the answer), ``cut`` (in its middle) or ``silent`` (no answer
            comes); not done, and ``refused`` (the connection breaks), ``html`` (a page to log in)
            or ``loop`` (redirects without end).
        posts: Paths of every request that asked to make something.
        tokens: What every request had as its authorization.
    """

    def __init__(self) -> None:
        self.things = {kind: [] for kind in KINDS}
        self.faults = {"GET": [], "POST": [], "DELETE": []}
        self.posts = []
        self.tokens = []
        self.closed = threading.Event()
        self.tag = "2.17.0"
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def handle_one(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                stub.tokens.append(self.headers["Authorization"])
                if self.path == LOOP:
                    return self.reply(302)
                fault = stub.faults[self.command].pop(0) if stub.faults[self.command] else None
                if isinstance(fault, int):
                    return self.reply(fault)
                if fault == "html":
                    return self.reply(200, b"<html>Log in</html>", "text/html; charset=utf-8")
                if fault == "loop":
                    return self.reply(302)
                if fault == "refused":
                    return self.break_off()
                status, answer = stub.answer(self.command, self.path, body)
                if fault == "silent":
                    stub.closed.wait()
                if fault in ("lost", "silent"):
                    return self.break_off()
                return self.reply(status, json.dumps(answer).encode(), cut=fault == "cut")

            def reply(self, status, text=b"{}", kind="application/json", *, cut=False):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Location", LOOP)
                self.end_headers()
                self.wfile.write(text[: len(text) // 2] if cut else text)
                if cut:
                    self.break_off()

            def break_off(self):
                self.close_connection = True
                self.connection.close()

            do_GET = do_POST = do_DELETE = handle_one

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, target, body):
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        words = parts.path.removeprefix("/apis/").split("/")
        if words[1] == "healthz":
            if words[0] == "v2beta1" and self.tag.startswith("1."):
                return 404, {}
            return 200, {"tag_name": self.tag} if words[0] == "v1beta1" else {"multi_user": False}
        kind = words[1]
        if method == "POST" and len(words) == 2:
            self.posts.append(parts.path)
            identifier = f"{kind}-{len(self.things[kind])}"
            thing = {**body, KINDS[kind]: identifier}
            if kind == "runs":
                thing["state"] = "PENDING"
            self.things[kind].insert(0, thing)
            return 200, thing
        if len(words) == 2:
            wanted = json.loads(query["filter"])["predicates"][0]["string_value"]
            found = [t for t in self.things[kind] if t["display_name"] == wanted]
            return 200, {"recurringRuns" if kind == "recurringruns" else kind: found}
        identifier, _, action = words[2].partition(":")
        thing = next((t for t in self.things[kind] if t[KINDS[kind]] == identifier), None)
        if thing is None:
            return 404, {}
        if method == "DELETE":
            self.things[kind].remove(thing)
        elif action == "terminate":
            self.posts.append(parts.path)
            thing["state"] = "CANCELED"
        return 200, thing
