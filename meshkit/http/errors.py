"""What a proxy answers by itself, and why: one table from reason to response.

A refusal of the wire's grammar is an `HTTPError`; every other local reply has a
reason from `REPLIES`.  The body is short, names the reason and the request id,
and nothing of the configuration: it may reach a stranger.
"""

from __future__ import annotations

from typing import NamedTuple

from meshkit.http.fields import Field


class HTTPError(Exception):
    """A peer's message that must not be used; the connection is closed after the reply.

    ``status`` is what the client is told (400…, or 502 where an upstream is at
    fault), ``code`` a snake_case label for the refusal counter, ``message``
    one line for a person.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


class Reply(NamedTuple):
    """``flag`` is Envoy's response flag ("-" = none), ``text`` what the body says."""

    status: int
    flag: str
    text: str


METHOD_NOT_ALLOWED = (
    "CONNECT and TRACE are not served: the proxy port takes http:// requests; "
    "gRPC, TLS and TCP are called by a port of upstreams"
)
"""CONNECT is what libraries make of http_proxy for gRPC, and of https:// for everything."""

REPLIES: dict[str, Reply] = {
    "route_not_found": Reply(404, "NR", "no route for this host and path"),
    "host_not_found": Reply(404, "NR", "no service of the mesh has this host name"),
    "port_not_http": Reply(
        404, "NR", "this port carries connections, not requests: call it by a port of upstreams"
    ),
    "cluster_not_found": Reply(503, "NC", "the route's destination does not exist"),
    "no_healthy_upstream": Reply(503, "UH", "no healthy endpoint"),
    "upstream_connection_failure": Reply(503, "UF", "no connection to an endpoint"),
    "upstream_identity_refused": Reply(503, "UF", "the endpoint is not who it must be"),
    "upstream_reset": Reply(503, "UC", "the endpoint closed before it answered"),
    "upstream_remote_reset": Reply(503, "UR", "the endpoint reset the stream"),
    "upstream_protocol_error": Reply(502, "UPE", "the endpoint's answer is not valid HTTP"),
    "upstream_overflow": Reply(503, "UO", "too many requests wait for this service"),
    "retry_limit_exceeded": Reply(503, "URX", "all tries failed"),
    "upstream_timeout": Reply(504, "UT", "the service did not answer in time"),
    "request_timeout": Reply(408, "-", "the request did not arrive in time"),
    "stream_idle_timeout": Reply(408, "SI", "nothing was sent for too long"),
    "upstream_idle_timeout": Reply(504, "SI", "the service sent nothing for too long"),
    "downstream_protocol_error": Reply(400, "DPE", "the request is not valid HTTP"),
    "upgrade_not_supported": Reply(501, "-", "this upgrade is not supported"),
    "method_not_allowed": Reply(405, "DPE", METHOD_NOT_ALLOWED),
    "caller_unknown": Reply(403, "-", "the calling process is no declared service of this host"),
    "not_authorized": Reply(403, "-", "access denied"),
    "misdirected_request": Reply(421, "-", "this connection does not serve that host"),
    "https_required": Reply(301, "-", "use https"),
    "overloaded": Reply(503, "UO", "the proxy is overloaded"),
    "draining": Reply(503, "-", "the proxy is shutting down"),
    "not_ready": Reply(503, "-", "the proxy has no configuration yet"),
    "internal_error": Reply(500, "-", "the proxy failed; its log has the details"),
}
"""Reason (the access log's response_code_details and a metric label) → reply."""

STATUS_TEXT: dict[int, bytes] = {
    100: b"Continue",
    101: b"Switching Protocols",
    200: b"OK",
    301: b"Moved Permanently",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

REPLY_HEADERS: list[Field] = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"server", b"baremesh"),
]


def reply_body(text: str, reason: str, request_id: bytes = b"") -> bytes:
    """``no healthy endpoint (no_healthy_upstream; request id …)`` and a line end."""
    tail = f"; request id {request_id.decode('ascii', 'replace')}" if request_id else ""
    return f"{text} ({reason}{tail})\n".encode()
