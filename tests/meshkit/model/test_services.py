"""services.d: the applications of a host."""

from __future__ import annotations

import pytest

from meshkit.model.load import load_service_files, load_services
from meshkit.model.resources import Health, LocalService, ServicePort, Upstream

WHOLE = """\
name: reviews
namespace: prod
version: v1
labels: {app: reviews}
serviceAccount: bookinfo-reviews
user: reviews
address: 127.0.0.2
ports: [{name: web, port: 9080, targetPort: 19080, protocol: HTTP}]
health: {http: /health, port: 19081, interval: 2s, timeout: 500ms}
upstreams: [{listen: 127.0.0.1:9181, host: ratings, port: 9080}]
instance: a
"""


def one(text: str) -> LocalService:
    loaded = load_services(text, "s.yaml")
    assert loaded.problems == []
    (service,) = loaded.services
    return service


def test_every_field() -> None:
    found = one(WHOLE)
    assert found == LocalService(
        name="reviews",
        namespace="prod",
        service_account="bookinfo-reviews",
        instance="a",
        labels={"app": "reviews", "version": "v1"},
        ports=(ServicePort("web", 9080, 19080, "HTTP"),),
        address="127.0.0.2",
        user="reviews",
        health=Health("/health", 19081, 2.0, 0.5),
        upstreams=(Upstream("127.0.0.1:9181", "ratings", 9080, found.upstreams[0].position),),
        position=found.position,
    )


def test_defaults() -> None:
    found = one("name: a\nports: [{port: 80}]\nhealth: {}\n")
    assert (found.namespace, found.service_account, found.instance) == ("default", "a", "main")
    assert found.ports == (ServicePort("http", 80, 80, "HTTP"),)
    assert found.health == Health(None, 80)
    assert (found.address, found.user, found.labels) == ("127.0.0.1", "", {})


@pytest.mark.parametrize(
    ("version", "instance"), [("v1", "v1"), ("1.2.3", "1-2-3"), ("V2_b", "v2-b")]
)
def test_the_version_is_a_label_and_names_the_instance(version: str, instance: str) -> None:
    found = one(f'name: a\nversion: "{version}"\nports: [{{port: 80}}]\n')
    assert found.labels == {"version": version}
    assert found.instance == instance


def test_a_service_may_only_call() -> None:
    found = one("name: cron\nuser: 1001\nupstreams: [{listen: '[::1]:80', host: a, port: 80}]\n")
    assert found.ports == ()
    assert found.user == "1001"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ports: [{port: 80}]", "name: is required"),
        ("name: a", "neither serves nor calls"),
        ("name: a\nunit: a.service\nports: [{port: 80}]", '"unit" is not supported yet'),
        ("name: a\nprots: [{port: 80}]", 'did you mean "ports"'),
        ("name: a\nversion: 1.0\nports: [{port: 80}]", 'quote it: "1.0"'),
        (
            "name: a\nversion: a\nlabels: {version: b}\nports: [{port: 80}]",
            'labels say version "b"',
        ),
        ("name: a\nuser: 'a b'\nports: [{port: 80}]", "not a Unix user name"),
        ("name: a\nuser: -1\nports: [{port: 80}]", "not a Unix user name"),
        ("name: a\nuser: true\nports: [{port: 80}]", "expected a Unix user name"),
        ("name: a\nuser: 4294967295\nports: [{port: 80}]", "not a Unix user name"),
        ("name: a\nports: [{port: 80, protocol: UDP}]", "UDP is not carried: leave the port out"),
        ("name: a\nports: [{port: 80, protocol: HTP}]", 'did you mean "HTTP"'),
        ("name: a\nports: [{port: 80, appProtocol: udp}]", 'unknown appProtocol "udp"'),
        (
            "name: a\nports: [{port: 80, protocol: HTTP, appProtocol: kubernetes.io/h2c}]",
            "appProtocol means HTTP2, but protocol is HTTP",
        ),
        (
            "name: a\nports: [{port: 80, name: tcp-x, protocol: HTTP}]",
            'the name "tcp-x" declares TCP, but the protocol is HTTP',
        ),
        (
            "name: a\nports: [{port: 80, name: grpc, appProtocol: http}]",
            'the name "grpc" declares GRPC, but the protocol is HTTP',
        ),
        ("name: a\ncapture: 10.0.0.1:80", "not a loopback address"),
        ("name: a\nports: [{port: 80}, {port: 81}]", "port 80 has no name"),
        ("name: a\nports: [{port: 80, name: a}, {port: 80, name: b}]", "port 80 is given twice"),
        ("name: a\nports: [{port: 80, name: a}, {port: 81, name: a}]", "name a is given twice"),
        ("name: a\nports: [{port: 80}]\nhealth: {http: health}", "not a path"),
        ("name: a\nports: [{port: 80}]\nhealth: {timeout: 9s}", "longer than the interval"),
        ("name: a\nhealth: {}\nupstreams: []", "no port to ask"),
        (
            "name: a\nupstreams: [{listen: '0.0.0.0:80', host: b, port: 80}]",
            "not a loopback address",
        ),
        ("name: a\nupstreams: [{listen: '9181', host: b, port: 80}]", "not address:port"),
        ("name: a\nupstreams: [{listen: '127.0.0.1:x', host: b, port: 80}]", "not address:port"),
        ("name: a\nupstreams: [{listen: '::1:80', host: b, port: 80}]", "not address:port"),
        (
            "name: a\nupstreams: [{listen: '127.0.0.1:80', host: b, port: 1},"
            " {listen: '127.0.0.1:80', host: c, port: 1}]",
            "given twice",
        ),
        ("name: a\naddress: localhost\nports: [{port: 80}]", "not an IP address"),
        ("apiVersion: v1\nkind: Service\n", "apply it with meshctl"),
        ("- a\n", "expected a mapping (service)"),
    ],
)
def test_refused(text: str, said: str) -> None:
    loaded = load_services(text + "\n", "s.yaml")
    assert not loaded.services
    assert any(said in str(problem) for problem in loaded.problems), loaded.problems


