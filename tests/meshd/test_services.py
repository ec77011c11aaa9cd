from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshd.config import Address, AgentConfig, ConfigError
from meshd.services import conflicts, load_folder, service_id
from meshkit.model.resources import LocalService, ServicePort, Upstream


def config(folder: Path | None = None) -> AgentConfig:
    return AgentConfig(
        role="meshd",
        source="meshd.yaml",
        host="vm1",
        address="10.0.0.5",
        control="ca:1",
        token_file=None,
        runtime=Path("/run/meshd"),
        state=Path("/var/lib/meshd"),
        proxy=Address("127.0.0.1", 15001),
        services=folder,
    )


def service(name: str, port: int, target: int, instance: str = "v1", **fields: str) -> LocalService:
    ports = (ServicePort("http", port, target, "HTTP"),)
    return LocalService(name, "default", name, instance, {}, ports, **fields)  # type: ignore[arg-type]


def said(*services: LocalService) -> list[str]:
    return [p.message for p in conflicts(services, config())]


def test_services_apart_do_not_conflict() -> None:
    assert said(service("a", 80, 8080), service("b", 81, 8081)) == []


def test_two_instances_of_a_service_share_its_port_but_not_an_application_port() -> None:
    assert said(service("a", 80, 8080, "v1"), service("a", 80, 8081, "v2")) == []
    assert said(service("a", 80, 8080, "v1"), service("a", 80, 8080, "v2")) == [
        "127.0.0.1:8080 (application default/a/v2) is taken by application default/a/v1"
    ]


def test_two_services_with_one_port_conflict() -> None:
    assert said(service("a", 80, 8080), service("b", 80, 8081)) == [
        "10.0.0.5:80 (plaintext of default/b) is taken by plaintext of default/a"
    ]


def test_an_application_on_the_host_address_serves_its_plaintext_itself() -> None:
    assert said(service("a", 80, 80, address="10.0.0.5")) == []


def test_ports_of_meshd_are_taken() -> None:
    assert "is taken by the mesh port" in said(service("a", 15443, 8080))[0]
    assert "is taken by meshd's proxy" in said(service("a", 80, 15001))[0]


def test_an_explicit_local_port_is_a_claim_too() -> None:
    caller = LocalService(
        "a", "default", "a", "v1", {}, (), upstreams=(Upstream("127.0.0.1:8080", "b", 81),)
    )
    assert "127.0.0.1:8080" in said(service("b", 81, 8080), caller)[0]


def test_a_capture_port_is_a_claim_too() -> None:
    caller = LocalService("a", "default", "a", "v1", {}, (), capture="127.0.0.1:8080")
    (message,) = said(service("b", 81, 8080), caller)
    assert "capture port of default/a/v1) is taken by application default/b" in message


def test_a_duplicate_instance_is_refused() -> None:
    first, second = service("a", 80, 8080), service("a", 80, 8081)
    assert service_id(first) == "default/a/v1"
    assert said(first, second) == ["instance default/a/v1 is declared twice"]


WEB = """
name: web
user: "{uid}"
ports: [{{name: http, port: 80, targetPort: 8080, protocol: HTTP}}]
"""


def test_a_folder_is_read_whole_and_users_become_uids(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(WEB.format(uid=4711))
    (tmp_path / ".web.yaml.swp").write_text("junk")
    (tmp_path / "README").write_text("junk")
    found = load_folder(config(tmp_path))
    assert [s.name for s in found.services] == ["web"]
    assert found.uids["4711"] == 4711


def test_one_bad_file_refuses_the_folder_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WEB.format(uid=os.getuid()))
    (tmp_path / "b.yaml").write_text("name: b\nprots: []\nuser: no-such-user-here\n")
    with pytest.raises(ConfigError) as caught:
        load_folder(config(tmp_path))
    text = str(caught.value)
    assert f"{tmp_path}/b.yaml:2:1" in text
    assert 'did you mean "ports"' in text


def test_an_unknown_user_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WEB.format(uid="no-such-user-here"))
    with pytest.raises(ConfigError, match='no user "no-such-user-here" on this host'):
        load_folder(config(tmp_path))


def test_no_folder_means_no_services(tmp_path: Path) -> None:
    assert load_folder(config(tmp_path / "missing")).services == ()
    assert load_folder(config(None)).services == ()
