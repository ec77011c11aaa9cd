from __future__ import annotations

from pathlib import Path

import pytest

from meshctl.demo import files
from meshctl.demo.layout import GATEWAY, HOSTS, Layout, accounts, needed
from meshd.config import parse_config
from meshkit.model.dump import to_yaml
from meshkit.model.load import load_files, load_services

LAYOUT = Layout(Path("/tmp/demo"), 10, ("127.0.0.1", 8099))
EXAMPLES = (
    "destination-rules.yaml",
    "gateway.yaml",
    "peer-authentication-strict.yaml",
    "retries.yaml",
    "virtual-service-all-v1.yaml",
    "virtual-service-canary-90-10.yaml",
    "virtual-service-reviews-test-v2.yaml",
)


def test_no_two_programs_of_a_host_listen_on_one_port() -> None:
    for programs in HOSTS.values():
        ports = [port for p in programs for port in (p.target, p.upstream) if port]
        assert len(ports) == len(set(ports))


def test_every_address_is_looked_at_once() -> None:
    every = needed(10, consul=True)
    assert len(every) == len(set(every)) == len(needed(10)) + 4


def test_a_host_is_entitled_to_its_own_services_only() -> None:
    assert accounts("b") == ["default/details", "default/reviews"]
    assert accounts(GATEWAY) == ["istio-system/mesh-gateway"]


@pytest.mark.parametrize("host", HOSTS)
def test_declarations_are_what_meshd_reads(host: str) -> None:

    for program in HOSTS[host]:
        loaded = load_services(to_yaml(files.service_file(LAYOUT, host, program)), program.label)
        assert not loaded.problems
        (service,) = loaded.services
        assert (service.name, service.instance) == (program.service, program.version)
        assert service.ports[0].target == program.target


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_valid(name: str) -> None:
    loaded = load_files([files.example(name, LAYOUT)])
    assert loaded.resources and not loaded.problems


def test_the_gateway_listens_on_the_port_that_was_free() -> None:
    _, text = files.example("gateway.yaml", LAYOUT)
    assert "number: 8099" in text and "8080" not in text


def test_programs_call_where_their_meshd_listens() -> None:
    productpage = files.program_arguments(LAYOUT, "a", HOSTS["a"][0])
    assert productpage[-2:] == ["--proxy", "127.0.10.1:15001"]
    declared = files.service_file(LAYOUT, "c", HOSTS["c"][0])
    reviews = files.program_arguments(LAYOUT, "c", HOSTS["c"][0])
    assert reviews[-1] == f"http://{declared['upstreams'][0]['listen']}"


def test_the_hosts_configurations_are_what_meshd_reads() -> None:
    for host in HOSTS:
        text = to_yaml(files.host_config(LAYOUT, host))
        config = parse_config(text, "/tmp/demo/meshd.yaml", "meshd")
        assert (config.host, config.workers, config.control) == (host, 1, "127.0.10.10:15012")


def test_the_gateways_configuration_is_what_it_reads() -> None:
    text = to_yaml(files.gateway_config(LAYOUT))
    config = parse_config(text, "/tmp/demo/gateway.yaml", "gateway")
    assert (config.bind, config.account) == ("127.0.0.1", "istio-system/mesh-gateway")
