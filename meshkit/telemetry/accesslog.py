"""The access log: one JSON object a line, with the keys of Istio's JSON format.

A line is one %-format of bytes.  What does not change between requests of one
route and connection is escaped once, into a `Line`; of the rest only four values
come from outside and can need escaping, and one look over them together
(0.2 µs) finds out that they hardly ever do.  Values stay bytes: what is not
ASCII is written as \\u00XX of its bytes (Latin-1), so a line is always valid JSON.

A missing value is ``"-"``, as in Envoy's text format.
"""

from __future__ import annotations

import json
from time import gmtime, strftime

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


def escape(value: bytes) -> bytes:
    """The inside of a JSON string for ``value``; itself where nothing needs escaping."""
    if not value.translate(None, _SAFE):
        return value
    return json.dumps(value.decode("latin-1"))[1:-1].encode()


def _constant(value: str) -> bytes:
    """A constant part: escaped for JSON, and for the %-format it becomes part of."""
    return json.dumps(value or "-")[1:-1].encode().replace(b"%", b"%%")


class Line:
    """The format of one route's (and cluster's) lines on one downstream connection.

    Keep one per (route, cluster) and connection kind; `format_entry` fills it.
    """

    __slots__ = ("format",)

    def __init__(
        self, route_name: str, upstream_cluster: str, local: str, remote: str, server_name: str
    ) -> None:
        route, cluster = _constant(route_name), _constant(upstream_cluster)
        head = b'{"start_time":"%%b","route_name":"%b","method":"%%b","path":"%%b",' % route
        middle = (
            b'"protocol":"%b","response_code":%d,"response_flags":"%b",'
            b'"response_code_details":"%b","connection_termination_details":"%b",'
            b'"bytes_received":%d,"bytes_sent":%d,"duration":%d,"upstream_service_time":%b,'
            b'"x_forwarded_for":"%b","user_agent":"%b","request_id":"%b","authority":"%b",'
            b'"upstream_host":"%b",'
        )
        tail = (
            b'"upstream_cluster":"%b","upstream_local_address":"%%b",'
            b'"downstream_local_address":"%b","downstream_remote_address":"%b",'
            b'"requested_server_name":"%b","upstream_transport_failure_reason":"%%b"}\n'
        ) % (cluster, _constant(local), _constant(remote), _constant(server_name))
        self.format = head + middle + tail


def format_entry(
    line: Line,
    *,
    start: bytes,
    method: bytes,
    path: bytes,
    http10: bool,
    status: int,
    flags: str,
    details: str,
    termination: str,
    bytes_received: int,
    bytes_sent: int,
    duration_ms: int,
    upstream_ms: int,
    forwarded_for: bytes,
    user_agent: bytes,
    request_id: bytes,
    authority: bytes,
    upstream_host: bytes,
    upstream_local: bytes,
    failure: str,
) -> bytes:
    """One line with its line end.

    ``start`` comes from `timestamp`; times are whole milliseconds, ``upstream_ms``
    -1 = no upstream answered.  ``method`` and ``authority`` were judged by the
    codec and hold nothing to escape; ``flags`` and ``details`` are our own words.
    """
    if (path + user_agent + forwarded_for + request_id).translate(None, _SAFE):
        path, user_agent = escape(path), escape(user_agent)
        forwarded_for, request_id = escape(forwarded_for), escape(request_id)
    return line.format % (
        start,
        method,
        path,
        b"HTTP/1.0" if http10 else b"HTTP/1.1",
        status,
        flags.encode(),
        details.encode(),
        termination.encode() or b"-",
        bytes_received,
        bytes_sent,
        duration_ms,
        b"%d" % upstream_ms if upstream_ms >= 0 else b'"-"',
        forwarded_for or b"-",
        user_agent or b"-",
        request_id or b"-",
        authority or b"-",
        upstream_host or b"-",
        upstream_local or b"-",
        escape(failure.encode()) if failure else b"-",
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
