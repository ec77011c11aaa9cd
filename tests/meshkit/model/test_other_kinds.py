"""DestinationRule, Gateway, ServiceEntry, WorkloadEntry, PeerAuthentication."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.model.load import load_text
from meshkit.model.problems import Severity
from meshkit.model.resources import Port, ServerTLS, Subset, TrafficPolicy, WorkloadEntrySpec

HTTP = "port: {number: 80, protocol: HTTP, name: h}"
HTTPS = "port: {number: 443, protocol: HTTPS, name: s}"
SIMPLE = "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}"
PORTS = "ports: [{number: 80, protocol: HTTP, name: h}]"
ENTRY = f"hosts: [a.b], {PORTS}, resolution: STATIC"
GROUP = {"PeerAuthentication": "security.istio.io/v1"}


def text(kind: str, spec: str) -> str:
    version = GROUP.get(kind, "networking.istio.io/v1beta1")
    return f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{{spec}}}\n"


def load(kind: str, spec: str) -> Any:
    loaded = load_text(text(kind, spec), "f.yaml")
    assert loaded.problems == []
    return loaded.resources[0]


def said(kind: str, spec: str) -> list[str]:
    loaded = load_text(text(kind, spec), "f.yaml")
    refused = any(problem.severity is Severity.ERROR for problem in loaded.problems)
    assert refused == (not loaded.resources)
    return [str(problem) for problem in loaded.problems]


def test_destination_rule() -> None:
    found = load(
        "DestinationRule",
        "host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, "
        "subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}}}]",
    )
    assert found.host == "reviews"
    assert found.policy == TrafficPolicy("ROUND_ROBIN", None)
    position = found.subsets[0].position
    policy = TrafficPolicy(None, "DISABLE")
    assert found.subsets == (Subset("v1", {"version": "v1"}, policy, position),)


def test_least_conn_is_a_deprecated_alias() -> None:
    spec = "host: a, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}"
    loaded = load_text(text("DestinationRule", spec), "f")
    assert loaded.resources[0].policy.load_balancer == "LEAST_REQUEST"  # type: ignore[union-attr]
    assert [problem.code for problem in loaded.problems] == ["deprecated"]


def test_trap_21_tls_block_without_mode_is_disable_and_warns() -> None:
    loaded = load_text(text("DestinationRule", "host: a, trafficPolicy: {tls: {}}"), "f")
    assert loaded.resources[0].policy.tls == "DISABLE"  # type: ignore[union-attr]
    assert "means DISABLE" in loaded.problems[0].message
    assert load("DestinationRule", "host: a, trafficPolicy: {}").policy.tls is None


def test_trap_21_gateway_tls_without_mode_is_passthrough() -> None:
    server = (
        "selector: {a: b}, servers: [{port: {number: 443, protocol: HTTPS, name: s}, hosts: [a]"
    )
    found = load("Gateway", f"{server}, tls: {{}}}}]").servers[0]
    assert (found.tls, found.passthrough) == (ServerTLS("PASSTHROUGH"), True)
    forgotten = said("Gateway", f"{server}, tls: {{serverCertificate: a, privateKey: b}}}}]")
    assert "tls without mode (PASSTHROUGH) leaves TLS to the service" in forgotten[0]
    assert "write mode: SIMPLE" in forgotten[0]


@pytest.mark.parametrize(
    ("protocol", "tls", "shape", "carries"),
    [
        ("HTTP", "", "HTTP", "http"),
        ("http2", "", "HTTP", "http"),
        ("GRPC", "tls: {httpsRedirect: true}", "HTTP", "http"),
        ("GRPC-WEB", "", "HTTP", "http"),
        ("HTTPS", SIMPLE, "TLS", "http"),
        ("HTTPS", "tls: {mode: PASSTHROUGH}", "TLS", "tls"),
        ("TLS", "tls: {mode: PASSTHROUGH}", "TLS", "tls"),
        ("TLS", SIMPLE, "TLS", "tcp"),
        ("TCP", SIMPLE, "TLS", "tcp"),
        ("TCP", "", "TCP", "tcp"),
        ("MYSQL", "", "TCP", "tcp"),
    ],
)
def test_what_a_gateways_server_takes_and_carries(
    protocol: str, tls: str, shape: str, carries: str
) -> None:
    port = f"port: {{number: 443, protocol: {protocol}, name: s}}"
    spec = f"selector: {{a: b}}, servers: [{{{port}, hosts: [a], {tls}}}]"
    (server,) = load("Gateway", spec).servers
    assert (server.shape, server.carries) == (shape, carries)
    assert server.https_redirect is ("httpsRedirect" in tls)


def test_servers_told_apart_by_their_server_name_share_a_port() -> None:
    tls = "port: {number: 443, protocol: TLS, name: t}"
    servers = f"{{{HTTPS}, hosts: [a], {SIMPLE}}}, {{{tls}, hosts: [b], tls: {{}}}}"
    assert len(load("Gateway", f"selector: {{a: b}}, servers: [{servers}]").servers) == 2


def test_gateway() -> None:
    found = load(
        "Gateway",
        "selector: {istio: ingressgateway}, servers: ["
        "{port: {number: 80, protocol: http, name: h}, hosts: ['*'], tls: {httpsRedirect: true}},"
        "{port: {number: 443, protocol: HTTPS, name: s}, hosts: [prod/*.Example.org, ./b, '*/c'],"
        " bind: 127.0.0.1, name: n,"
        " tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k,"
        " minProtocolVersion: TLSV1_3}}]",
    )
    plain, secure = found.servers
    assert (plain.port, plain.tls, plain.https_redirect) == (Port(80, "HTTP", "h"), None, True)
    assert secure.hosts == ("prod/*.example.org", "./b", "*/c")
    assert secure.tls == ServerTLS("SIMPLE", "/c", "/k", False, "TLSV1_3")
    assert (secure.bind, secure.name) == ("127.0.0.1", "n")


def test_gateway_without_selector_warns() -> None:
    found = said("Gateway", "servers: [{port: {number: 80, protocol: HTTP, name: h}, hosts: [a]}]")
    assert "every gateway" in found[0]


def test_trap_24_service_entry_defaults() -> None:
    found = load(
        "ServiceEntry",
        "hosts: [a.example.org], ports: [{number: 80, protocol: HTTP, name: h, targetPort: 8080}],"
        " resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {h: 81}, labels: {v: a},"
        " weight: 5, serviceAccount: sa}]",
    )
    assert found.location == "MESH_EXTERNAL"
    assert found.ports == (Port(80, "HTTP", "h", 8080),)
    where = found.endpoints[0].position
    assert found.endpoints == (
        WorkloadEntrySpec("10.0.0.1", {"h": 81}, {"v": "a"}, 5, "sa", where),
    )


def test_trap_a_port_of_an_entry_without_protocol_is_tcp() -> None:
    """⚠ Whatever its name: only a warning says so where the name means something else."""
    spec = (
        "hosts: [a.b], ports: [{number: 1, name: db}, {number: 2, name: s, protocol: https},"
        " {number: 3, name: grpc, protocol: TCP}], resolution: STATIC,"
        " addresses: [10.1.2.3/32, 'FD00::/8', 10.1.2.3], endpoints: [{address: 10.0.0.1}]"
    )
    loaded = load_text(text("ServiceEntry", spec), "f.yaml")
    found: Any = loaded.resources[0]
    assert [port.protocol for port in found.ports] == ["TCP", "HTTPS", "TCP"]
    assert found.addresses == ("10.1.2.3", "fd00::/8")
    (problem,) = loaded.problems
    assert 'though its name "grpc" declares GRPC' in str(problem)


def test_workload_entry() -> None:
    found = load("WorkloadEntry", "address: 10.0.0.1, labels: {app: a}")
    assert found.spec.address == "10.0.0.1"
    assert found.spec.weight == 1


def test_peer_authentication() -> None:
    found = load(
        "PeerAuthentication",
        "selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, "
        "portLevelMtls: {8080: {mode: DISABLE}, 9090: {}}",
    )
    assert (found.selector, found.mode) == ({"app": "a"}, "STRICT")
    assert found.port_modes == {8080: "DISABLE", 9090: "UNSET"}
    everything = load("PeerAuthentication", "mtls: {}")
    assert (everything.selector, everything.mode) == (None, "UNSET")


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("DestinationRule", "subsets: []", "host: is required"),
        ("DestinationRule", "host: a, subsets: [{name: v1, labels: {a: b}}, {name: v1}]", "twice"),
        ("DestinationRule", "host: a, subsets: [{name: v_1}]", "not a DNS label"),
        ("DestinationRule", "host: a, subsets: [{name: v1}]", "holds every endpoint"),
        ("DestinationRule", "host: a, exportTo: [other]", "not supported yet"),
        ("DestinationRule", "host: a, workloadSelector: {}", "not supported yet"),
        (
            "DestinationRule",
            "host: a, trafficPolicy: {connectionPool: {}}",
            '"connectionPool" is not supported yet',
        ),
        ("DestinationRule", "host: a, trafficPolicy: {outlierDetection: {}}", "not supported yet"),
        ("DestinationRule", "host: a, trafficPolicy: {portLevelSettings: []}", "not supported yet"),
        (
            "DestinationRule",
            "host: a, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}",
            '"PASSTHROUGH" is not supported yet',
        ),
        (
            "DestinationRule",
            "host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}",
            "use simple: LEAST_REQUEST",
        ),
        ("DestinationRule", "host: a, trafficPolicy: {tls: {mode: SIMPLE}}", "not supported yet"),
        ("DestinationRule", "host: a, trafficPolicy: {tls: {mode: STRICT}}", "unknown value"),
        ("Gateway", "selector: {a: b}", "servers: is required"),
        ("Gateway", "servers: []", "must not be empty"),
        ("Gateway", f"servers: [{{{HTTP}}}]", "hosts: is required"),
        ("Gateway", f"servers: [{{{HTTP}, hosts: []}}]", "must not be empty"),
        ("Gateway", f"servers: [{{{HTTP}, hosts: [a/b/c]}}]", "not a host of a server"),
        ("Gateway", f"servers: [{{{HTTPS}, hosts: [a]}}]", "needs tls"),
        (
            "Gateway",
            f"servers: [{{{HTTPS}, hosts: [a], tls: {{mode: SIMPLE}}}}]",
            "serverCertificate is required",
        ),
        (
            "Gateway",
            f"servers: [{{{HTTPS}, hosts: [a], tls: {{mode: MUTUAL}}}}]",
            '"MUTUAL" is not supported yet',
        ),
        (
            "Gateway",
            f"servers: [{{{HTTPS}, hosts: [a], tls: {{mode: SIMPLE, credentialName: x}}}}]",
            "files on the gateway's host",
        ),
        (
            "Gateway",
            f"servers: [{{{HTTPS}, hosts: [a],"
            " tls: {mode: SIMPLE, minProtocolVersion: TLSV1_0}}]",
            "never offered",
        ),
        (
            "Gateway",
            f"servers: [{{{HTTPS}, hosts: [a],"
            " tls: {mode: SIMPLE, serverCertificate: a, privateKey: b, httpsRedirect: true}}]",
            "no effect on an HTTPS server",
        ),
        (
            "Gateway",
            f"servers: [{{{HTTP}, hosts: [a], tls: {{mode: SIMPLE}}}}]",
            "no meaning on an HTTP server",
        ),
        (
            "Gateway",
            "servers: [{port: {number: 80, protocol: UDP, name: t}, hosts: [a]}]",
            "UDP is not carried",
        ),
        *(
            (
                "Gateway",
                f"servers: [{{{HTTPS}, hosts: [a], tls: {{mode: {mode}}}}}]",
                f'"{mode}" is not supported yet',
            )
            for mode in ("OPTIONAL_MUTUAL", "ISTIO_MUTUAL", "AUTO_PASSTHROUGH")
        ),
        (
            "Gateway",
            "servers: [{port: {number: 1, protocol: TLS, name: t}, hosts: [a]}]",
            "a server of protocol TLS needs tls",
        ),
        (
            "Gateway",
            "servers: [{port: {number: 1, protocol: TCP, name: t}, hosts: [a], tls: {}}]",
            "PASSTHROUGH needs protocol: TLS, not TCP",
        ),
        (
            "Gateway",
            "servers: [{port: {number: 1, protocol: HTTP2, name: t}, hosts: [a],"
            " tls: {mode: PASSTHROUGH}}]",
            '"mode" has no meaning on an HTTP server',
        ),
        (
            "Gateway",
            "servers: [{port: {number: 1, protocol: TCP, name: t}, hosts: [a]},"
            " {port: {number: 1, protocol: TCP, name: u}, hosts: [b]}]",
            "port 1 is TCP at line 4",
        ),
        (
            "Gateway",
            "servers: [{port: {number: 1, protocol: TCP, name: t}, hosts: [a]},"
            " {port: {number: 1, protocol: HTTP, name: u}, hosts: [b]}]",
            "port 1 is TCP at line 4",
        ),
        (
            "Gateway",
            "servers: [{port: {number: 80, protocol: HTPP, name: t}, hosts: [a]}]",
            'did you mean "HTTP"',
        ),
        (
            "Gateway",
            f"servers: [{{{HTTPS}, hosts: [a], {SIMPLE}}}, {{{HTTPS}, hosts: [a], {SIMPLE}}}]",
            'the host "a" of port 443 is served at line 4',
        ),
        (
            "Gateway",
            f"servers: [{{{HTTP}, hosts: [a], name: n}},"
            " {port: {number: 81, protocol: HTTP, name: i}, hosts: [a], name: n}]",
            'server name "n" is given twice',
        ),
        (
            "Gateway",
            f"servers: [{{{HTTP}, hosts: [a]}},"
            f" {{port: {{number: 80, protocol: HTTPS, name: s}}, hosts: [b], {SIMPLE}}}]",
            "port 80 is HTTP",
        ),
        ("ServiceEntry", f"hosts: [a.b], {PORTS}", "NONE, which is not supported yet"),
        ("ServiceEntry", f"hosts: [a.b], {PORTS}, resolution: DNS", "write resolution: STATIC"),
        ("ServiceEntry", ENTRY, "STATIC needs endpoints"),
        ("ServiceEntry", f"{ENTRY}, endpoints: [{{address: a.b}}]", "not an IP address"),
        ("ServiceEntry", f"{ENTRY}, endpoints: [{{address: 'unix:///x'}}]", "not an IP address"),
        ("ServiceEntry", f"{ENTRY}, endpoints: [{{}}]", "address: is required"),
        (
            "ServiceEntry",
            f"{ENTRY}, endpoints: [{{address: 10.0.0.1, ports: {{g: 1}}}}]",
            "defined are: h",
        ),
        (
            "ServiceEntry",
            f"{ENTRY}, endpoints: [{{address: 10.0.0.1, weight: 0}}]",
            "outside 1..",
        ),
        (
            "ServiceEntry",
            f"{ENTRY}, endpoints: [{{address: 10.0.0.1}}], workloadSelector: {{labels: {{a: b}}}}",
            "exclude each other",
        ),
        ("ServiceEntry", f"hosts: ['*'], {PORTS}, resolution: STATIC", "not a host"),
        ("ServiceEntry", f"{ENTRY}, addresses: [a.b]", "not an IP address or CIDR"),
        ("ServiceEntry", f"{ENTRY}, addresses: [10.0.0.1/8]", "no bits beyond the prefix"),
        ("ServiceEntry", f"{ENTRY}, addresses: ['fe80::1%eth0']", "names a scope"),
        (
            "ServiceEntry",
            "hosts: [a.b], ports: [{number: 80, name: http-x}], resolution: STATIC",
            'the port is TCP, though its name "http-x" declares HTTP',
        ),
        (
            "ServiceEntry",
            "hosts: [a.b], ports: [{number: 80, name: x, protocol: UDP}], resolution: STATIC",
            "UDP is not carried",
        ),
        (
            "ServiceEntry",
            "hosts: [a.b], ports: [{number: 80, name: h, protocol: HTTP},"
            " {number: 80, name: h, protocol: HTTP}], resolution: STATIC",
            "two ports have the number 80",
        ),
        ("WorkloadEntry", "address: 10.0.0.1, locality: a/b", "not supported yet"),
        ("WorkloadEntry", "network: n", "address: is required"),
        ("PeerAuthentication", "mtls: {mode: ON}", "unknown value"),
        (
            "PeerAuthentication",
            "portLevelMtls: {8080: {mode: STRICT}}",
            "portLevelMtls needs a selector",
        ),
        (
            "PeerAuthentication",
            "selector: {matchLabels: {}}, portLevelMtls: {8080: {mode: STRICT}}",
            "portLevelMtls needs a selector",
        ),
        (
            "PeerAuthentication",
            "selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}",
            "not a port",
        ),
    ],
)
def test_said(kind: str, spec: str, message: str) -> None:
    found = said(kind, spec)
    assert any(message in each for each in found), found
