"""Members of the mesh that misbehave: mTLS and control-plane calls with a host's own keys."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import trio

from ca.client import APIError, PolicyClient
from tests.attack.conftest import PORT, Range
from tests.attack.raw import dial
from tests.e2e.mesh import Mesh
from tests.meshd.agent.rig import Host

SNI = f"p{PORT}.any.victim.default.svc.cluster.local"


def pair_of(host: Host, name: str) -> Path:
    """Key and chain of ``host`` or ``<namespace>/<account>`` on a host."""
    return host.folder / "state" / "identity" / (name.replace("/", "~") + ".pem")


def tls(target: Range, pair: Path, sni: str = SNI) -> ssl.SSLSocket:
    """A connection to the victim's mesh port with this certificate; OSError when refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(pair)
    raw = dial(target.b.address, target.b.mesh)
    return context.wrap_socket(raw, server_hostname=sni)


def ask(target: Range, pair: Path, *fields: bytes, sni: str = SNI, path: bytes = b"/") -> bytes:
    """One request on the mesh port; b"" when the connection is refused."""
    try:
        with tls(target, pair, sni) as conn:
            conn.sendall(request(*fields, path=path))
            return conn.recv(65536)
    except OSError:
        return b""


def request(*fields: bytes, path: bytes = b"/") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: victim\r\n%b\r\n" % (
        path,
        b"".join(f + b"\r\n" for f in fields),
    )


def call(whole: Mesh, pair: Path | None, method: str, path: str, body: Any = None) -> Any:
    """A call to the policy server; the APIError's code when it refuses."""

    async def run() -> Any:
        client = PolicyClient(
            whole.rig.control,
            roots=(whole.folder / "ca" / "operator" / "roots.pem").read_text(),
            certificate=pair,
            key=pair,
            trust_domain="cluster.local",
        )
        async with client:
            try:
                return await getattr(client, method)(path, body)
            except APIError as error:
                return error.code

    return trio.run(run)
