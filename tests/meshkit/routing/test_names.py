"""Protocols by kind: each is routed by request, by connection, or (AUTO) by what it looks like."""

from __future__ import annotations

from meshkit.routing.names import (
    AUTO,
    HTTP2_PROTOCOLS,
    HTTP_PROTOCOLS,
    PROTOCOLS,
    TCP_PROTOCOLS,
    is_http,
    is_http2,
    is_tcp,
    is_tls,
)


def test_every_protocol_is_of_one_kind_and_auto_of_both() -> None:
    for protocol in PROTOCOLS - {AUTO}:
        assert is_http(protocol) != is_tcp(protocol)
    assert is_http(AUTO) and is_tcp(AUTO)
    assert HTTP_PROTOCOLS | TCP_PROTOCOLS | {AUTO} == PROTOCOLS


def test_http2_is_http_and_grpc_web_is_not_http2() -> None:
    assert HTTP2_PROTOCOLS < HTTP_PROTOCOLS
    assert is_http2("GRPC") and not is_http2("GRPC-WEB")


def test_https_is_bytes_to_us() -> None:
    """An HTTPS port is passed through: its TLS is the application's (istio-semantics 1.4)."""
    assert is_tls("HTTPS") and is_tcp("HTTPS") and not is_http("HTTPS")
