"""The demo's configuration files: what an operator of three hosts would write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from meshctl.demo.layout import EXAMPLES, GATEWAY, GATEWAY_ACCOUNT, HOSTS, Layout, Program
from meshctl.demo.places import MESH, METRICS, PROXY
from meshkit.model.dump import to_yaml

TRUST_DOMAIN = "demo.mesh"


def ca_config(layout: Layout) -> dict[str, Any]:
    return {
        "stateDir": str(layout.folder / "ca" / "state"),
        "listen": layout.control,
        "names": [layout.address("ca")],
        "trustDomain": TRUST_DOMAIN,
    }


def _discovery(layout: Layout) -> dict[str, Any]:
    if not layout.consul:
        return {"kind": "embedded"}
    return {"kind": "consul", "consul": {"address": f"{layout.address('consul')}:8500"}}


def _member_config(layout: Layout, who: str) -> dict[str, Any]:
    folder = layout.folder / who
    return {
        "host": who,
        "address": layout.address(who),
        "meshPort": MESH,
        "metrics": f"{layout.address(who)}:{METRICS}",
        "workers": 1,
        "runtimeDir": str(folder / "run"),
        "stateDir": str(folder / "state"),
        "controlPlane": {"address": layout.control, "tokenFile": str(folder / "token")},
        "discovery": _discovery(layout),
        "accessLog": str(folder / "access.log"),
        "drain": "1s",
    }


def host_config(layout: Layout, who: str) -> dict[str, Any]:
    """``meshd.yaml`` of host a, b or c."""
    return _member_config(layout, who) | {
        "proxy": f"{layout.address(who)}:{PROXY}",
        "servicesDir": str(layout.folder / who / "services.d"),
    }


def gateway_config(layout: Layout) -> dict[str, Any]:
    return _member_config(layout, GATEWAY) | {
        "bind": layout.edge[0],
        "labels": {"istio": "ingressgateway"},
        "serviceAccount": GATEWAY_ACCOUNT,
    }


def service_file(layout: Layout, host: str, program: Program) -> dict[str, Any]:
    """The ``services.d`` declaration of one program."""
    address = layout.address(host)
    declared: dict[str, Any] = {
        "name": program.service,
        "version": program.version,
        "labels": {"app": program.service},
        "serviceAccount": program.service,
        "user": str(os.getuid()),
        "address": address,
        "ports": [
            {"name": "http", "port": program.port, "targetPort": program.target, "protocol": "HTTP"}
        ],
        "health": {"http": "/health", "port": program.target, "interval": "2s", "timeout": "1s"},
    }
    if program.upstream:
        listen = f"{address}:{program.upstream}"
        declared["upstreams"] = [{"listen": listen, "host": "ratings", "port": 9083}]
    return declared


def program_arguments(layout: Layout, host: str, program: Program) -> list[str]:
    """How one program is run: arguments of ``python -m bookinfo``."""
    address = layout.address(host)
    arguments = [program.service, "--version", program.version, "--host", host]
    arguments += ["--listen", f"{address}:{program.target}"]
    if program.service == "productpage":
        arguments += ["--proxy", f"{address}:{PROXY}"]
    if program.upstream:
        arguments += ["--ratings", f"http://{address}:{program.upstream}"]
    return arguments


def example(name: str, layout: Layout) -> tuple[str, str]:
    """(source, text) of an example; the gateway's port is the one found free."""
    path = EXAMPLES / name
    text = path.read_text(encoding="utf-8")
    if name == "gateway.yaml":
        text = text.replace("number: 8080", f"number: {layout.edge[1]}")
    return f"examples/bookinfo/{name}", text


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(to_yaml(value), encoding="utf-8")


def write_all(layout: Layout) -> None:
    """Every configuration file of the demo, below its folder."""
    _write(layout.folder / "ca" / "mesh-ca.yaml", ca_config(layout))
    _write(layout.folder / GATEWAY / "gateway.yaml", gateway_config(layout))
    for host, programs in HOSTS.items():
        _write(layout.folder / host / "meshd.yaml", host_config(layout, host))
        for program in programs:
            where = layout.folder / host / "services.d" / f"{program.label}.yaml"
            _write(where, service_file(layout, host, program))


def write_token(layout: Layout, who: str, token: str) -> None:
    path = layout.folder / who / "token"
    path.touch(mode=0o600)
    path.write_text(token + "\n", encoding="ascii")
