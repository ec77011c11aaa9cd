"""Host patterns: exact names and ``*`` wildcards, which win, where they overlap.

The most specific host wins: exact, then the longest wildcard.  ``*.x`` covers any
number of labels in front and does not cover ``x`` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

HTTP_PROTOCOLS = frozenset(("HTTP", "HTTP2", "GRPC", "GRPC-WEB"))
"""Protocols whose requests are routed one by one."""
HTTP2_PROTOCOLS = frozenset(("HTTP2", "GRPC"))
"""Those of them that an application expects as HTTP/2; it need not speak HTTP/1.1."""
TLS_PROTOCOLS = frozenset(("TLS", "HTTPS"))
"""Bytes to us that begin with a ClientHello, whose server name can route."""
TCP_PROTOCOLS = TLS_PROTOCOLS | frozenset(("TCP", "MONGO", "MYSQL", "REDIS"))
"""Protocols whose connections are routed whole."""
AUTO = "AUTO"
"""Ours: the first bytes say whether it is HTTP; a service must ask for it."""
PROTOCOLS = HTTP_PROTOCOLS | TCP_PROTOCOLS | {AUTO}


def is_http(protocol: str) -> bool:
    """Requests to such a port may be routed as HTTP (AUTO: if they look like it)."""
    return protocol in HTTP_PROTOCOLS or protocol == AUTO


def is_http2(protocol: str) -> bool:
    """The application behind such a port expects HTTP/2."""
    return protocol in HTTP2_PROTOCOLS


def is_tcp(protocol: str) -> bool:
    """Connections to such a port may be routed whole (AUTO: unless they look like HTTP)."""
    return protocol in TCP_PROTOCOLS or protocol == AUTO


def is_tls(protocol: str) -> bool:
    """Connections to such a port begin with a ClientHello."""
    return protocol in TLS_PROTOCOLS


def suffixes(host: str) -> Iterator[str]:
    """Wildcards that cover ``host``, longest first: ``*.b.c``, ``*.c``, ``*``."""
    dot = host.find(".")
    while dot != -1:
        yield "*" + host[dot:]
        dot = host.find(".", dot + 1)
    yield "*"


def most_specific(table: Mapping[str, T], host: str) -> T | None:
    """The value of the pattern that wins for ``host``."""
    if host in table:
        return table[host]
    return next((table[pattern] for pattern in suffixes(host) if pattern in table), None)


def covers(pattern: str, host: str) -> bool:
    """Every name that ``host`` (a name or a pattern) stands for is ``pattern``'s too."""
    if pattern in ("*", host):
        return True
    return pattern.startswith("*.") and host.endswith(pattern[1:])


def intersection(one: str, other: str) -> str | None:
    """The narrower of two overlapping patterns; None where they do not overlap."""
    if covers(other, one):
        return one
    return other if covers(one, other) else None
