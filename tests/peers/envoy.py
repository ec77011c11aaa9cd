"""An Envoy whose listeners and clusters a test chooses, with every check of its own on.

Towards the mesh (`Envoy.client`) a plaintext listener leads to mTLS with our SNI,
ALPN and a SPIFFE certificate; the peer's SAN must be the one expected.  As a
mesh host (`Envoy.server`) a filter chain takes connections by SNI and ALPN,
requires a certificate with the SAN expected, and passes on in plaintext.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.meshd.worker.real.rig import Authority, listen
from tests.parts.find import envoy_binary
from tests.peers.patience import until

Config = dict[str, Any]
_TYPES = "type.googleapis.com/envoy.extensions"
ALPN = {"HTTP": "http/1.1", "HTTP2": "h2", "TCP": "baremesh-tcp"}
"""What an Envoy speaks between hosts; over TCP without the preface, which it cannot write."""


def _typed(kind: str, name: str, **config: Any) -> Config:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **config}}


def _address(port: int) -> Config:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def free_port() -> int:
    sock = listen()
    with sock:
        return int(sock.getsockname()[1])


@dataclass
class Envoy:
    """Add listeners, then `start`; `close` ends the process."""

    folder: Path
    authority: Authority
    _listeners: list[Config] = field(default_factory=list)
    _clusters: list[Config] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _admin: int = 0

    def client(
        self,
        name: str,
        protocol: str,
        mesh_port: int,
        sni: str,
        identity: str,
        expected: str,
    ) -> int:
        """A plaintext port that leads to a service of the mesh."""
        tls = {
            "sni": sni,
            "common_tls_context": self._tls(name, protocol, identity, expected),
        }
        socket = _typed("transport_sockets.tls.v3.UpstreamTlsContext", "tls", **tls)
        self._cluster(name, protocol, mesh_port, socket)
        return self._listen(name, [{"filters": [self._filter(name, protocol)]}])

    def server(
        self, name: str, protocol: str, target: int, sni: str, identity: str, expected: str
    ) -> int:
        """A mesh port of this Envoy's, in front of an application's port."""
        tls = {
            "common_tls_context": self._tls(name, protocol, identity, expected),
            "require_client_certificate": True,
        }
        self._cluster(name, protocol, target, None)
        chain = {
            "filter_chain_match": {
                "server_names": [sni],
                "application_protocols": [ALPN[protocol]],
            },
            "filters": [self._filter(name, protocol)],
            "transport_socket": _typed(
                "transport_sockets.tls.v3.DownstreamTlsContext", "tls", **tls
            ),
        }
        inspector = _typed("filters.listener.tls_inspector.v3.TlsInspector", "tls_inspector")
        return self._listen(name, [chain], listener_filters=[inspector])

    def _listen(self, name: str, chains: list[Config], **more: Any) -> int:
        port = free_port()
        self._listeners.append(
            {"name": name, "address": _address(port), "filter_chains": chains, **more}
        )
        return port

    def _filter(self, name: str, protocol: str) -> Config:
        if protocol == "TCP":
            kind = "filters.network.tcp_proxy.v3.TcpProxy"
            return _typed(kind, "tcp", stat_prefix=name, cluster=name)
        route = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "30s"}}
        upgrades = [{"upgrade_type": "websocket"}]
        return _typed(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "http",
            stat_prefix=name,
            codec_type="AUTO",
            upgrade_configs=upgrades,
            route_config={"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
            http_filters=[_typed("filters.http.router.v3.Router", "router")],
        )

    def _cluster(self, name: str, protocol: str, port: int, socket: Config | None) -> None:
        endpoint = {"endpoint": {"address": _address(port)}}
        cluster: Config = {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "10s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [endpoint]}],
            },
        }
        if socket is not None:
            cluster["transport_socket"] = socket
        if protocol == "HTTP2":
            options = {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
            key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
            cluster["typed_extension_protocol_options"] = {key: options}
        self._clusters.append(cluster)

    def _tls(self, name: str, protocol: str, identity: str, expected: str) -> Config:
        """TLS 1.3, our certificate, and the one SAN that the peer may have."""
        certificate, key = self.authority.issue(identity)
        files = {"pem": certificate, "key": key, "root": self.authority.pem.encode()}
        for kind, data in files.items():
            (self.folder / f"{name}.{kind}").write_bytes(data)
        path = lambda kind: {"filename": str(self.folder / f"{name}.{kind}")}  # noqa: E731
        san = {"san_type": "URI", "matcher": {"exact": expected}}
        return {
            "alpn_protocols": [ALPN[protocol]],
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [{"certificate_chain": path("pem"), "private_key": path("key")}],
            "validation_context": {
                "trusted_ca": path("root"),
                "match_typed_subject_alt_names": [san],
            },
        }

    # The process

    def start(self) -> None:
        self._admin = free_port()
        config = {
            "admin": {"address": _address(self._admin)},
            "static_resources": {"listeners": self._listeners, "clusters": self._clusters},
        }
        file = self.folder / "envoy.json"
        file.write_text(json.dumps(config, indent=1))
        command = [envoy_binary(), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id"]
        with (self.folder / "envoy.log").open("wb") as log:
            self._process = subprocess.Popen([*command, "--log-level", "warning"], stderr=log)
        until(self._ready, f"envoy is ready; see {self.folder}/envoy.log")

    def _ready(self) -> bool:
        assert self._process is not None
        log = self.folder / "envoy.log"
        assert self._process.poll() is None, log.read_text()[-2000:]
        try:
            return self._ask("/ready").strip() == "LIVE"
        except OSError:
            return False

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin}{path}") as answer:
            text: str = answer.read().decode()
            return text

    def stat(self, name: str) -> int:
        """A counter of Envoy's by its full name; 0 where it has none."""
        for line in self._ask(f"/stats?filter=^{name}$").splitlines():
            return int(line.rpartition(" ")[2])
        return 0

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
