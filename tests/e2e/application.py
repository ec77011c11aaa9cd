"""An application for whole-mesh tests: says what it was asked, and keeps a ledger."""

from __future__ import annotations

import json
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    application: Application


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one segment an answer: no delayed acknowledgement between two
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        query = parse_qs(urlsplit(self.path).query)
        self.server.application.note(self.headers.get("x-test-id", ""))
        time.sleep(float(query.get("seconds", ["0"])[0]))
        status = int(query.get("status", ["200"])[0])
        told = {
            "name": self.server.application.name,
            "method": self.command,
            "path": self.path,
            "headers": {key.lower(): value for key, value in self.headers.items()},
            "body": body.decode("latin-1"),
        }
        text = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: Any) -> None:
        return


class Application:
    """Answers with JSON: its name, method, path, headers and the request's body.

    ``?seconds=S`` answers late and ``?status=N`` with another status.  ``ledger``
    counts how often each value of ``x-test-id`` arrived, "" for requests without.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ledger: Counter[str] = Counter()
        self._lock = Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.application = self
        self.port = int(self._server.server_address[1])
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def note(self, request_id: str) -> None:
        with self._lock:
            self.ledger[request_id] += 1

    @property
    def requests(self) -> int:
        """How many requests have arrived."""
        return self.ledger.total()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
