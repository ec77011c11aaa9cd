"""A worker process under test: real sockets, real TLS, and a stand-in for its agent.

The stand-in speaks the agent's side of `meshkit.snapshot.messages` and nothing
else: it hands over roots, keys, listeners and one snapshot.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshkit.names import MeshSettings
from meshkit.snapshot import messages
from meshkit.snapshot.codec import content_hash, encode
from meshkit.snapshot.types import (
    ADDRESSES,
    AddressTable,
    HostConfig,
    ListenerSpec,
    OutboundHost,
)

MESH = MeshSettings()


class Authority:
    """A root that signs leaves of any shape, right and wrong."""

    def __init__(self, domain: str = "cluster.local") -> None:
        self.domain = domain
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(f"root of {domain}", [], self.key.public_key(), ca=True)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, *uris: str, ca: bool = False, days: float = 1.0) -> tuple[bytes, bytes]:
        """PEM certificate and key for the URIs."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._sign("leaf", list(uris), key.public_key(), ca=ca, days=days)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return leaf.public_bytes(serialization.Encoding.PEM), secret

    def _sign(
        self,
        subject: str,
        uris: Sequence[str],
        public: ec.EllipticCurvePublicKey,
        *,
        ca: bool,
        days: float = 1.0,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"root of {self.domain}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(_usage(ca), critical=True)
        )
        if not ca or uris:
            uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def identity(account: str, namespace: str = "default") -> str:
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


def memfd(data: bytes) -> int:
    fd = os.memfd_create("key", os.MFD_CLOEXEC)
    os.write(fd, data)
    return fd


def listen(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, port))
    sock.listen(1024)
    return sock


@dataclass
class Rig:
    """One worker process and the agent's end of its socket."""

    folder: Path
    index: int = 0
    process: subprocess.Popen[bytes] = field(init=False)
    channel: socket.socket = field(init=False)
    hello: messages.Frame = field(init=False)
    adopted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = messages.FrameReader()
        self._frames: list[messages.Frame] = []
        self.path = self.folder / f"worker{self.index}.sock"
        self.stderr = self.folder / f"worker{self.index}.log"
        self.access_log = self.folder / f"access{self.index}.log"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        self.start()

    def start(self, *prefix: str) -> None:
        """Start the process and take its hello."""
        command = [
            *prefix,
            sys.executable,
            "-m",
            "meshd.worker",
            "--index",
            str(self.index),
            "--socket",
            str(self.path),
            "--counters",
            str(self.folder / f"counters.{self.index}"),
        ]
        with self.stderr.open("ab") as err:
            self.process = subprocess.Popen(command, stderr=err, cwd=Path(__file__).parents[4])
        self.meet()

    def meet(self) -> None:
        """Accept the worker's connection, as an agent that has just started does."""
        self._server.settimeout(10)
        self.channel, _ = self._server.accept()
        self.channel.settimeout(10)
        self._reader = messages.FrameReader()
        self._frames = []
        self.hello = self.expect("hello")

    def send(self, data: bytes, *fds: int) -> None:
        socket.send_fds(self.channel, [data], list(fds))

    def expect(self, *kinds: str) -> messages.Frame:
        """The next frame, which must be of one of these types."""
        while not self._frames:
            data, fds, _, _ = socket.recv_fds(self.channel, 65536, 64)
            assert data, f"the worker closed: {self.stderr.read_text()}"
            self.adopted += fds
            self._frames += self._reader.feed(data)
        frame = self._frames.pop(0)
        assert frame.type in kinds, frame
        return frame

    def trust(self, *authorities: Authority) -> None:
        self.send(messages.roots({a.domain: a.pem for a in authorities}))

    def keys(self, name: str, pair: tuple[bytes, bytes]) -> None:
        fds = [memfd(part) for part in pair]
        self.send(messages.keys(name), *fds)
        for fd in fds:
            os.close(fd)

    def log_requests(self) -> None:
        fd = os.open(self.access_log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self.send(messages.access_log(), fd)
        os.close(fd)

    def listener(self, spec: ListenerSpec, sock: socket.socket) -> None:
        self.send(messages.listener(spec.id), sock.fileno())

    def configure(
        self,
        config: HostConfig,
        scopes: Mapping[str, Sequence[OutboundHost]] | None = None,
        revision: str = "1",
        addresses: Mapping[str, AddressTable] | None = None,
    ) -> messages.Frame:
        """Send a whole snapshot; returns the ack (or refusal)."""
        blobs = {}
        put: dict[str, dict[str, str]] = {}
        body = encode(config)
        host = content_hash(body)
        blobs[host] = body
        for scope, hosts in (scopes or {}).items():
            for outbound in hosts:
                body = encode(outbound)
                blobs[content_hash(body)] = body
                put.setdefault(scope, {})[outbound.host] = content_hash(body)
        for scope, table in (addresses or {}).items():
            body = encode(table)
            blobs[content_hash(body)] = body
            put.setdefault(scope, {})[ADDRESSES] = content_hash(body)
        self.send(messages.snapshot_map(revision, host, full=True, put=put, remove={}))
        frame = self.expect("need", "ack", "refuse")
        if frame.type == "need":
            for wanted in frame.header["hashes"]:
                self.send(messages.blob(wanted, blobs[wanted]))
            frame = self.expect("ack", "refuse")
        return frame

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()
        self._server.close()


@contextlib.contextmanager
def rig(folder: Path, index: int = 0) -> Iterator[Rig]:
    one = Rig(folder, index)
    try:
        yield one
    finally:
        one.stop()


def wait_for(condition: object, seconds: float = 20.0) -> None:
    """Poll a callable until it is true."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
