"""HTTP/1.1 and HTTP/2 on both sides: curl, h2load and nghttp against node's servers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.mesh import PeerMesh, Service
from tests.peers.node_process import Node
from tests.peers.programs import Download, curl, h2load, nghttp

MIB = 1 << 20
END_STREAM = 0x1
PATTERN = bytes(range(251))
VERSIONS = ("1.1", "2")
WAYS = ("mesh", "edge", "edge-tls")


@pytest.fixture(scope="module")
def services(mesh: PeerMesh, node: Node) -> Iterator[dict[str, Service]]:
    """The same application behind HTTP/1.1 and behind HTTP/2."""
    ports = {version: node.ask("http_serve", version=int(version[0])) for version in VERSIONS}
    yield {
        "1.1": mesh.add("web-h1", "HTTP", ports["1.1"]["port"]),
        "2": mesh.add("web-h2", "HTTP2", ports["2"]["port"]),
    }


def pattern(size: int) -> bytes:
    return (PATTERN * (size // 251 + 1))[:size]


@dataclass(frozen=True, slots=True)
class Peers:
    """curl speaking ``version``, and the service that it reaches one way or another."""

    mesh: PeerMesh
    folder: Path
    way: str
    version: str
    service: Service

    def curl(self, path: str, *arguments: str) -> Download:
        version = {"1.1": "--http1.1", "2": "--http2-prior-knowledge"}[self.version]
        if self.way == "edge-tls" and self.version == "2":
            version = "--http2"  # by ALPN
        (self.folder / "root.pem").write_text(self.mesh.outside)
        trusted = ("--cacert", str(self.folder / "root.pem"))
        got = curl(self.folder, version, *self.address(), *trusted, *arguments, self.url(path))
        assert got.version == self.version
        return got

    def url(self, path: str) -> str:
        scheme = "https" if self.way == "edge-tls" else "http"
        return f"{scheme}://{self.service.edge_host}{path}"

    def address(self) -> tuple[str, str]:
        ports = {
            "mesh": self.service.local,
            "edge": self.mesh.edge_http,
            "edge-tls": self.mesh.edge_https,
        }
        return "--connect-to", f"::127.0.0.1:{ports[self.way]}"


@pytest.fixture(params=[(w, c, s) for w in WAYS for c in VERSIONS for s in VERSIONS], ids="-".join)
def peers(
    request: pytest.FixtureRequest, mesh: PeerMesh, services: dict[str, Service], tmp_path: Path
) -> Peers:
    way, client, server = request.param
    return Peers(mesh, tmp_path, way, client, services[server])


def test_each_side_speaks_its_own_version(peers: Peers) -> None:
    got = peers.curl("/facts", "-H", "X-Mixed-Case: kept value", "-H", "Cookie: a=1; b=2")
    told = json.loads(got.body)
    assert (got.code, told["method"], told["url"]) == (200, "GET", "/facts")
    assert told["version"] == {"web-h1": "1.1", "web-h2": "2.0"}[peers.service.name]
    headers = told["headers"]
    assert headers["x-mixed-case"] == "kept value" and headers["cookie"] == "a=1; b=2"
    host = headers.get(":authority") or headers.get("host")
    assert host == peers.service.edge_host


@pytest.mark.parametrize("size", [0, 1, 16_384, 5 * MIB])
def test_downloads(peers: Peers, size: int) -> None:
    got = peers.curl(f"/bytes/{size}")
    assert got.code == 200 and got.body == pattern(size)
    assert f"content-length: {size}\r\n" in got.head


def test_a_download_without_a_length(peers: Peers) -> None:
    got = peers.curl("/slow/100000")
    assert got.body == pattern(10_000) * 10


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads(peers: Peers, chunked: bool) -> None:
    """5 MB; curl waits for 100 Continue where it speaks HTTP/1.1."""
    body = pattern(5 * MIB)
    (peers.folder / "up").write_bytes(body)
    header = "Transfer-Encoding: chunked" if chunked else "Content-Type: application/octet-stream"
    if chunked and peers.version == "2":
        header = "X-Unknown: length"
    send = ("-T", "-") if chunked else ("--data-binary", f"@{peers.folder}/up")
    if chunked:
        send = ("-X", "POST", "-T", f"{peers.folder}/up")
    told = json.loads(peers.curl("/sum", "-H", header, *send).body)
    assert told["length"] == len(body)
    assert told["sha256"] == hashlib.sha256(body).hexdigest()


def test_a_head_request_has_a_length_and_no_body(peers: Peers) -> None:
    got = peers.curl("/bytes/1000", "--head")
    assert got.code == 200 and "content-length: 1000\r\n" in got.head


def test_early_hints_arrive_before_the_answer(peers: Peers) -> None:
    got = peers.curl("/hints")
    assert got.body == b"hinted"
    assert got.head.index(" 103") < got.head.index(" 200")
    assert "link: </style.css>" in got.head


def test_trailers_arrive(peers: Peers) -> None:
    """curl adds trailers to the head that it writes; HTTP/1.1 asks for them with TE."""
    got = peers.curl("/trailer", "-H", "TE: trailers")
    assert got.body == b"with a trailer"
    assert "x-sum: 42\r\n" in got.head


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(
    ("way", "client"), [("mesh", "1.1"), ("edge-tls", "1.1"), ("edge-tls", "2")]
)
def test_many_requests_on_one_connection(
    mesh: PeerMesh, services: dict[str, Service], tmp_path: Path, way: str, client: str, server: str
) -> None:
    """In turn; curl 7.88 cannot do that itself with --http2-prior-knowledge."""
    peers = Peers(mesh, tmp_path, way, client, services[server])
    urls = [peers.url(f"/bytes/{i}") for i in range(20)]
    more = [part for url in urls for part in ("-o", str(peers.folder / "more"), url)]
    assert peers.curl("/bytes/7", *more).code == 200


def test_the_proxy_port_takes_requests_for_both(
    mesh: PeerMesh, services: dict[str, Service], tmp_path: Path
) -> None:
    """Applications that speak HTTP/1.1 to the proxy reach an HTTP/2 service by its name."""
    for version, service in services.items():
        got = curl(tmp_path, "-x", f"127.0.0.1:{mesh.proxy}", f"http://{service.name}/facts")
        assert json.loads(got.body)["version"] == ("2.0" if version == "2" else "1.1")


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (4, 1), (8, 16)])
def test_h2load_has_no_failed_request(
    mesh: PeerMesh, services: dict[str, Service], server: str, clients: int, streams: int
) -> None:
    local = services[server].local
    total = h2load(
        *("-n", "2000", "-c", str(clients), "-m", str(streams)),
        f"http://127.0.0.1:{local}/bytes/1000",
    )
    assert total["succeeded"] == 2000, total


@pytest.mark.parametrize("server", VERSIONS)
def test_h2load_over_tls_at_the_gateway(
    mesh: PeerMesh, services: dict[str, Service], server: str
) -> None:
    total = h2load(
        *("-n", "2000", "-c", "4", "-m", "10"),
        f"--connect-to=127.0.0.1:{mesh.edge_https}",
        f"https://{services[server].edge_host}/bytes/1000",
    )
    assert total["succeeded"] == 2000, total


def test_nghttp_sees_an_orderly_connection(services: dict[str, Service]) -> None:
    """Settings come first and are acknowledged, one HEADERS, DATA within 16 KiB, an end."""
    frames, _ = nghttp(f"http://127.0.0.1:{services['2'].local}/bytes/100000")
    got = [frame for frame in frames if frame.direction == "recv"]
    assert got[0].kind == "SETTINGS" and got[0].flags == 0 and got[0].stream == 0
    assert [f.flags for f in got if f.kind == "SETTINGS"] == [0, 1]
    assert len([f for f in got if f.kind == "HEADERS"]) == 1
    data = [f for f in got if f.kind == "DATA"]
    assert sum(f.length for f in data) == 100_000
    assert all(f.length <= 16_384 for f in data)
    assert [bool(f.flags & END_STREAM) for f in got if f.kind in ("HEADERS", "DATA")].count(
        True
    ) == 1
    assert "RST_STREAM" not in {f.kind for f in got}


@pytest.mark.parametrize("server", VERSIONS)
@pytest.mark.parametrize(
    "option", ["--padding=200", "--continuation", "--expect-continue", "--trailer=x-more: 1"]
)
def test_nghttp_uploads_in_every_way(
    services: dict[str, Service], tmp_path: Path, server: str, option: str
) -> None:
    """nghttp's --continuation adds fields of 24 KB in all, in as many frames as they need."""
    (tmp_path / "up").write_bytes(pattern(200_000))
    url = f"http://127.0.0.1:{services[server].local}/sum"
    frames, text = nghttp(option, "-d", str(tmp_path / "up"), url)
    assert ":status: 200" in text, text
    assert "RST_STREAM" not in {f.kind for f in frames if f.direction == "recv"}


def test_nghttp_with_a_small_window_gets_everything(services: dict[str, Service]) -> None:
    """1 KiB a stream and 64 KiB for twenty of them: credit decides the pace."""
    url = f"http://127.0.0.1:{services['2'].local}/bytes/100000"
    frames, _ = nghttp("-w", "10", "-m", "20", url)
    data = [f for f in frames if (f.direction, f.kind) == ("recv", "DATA")]
    assert sum(f.length for f in data) == 20 * 100_000
    assert max(f.length for f in data) <= 1023
