"""Two engines back to back, and a sink that writes down what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshkit.http.fields import Field
from meshkit.http.h2 import Engine, Role, new_engine, settings_of
from meshkit.http.limits import MESHD, Limits

GET: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/"),
    (b":authority", b"reviews:9080"),
]
POST: list[Field] = [(b":method", b"POST"), *GET[1:]]
OK: list[Field] = [(b":status", b"200"), (b"content-type", b"text/plain")]

Call = tuple[object, ...]


class Recorder:
    """A `Sink`: calls as tuples, name first; ``then`` may react to one."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.then: Callable[[Call], None] | None = None

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.then:
            self.then(call)

    def request(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        self._note("request", stream, list(fields), end)

    def response(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        self._note("response", stream, list(fields), end)

    def interim(self, stream: int, fields: Sequence[Field]) -> None:
        self._note("interim", stream, list(fields))

    def data(self, stream: int, data: bytes, end: bool) -> None:
        self._note("data", stream, data, end)

    def trailers(self, stream: int, fields: Sequence[Field]) -> None:
        self._note("trailers", stream, list(fields))

    def reset(self, stream: int, code: int, ours: bool) -> None:
        self._note("reset", stream, code, ours)

    def closed(self, stream: int) -> None:
        self._note("closed", stream)

    def window(self, stream: int) -> None:
        self._note("window", stream)

    def goaway(self, last_stream: int, code: int) -> None:
        self._note("goaway", last_stream, code)

    def settings(self) -> None:
        self._note("settings")

    def limit(self, code: str) -> None:
        self._note("limit", code)

    def take(self, *names: str) -> list[Call]:
        """The calls so far (only those named, if any are), and forget them all."""
        calls, self.calls = self.calls, []
        return [call for call in calls if not names or call[0] in names]


def engine_of(role: Role, name: str, limits: Limits = MESHD) -> tuple[Engine, Recorder]:
    sink = Recorder()
    engine = new_engine(role, settings_of(limits, role), sink, name)
    engine.start()
    return engine, sink


class Pair:
    """A client and a server, connected; ``now`` stands still unless moved."""

    def __init__(
        self, name: str, limits: Limits = MESHD, client: str = "", server_limits: Limits = MESHD
    ) -> None:
        self.client, self.at_client = engine_of("client", client or name, limits)
        self.server, self.at_server = engine_of("server", name, server_limits)
        self.now = 0.0
        self.exchange()
        self.at_client.take()
        self.at_server.take()

    def to_server(self) -> bytes:
        data = drain(self.client)
        if data:
            self.server.receive(data, self.now)
        return data

    def to_client(self) -> bytes:
        data = drain(self.server)
        if data:
            self.client.receive(data, self.now)
        return data

    def exchange(self) -> None:
        while self.to_server() or self.to_client():
            pass

    def open(self, fields: Sequence[Field] = GET, end: bool = True) -> int:
        stream = self.client.request(fields, end)
        self.exchange()
        return stream


def drain(engine: Engine) -> bytes:
    parts = []
    while data := engine.output():
        parts.append(data)
    return b"".join(parts)
