"""Protocol selection: names, appProtocol, contradictions, what a listener takes."""

from __future__ import annotations

import pytest

from meshkit.model.protocols import PROTOCOLS, accepts, contradicts, normal, of_app_protocol


def test_kubernetes_and_istio_values_of_app_protocol() -> None:
    values = ("kubernetes.io/h2c", "HTTP2", "grpc", "Kubernetes.io/WS", "example.org/x")
    assert [of_app_protocol(value) for value in values] == ["HTTP2", "HTTP2", "GRPC", "HTTP", None]


@pytest.mark.parametrize(
    ("name", "protocol", "wrong"),
    [
        ("http", "GRPC", False),
        ("http", "TCP", True),
        ("tcp", "MYSQL", False),
        ("tcp", "HTTP", True),
        ("https", "HTTP", True),
        ("grpc-web", "HTTP2", False),
        ("http2", "HTTP", True),
        ("anything", "TCP", False),
        ("http", "AUTO", False),
    ],
)
def test_a_name_may_be_wider_than_the_protocol(name: str, protocol: str, wrong: bool) -> None:
    assert contradicts(name, protocol) is wrong


def test_what_another_release_calls_otherwise_is_bytes() -> None:
    assert [normal(p) for p in ("http", "gRPC-Web", "THRIFT", "")] == [
        *("HTTP", "GRPC-WEB", "TCP", "TCP")
    ]


def test_what_a_listener_takes() -> None:
    taken = {protocol: accepts(protocol) for protocol in PROTOCOLS | {"UNHEARD"}}
    assert taken == {
        **dict.fromkeys(("HTTP", "HTTP2", "GRPC", "GRPC-WEB"), "HTTP"),
        **dict.fromkeys(("TCP", "MONGO", "MYSQL", "REDIS", "UNHEARD"), "TCP"),
        **dict.fromkeys(("TLS", "HTTPS"), "TLS"),
        "AUTO": "AUTO",
    }
