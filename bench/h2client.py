"""One HTTP/2 request at a time, for the checks before a measurement."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

RECEIVE_BYTES = 65536
STREAM = 1

Headers = dict[str, str]


@dataclass(slots=True)
class Answer:
    """What came back; `status` 0 where nothing did."""

    status: int = 0
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    trailers: Headers = field(default_factory=dict)


def ask(
    sock: socket.socket,
    authority: str,
    path: str = "/",
    headers: Headers | None = None,
    body: bytes | None = None,
) -> Answer:
    """GET, or POST of a body, over a connected socket; TLS is the caller's.

    Raises OSError, and EOFError where the connection or the stream ends early.
    """
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    pseudo = {
        ":method": "GET" if body is None else "POST",
        ":scheme": "http",
        ":authority": authority,
        ":path": path,
    }
    fields = list((pseudo | (headers or {})).items())
    connection.send_headers(STREAM, fields, end_stream=body is None)
    if body is not None:
        connection.send_data(STREAM, body, end_stream=True)
    answer = Answer()
    while True:
        sock.sendall(connection.data_to_send())
        data = sock.recv(RECEIVE_BYTES)
        if not data:
            raise EOFError("the connection ended")
        for event in _events(connection, data):
            if isinstance(event, StreamEnded):
                return answer
            _take(event, answer, connection)


def _events(connection: H2Connection, data: bytes) -> list[Event]:
    try:
        return connection.receive_data(data)
    except ProtocolError as error:
        raise EOFError(f"that is no HTTP/2: {error}") from error


def _take(event: object, answer: Answer, connection: H2Connection) -> None:
    if isinstance(event, ResponseReceived):
        answer.headers = _text(event.headers)
        answer.status = int(answer.headers.pop(":status"))
    elif isinstance(event, DataReceived):
        answer.body += event.data
        connection.acknowledge_received_data(event.flow_controlled_length, STREAM)
    elif isinstance(event, TrailersReceived):
        answer.trailers = _text(event.headers)
    elif isinstance(event, StreamReset):
        raise EOFError(f"the stream was reset with {event.error_code}")
    elif isinstance(event, ConnectionTerminated):
        raise EOFError(f"the connection was ended with {event.error_code}")


def _text(headers: Iterable[tuple[str | bytes, str | bytes]]) -> Headers:
    return {str(name): str(value) for name, value in headers}
