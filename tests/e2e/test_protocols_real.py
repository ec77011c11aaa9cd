"""Other protocols through a whole mesh: TCP by local port and edge, TLS passed through."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.mesh import GENEROUS, Mesh, mesh, wait_ready
from tests.e2e.test_edge_real import certificate
from tests.meshd.agent.rig import until

LEDGER, VAULT, LOCAL, EDGE_TCP, EDGE_TLS = 5432, 8200, 15432, 15433, 8443
PATIENCE = 10.0
RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ledger}
spec:
  host: ledger
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ledger}
spec:
  hosts: [ledger]
  tcp:
  - route:
    - {destination: {host: ledger, subset: v2}}
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 15433, name: tcp, protocol: TCP}
    hosts: ["*"]
  - port: {number: 8443, name: tls, protocol: TLS}
    hosts: ["vault.example"]
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge-tcp}
spec:
  hosts: ["ledger.example"]
  gateways: [edge]
  tcp:
  - route:
    - {destination: {host: ledger, subset: v1}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge-tls}
spec:
  hosts: ["vault.example"]
  gateways: [edge]
  tls:
  - match:
    - {sniHosts: ["vault.example"]}
    route:
    - {destination: {host: vault}}
"""


class Greeter:
    """Speaks first (its name), then echoes until the other side is done."""

    def __init__(self, name: str, context: ssl.SSLContext | None = None) -> None:
        self._name = name.encode() + b"\n"
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            connection.sendall(self._name)
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass  # a health check connects and leaves
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def vault_context(folder: Path) -> ssl.SSLContext:
    certificate(folder, "vault")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "vault.pem", folder / "vault.key")
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """a calls ledger by a local port; b serves ledger v1 and vault, c ledger v2; a gateway."""
    folder = tmp_path_factory.mktemp("protocols")
    greeters = [Greeter("ledger-v1"), Greeter("ledger-v2"), Greeter("vault", vault_context(folder))]
    try:
        with mesh(folder) as found:
            a = found.join("a", 1, "default/shop")
            upstream = {"listen": f"{a.address}:{LOCAL}", "host": "ledger", "port": LEDGER}
            found.serve(a, "shop", "v1", 9000, upstreams=[upstream])
            b = found.join("b", 2, "default/ledger", "default/vault")
            c = found.join("c", 3, "default/ledger")
            for host, greeter, version in ((b, greeters[0], "v1"), (c, greeters[1], "v2")):
                port = {"name": "tcp-db", "port": LEDGER, "targetPort": greeter.port}
                host.declare("ledger", 0, 0, version=version, ports=[port])
            port = {"name": "https", "port": VAULT, "targetPort": greeters[2].port}
            b.declare("vault", 0, 0, ports=[port])
            edge = found.address(4)
            found.join("edge", 4, "istio-system/mesh-gateway", module="gateway", bind=edge)
            found.start()
            both = {"ledger-v1", "ledger-v2"}
            until(lambda: both <= set(names(found)), "both versions answer", GENEROUS)
            found.apply(GATEWAY + "---" + RULES.partition("---")[0])
            wait_ready(found.hosts["edge"])
            yield found
    finally:
        for greeter in greeters:
            greeter.close()


def greeting(connect: Callable[[], socket.socket]) -> str:
    """What the server says first, then an echo with a half-close; how it failed instead."""
    try:
        with connect() as client:
            reader = client.makefile("rb")
            name = reader.readline().decode().strip()
            client.sendall(b"x" * 100_000)
            if not isinstance(client, ssl.SSLSocket):
                client.shutdown(socket.SHUT_WR)
            assert reader.read(100_000) == b"x" * 100_000
            return name
    except (OSError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"


def tcp(whole: Mesh, last: int, port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection((whole.address(last), port), PATIENCE)


def names(whole: Mesh, count: int = 12) -> Counter[str]:
    return Counter(greeting(tcp(whole, 1, LOCAL)) for _ in range(count))


def test_a_server_that_speaks_first_is_reached_by_a_local_port(whole: Mesh) -> None:
    found = names(whole)
    assert found.keys() == {"ledger-v1", "ledger-v2"}, found


def test_tcp_rules_move_new_connections(whole: Mesh) -> None:
    whole.apply(RULES)
    try:
        assert names(whole).keys() == {"ledger-v2"}
    finally:
        assert whole.ctl("delete", "vs", "ledger", "--wait").status == 0


def test_bytes_at_the_edge_go_where_the_rule_says(whole: Mesh) -> None:
    until(lambda: greeting(tcp(whole, 4, EDGE_TCP)) == "ledger-v1", "the edge serves", GENEROUS)


def test_tls_is_passed_through_to_the_applications_own(whole: Mesh) -> None:
    context = ssl.create_default_context(cafile=str(whole.folder / "vault.pem"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = False  # its name is in the subject alone
    plain = tcp(whole, 4, EDGE_TLS)

    def connect(name: str) -> Callable[[], socket.socket]:
        return lambda: context.wrap_socket(plain(), server_hostname=name)

    assert greeting(connect("vault.example")) == "vault"
    assert "vault" not in greeting(connect("other.example"))


def test_a_plaintext_port_exists_for_bytes_too(whole: Mesh) -> None:
    assert greeting(tcp(whole, 2, LEDGER)) == "ledger-v1"


def test_the_operator_sees_protocols_and_routes(whole: Mesh) -> None:
    def rows(host: str, what: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = whole.asked("proxy", "config", host, what)["items"]
        return found

    kinds = {(row["kind"], row["protocol"]) for row in rows("a", "listeners")}
    assert {("local", "TCP"), ("plain", "HTTP"), ("mesh", "by ALPN")} <= kinds
    routes = {(row["port"], row["protocol"]) for row in rows("a", "routes")}
    assert {(LEDGER, "TCP"), (VAULT, "TCP"), (9000, "HTTP")} <= routes
    (tls,) = [row for row in rows("edge", "routes") if row["protocol"] == "TLS"]
    assert tls["match"] == ["sni vault.example"] and "edge-tls" in str(tls["origin"])
    servers = {row["protocol"]: row["servers"] for row in rows("edge", "listeners")}
    assert servers == {"TCP": ["* (TCP)"], "TLS": ["vault.example (TLS passed through)"]}
    assert {row["protocol"] for row in rows("a", "clusters")} == {"HTTP", "TCP", "HTTPS"}
