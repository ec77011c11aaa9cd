"""The access log: one JSON object a line, with the keys of Istio's JSON format.

A line is one %-format of bytes.  What is the same for many requests of one
connection (`Facts`) is escaped once, into the format; of the rest only path and
request id come from outside and can need escaping, and one look over them
together (0.1 µs) finds out that they hardly ever do.  Values stay bytes: what is not
ASCII is written as \\u00XX of its bytes (Latin-1), so a line is always valid JSON.

A missing value is ``"-"``, as in Envoy's text format.
"""

from __future__ import annotations

import json
from time import gmtime, strftime
from typing import NamedTuple

_SAFE = bytes(c for c in range(0x20, 0x7F) if c not in b'"\\')

KEYS = (
    *("start_time", "route_name", "method", "path", "protocol", "response_code"),
    *("response_flags", "response_code_details", "connection_termination_details"),
    *("bytes_received", "bytes_sent", "duration", "upstream_service_time"),
    *("x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host"),
    *("upstream_cluster", "upstream_local_address", "downstream_local_address"),
    *("downstream_remote_address", "requested_server_name"),
    "upstream_transport_failure_reason",
)
"""Every key of a line, in order (istio-semantics section 6)."""
GRPC_KEYS = ("grpc_status",)
"""Behind them, on lines of gRPC requests only."""


def escape(value: bytes) -> bytes:
    """The inside of a JSON string for ``value``; itself where nothing needs escaping."""
    if not value.translate(None, _SAFE):
        return value
    return json.dumps(value.decode("latin-1"))[1:-1].encode()


class Facts(NamedTuple):
    """All of a line that is the same for many requests of a connection.

    ``method`` and ``authority`` were judged by the codec; "" and b"" become ``-``.
    ``grpc_status``: only where it is not None the line ends with that key.
    """

    route_name: str
    upstream_cluster: str
    local: str
    remote: str
    server_name: str
    protocol: bytes
    flags: str
    details: str
    upstream_host: bytes
    failure: str
    termination: str = ""
    method: bytes = b""
    authority: bytes = b""
    forwarded_for: bytes = b""
    user_agent: bytes = b""
    grpc_status: str | None = None


def _constant(value: str | bytes) -> bytes:
    """A constant part: escaped for JSON, and for the %-format it becomes part of."""
    text = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return escape(text or b"-").replace(b"%", b"%%")


def line_format(facts: Facts) -> bytes:
    """The %-format of lines with these facts; `format_entry` fills in the rest.

    Escaping what repeats once, here, is what makes a line cost a microsecond.
    """
    part = {
        name: _constant(value)
        for name, value in facts._asdict().items()
        if isinstance(value, str | bytes)
    }
    end = b'","grpc_status":"' + part["grpc_status"] if "grpc_status" in part else b""
    return b"".join(
        (
            b'{"start_time":"%b","route_name":"' + part["route_name"],
            b'","method":"' + part["method"] + b'","path":"%b","protocol":"' + part["protocol"],
            b'","response_code":%d,"response_flags":"' + part["flags"],
            b'","response_code_details":"' + part["details"],
            b'","connection_termination_details":"' + part["termination"],
            b'","bytes_received":%d,"bytes_sent":%d,',
            b'"duration":%d,"upstream_service_time":%b,"x_forwarded_for":"' + part["forwarded_for"],
            b'","user_agent":"' + part["user_agent"] + b'","request_id":"%b","authority":"',
            part["authority"] + b'","upstream_host":"' + part["upstream_host"],
            b'","upstream_cluster":"' + part["upstream_cluster"],
            b'","upstream_local_address":"%b","downstream_local_address":"' + part["local"],
            b'","downstream_remote_address":"' + part["remote"],
            b'","requested_server_name":"' + part["server_name"],
            b'","upstream_transport_failure_reason":"' + part["failure"],
            end + b'"}\n',
        )
    )


def format_entry(
    line: bytes,
    start: bytes,
    path: bytes,
    status: int,
    bytes_received: int,
    bytes_sent: int,
    duration_ms: int,
    upstream_ms: int,
    request_id: bytes,
    upstream_local: bytes,
) -> bytes:
    """One line with its line end, from a `line_format`.

    ``start`` comes from `Stamps`; times are whole milliseconds, ``upstream_ms``
    -1 = no upstream answered.  Positional on purpose: this is the request path.
    """
    if (path + request_id).translate(None, _SAFE):
        path, request_id = escape(path), escape(request_id)
    return line % (
        start,
        path,
        status,
        bytes_received,
        bytes_sent,
        duration_ms,
        b"%d" % upstream_ms if upstream_ms >= 0 else b'"-"',
        request_id or b"-",
        upstream_local or b"-",
    )


class Stamps:
    """Wall-clock seconds → ``2026-01-31T12:00:00.123Z``; formats each second once."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = b""

    def timestamp(self, seconds: float) -> bytes:
        second = int(seconds)
        if second != self._second:
            self._second = second
            self._prefix = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)).encode()
        return b"%b.%03dZ" % (self._prefix, (seconds - second) * 1000)
