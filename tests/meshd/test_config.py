from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshd.config import Address, AgentConfig, ConfigError, Role, parse_config, uid_of

LEAST = "address: 10.0.0.5\ncontrolPlane: {address: ca.example.org:15012}\n"
FILE = "/etc/meshd/meshd.yaml"


def parse(text: str, role: Role = "meshd") -> AgentConfig:
    return parse_config(text, FILE, role)


def problems(text: str, role: Role = "meshd") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, role)
    return [str(p) for p in caught.value.problems]


def test_the_least_configuration_has_the_documented_defaults() -> None:
    config = parse(LEAST)
    assert config.mesh_port == 15443
    assert (config.proxy, config.metrics) == (
        Address("127.0.0.1", 15001),
        Address("127.0.0.1", 15020),
    )
    assert (config.runtime, config.state) == (Path("/run/meshd"), Path("/var/lib/meshd"))
    assert config.services == Path("/etc/meshd/services.d")
    assert config.workers == len(os.sched_getaffinity(0))
    assert (config.discovery.kind, config.discovery.hold_empty) == ("embedded", 60.0)
    assert config.access_log == "off"
    assert config.worker_uids == {os.getuid()}


def test_a_gateway_has_labels_and_an_account_but_no_proxy_and_no_services() -> None:
    config = parse(LEAST, "gateway")
    assert (config.proxy, config.services) == (None, None)
    assert config.labels == {"istio": "ingressgateway"}
    assert config.account == "istio-system/mesh-gateway"
    assert 'unknown field "proxy"' in problems(LEAST + "proxy: off\n", "gateway")[0]


def test_everything_that_can_be_said_is_read() -> None:
    config = parse(
        LEAST
        + """
host: vm1
meshPort: 16000
proxy: off
metrics: "[::1]:15020"
workers: 3
runtimeDir: run
stateDir: /srv/state
discovery:
  kind: consul
  consul: {address: "10.0.0.9:8500", tokenFile: consul.token}
  holdEmpty: 5s
accessLog: logs/access.log
limits: {headerBytes: 4096}
workerUsers: [root, "65534"]
drain: 2s
"""
    )
    assert (config.host, config.mesh_port, config.proxy, config.workers) == ("vm1", 16000, None, 3)
    assert str(config.metrics) == "[::1]:15020"
    assert (config.runtime, config.state) == (Path("/etc/meshd/run"), Path("/srv/state"))
    assert config.discovery.consul == "10.0.0.9:8500"
    assert config.discovery.token_file == Path("/etc/meshd/consul.token")
    assert config.discovery.hold_empty == 5.0
    assert config.access_log == "/etc/meshd/logs/access.log"
    assert config.limits == {"header_bytes": 4096}
    assert config.worker_uids == {0, 65534, os.getuid()}


def test_all_problems_at_once_with_line_and_nearest_name() -> None:
    found = problems("adress: 10.0.0.5\nworkers: two\nlimits: {headerbytes: 1}\n")
    assert found[0].startswith(f"{FILE}:1:1: error: adress:")
    assert 'did you mean "address"?' in found[0]
    assert any(f"{FILE}:2:10: error: workers" in line for line in found)
    assert any('did you mean "headerBytes"?' in line for line in found)
    assert any("controlPlane: is required" in line for line in found)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("metrics: 127.0.0.1", "is not address:port"),
        ("metrics: localhost:80", "is not address:port"),
        ("proxy: 127.0.0.1:70000", "is not address:port"),
        ("host: a b", "is not a host name"),
        ("runtimeDir: " + "x" * 100, "too long for the sockets"),
        ("workers: 0", "outside 1..256"),
        ("workerUsers: [no-such-user-here]", 'no user "no-such-user-here"'),
        ("discovery: {kind: static}", "needs its folder"),
        ("discovery: {kind: etcd}", 'unknown value "etcd"'),
        ("discovery: {kind: consul, consul: {address: nowhere}}", "is not host:port"),
    ],
)
def test_a_wrong_value_says_what_was_expected(line: str, said: str) -> None:
    assert any(said in text for text in problems(LEAST + line + "\n"))


def test_one_document_is_expected() -> None:
    assert "expected one YAML document, found 0" in problems("")[0]
    assert "found 2" in problems(LEAST + "---\n" + LEAST)[0]


def test_uids_of_names_and_numbers() -> None:
    assert uid_of("root") == 0
    assert uid_of("1234") == 1234
    assert uid_of("") == os.getuid()
    assert uid_of("no-such-user-here") is None
    assert uid_of(str(2**32 - 1)) is None