@pytest.mark.parametrize(
    ("port", "protocol", "name"),
    [
        ("port: 80", "HTTP", "http"),
        ("port: 80, protocol: tcp", "TCP", "tcp"),
        ("port: 80, protocol: AUTO", "AUTO", "auto"),
        ("port: 80, protocol: grpc-web", "GRPC-WEB", "grpc-web"),
        ("port: 80, name: web", "HTTP", "web"),
        ("port: 80, name: grpc", "GRPC", "grpc"),
        ("port: 80, name: grpc-web", "GRPC-WEB", "grpc-web"),
        ("port: 80, name: graph", "HTTP", "graph"),
        ("port: 80, name: http2-api", "HTTP2", "http2-api"),
        ("port: 80, name: https-api", "HTTPS", "https-api"),
        ("port: 80, name: tls", "TLS", "tls"),
        ("port: 80, name: mysql-x", "MYSQL", "mysql-x"),
        ("port: 80, name: redis", "REDIS", "redis"),
        ("port: 80, name: mongo", "MONGO", "mongo"),
        ("port: 80, name: http-api, protocol: HTTP2", "HTTP2", "http-api"),
        ("port: 80, name: tcp-x, protocol: TLS", "TLS", "tcp-x"),
        ("port: 80, name: tcp, protocol: AUTO", "AUTO", "tcp"),
        ("port: 80, appProtocol: kubernetes.io/h2c", "HTTP2", "http2"),
        ("port: 80, appProtocol: kubernetes.io/ws", "HTTP", "http"),
        ("port: 80, appProtocol: kubernetes.io/wss", "HTTPS", "https"),
        ("port: 80, appProtocol: grpc, name: api", "GRPC", "api"),
    ],
)
def test_a_port_declares_its_protocol(port: str, protocol: str, name: str) -> None:
    """By protocol, else appProtocol, else the prefix of its name, else it is HTTP."""
    found = one(f"name: a\nports: [{{{port}}}]\n").ports[0]
    assert (found.protocol, found.name) == (protocol, name)


def test_a_usual_port_of_something_else_is_asked_about() -> None:
    loaded = load_services("name: a\nports: [{port: 3306}]\n", "s.yaml")
    assert loaded.services[0].ports[0].protocol == "HTTP"
    (problem,) = loaded.problems
    assert str(problem).startswith("s.yaml:2:") and "add protocol: MYSQL" in str(problem)


@pytest.mark.parametrize(
    ("name", "meant"), [("gprc-api", "grpc"), ("tpc", "tcp"), ("mongodb", "mongo"), ("htp", "http")]
)
def test_a_name_that_nearly_declares_a_protocol_is_asked_about(name: str, meant: str) -> None:
    loaded = load_services(f"name: a\nports: [{{name: {name}, port: 80}}]\n", "s.yaml")
    assert loaded.services[0].ports[0].protocol == "HTTP"
    (problem,) = loaded.problems
    assert f'"{name}" declares no protocol, so port 80 is HTTP; did you mean "{meant}"?' in str(
        problem
    )
    said = f"name: a\nports: [{{name: {name}, port: 80, protocol: HTTP}}]\n"
    assert not load_services(said, "s.yaml").problems


@pytest.mark.parametrize("name", ["api", "web", "rest", "admin", "metrics", "http1", "db"])
def test_other_names_declare_nothing(name: str) -> None:
    assert not load_services(f"name: a\nports: [{{name: {name}, port: 80}}]\n", "s.yaml").problems


@pytest.mark.parametrize("protocol", ["TCP", "GRPC", "TLS"])
def test_an_http_check_of_a_port_that_does_not_speak_it(protocol: str) -> None:
    text = f"name: a\nports: [{{port: 80, protocol: {protocol}}}]\nhealth: {{http: /}}\n"
    (problem,) = load_services(text, "s.yaml").problems
    assert f"speaks HTTP/1.1, and port 80 is {protocol}" in str(problem)


def test_an_upstream_may_say_its_protocol_and_a_service_its_capture() -> None:
    found = one(
        "name: a\ncapture: 127.0.0.1:15101\n"
        "upstreams: [{listen: '127.0.0.1:5432', host: db, port: 5432, protocol: tcp}]\n"
    )
    assert (found.capture, found.upstreams[0].protocol) == ("127.0.0.1:15101", "TCP")


def test_a_service_may_only_be_captured() -> None:
    assert one("name: cron\ncapture: '[::1]:15101'\n").ports == ()


def test_what_two_documents_may_not_share() -> None:
    first = "name: a\nports: [{port: 80}]\n"
    other = "name: b\nupstreams: [{listen: '127.0.0.1:90', host: c, port: 1}]\n"
    loaded = load_service_files(
        [("1.yaml", f"{first}---\n{other}"), ("2.yaml", first), ("3.yaml", other)]
    )
    assert [problem.field for problem in loaded.problems] == ["instance", "instance", "listen"]
    assert "1.yaml:1:1" in loaded.problems[0].message


def test_two_instances_of_one_service_on_a_host() -> None:
    text = "name: a\nversion: v1\nports: [{port: 80, targetPort: 1}]\n---\n"
    loaded = load_services(text + text.replace("v1", "v2"), "s.yaml")
    assert loaded.problems == []
    assert [service.instance for service in loaded.services] == ["v1", "v2"]
