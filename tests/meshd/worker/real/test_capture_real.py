"""Captured connections, with a real redirect of the kernel's in a network namespace of the test.

The namespace is the test thread's own (unshare(2)), and whatever it starts is in it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosts import HOST, Hosts, get, read_answer
from hosts import echo as http_echo
from hosts import hosts as hosts_fixture
from rig import listen, wait_for
from tcp import TCP, echo, tcp_hosts

from meshkit.snapshot.types import AddressTable, ListenerSpec

CLONE_NEWNET = 0x40000000
OWNER = "default/caller/main"
TABLE = AddressTable(
    {"10.99.0.7:5432": (HOST, 80), "[fd99::7]:5432": (HOST, 80), "*:7777": (HOST, 80)},
    (("10.99.4.0/24", 5432, HOST, 80),),
)
RULES = """
table inet capture {
  chain output {
    type nat hook output priority -100;
    ip daddr 10.99.0.0/16 tcp dport 1-65535 redirect to :%d
    ip6 daddr fd99::/64 tcp dport 1-65535 redirect to :%d
  }
}
"""

_libc = ctypes.CDLL(None, use_errno=True)


def _enter(call: str, *args: int) -> None:
    if getattr(_libc, call)(*args):
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}: these tests need root")


def _run(*command: str, text: str | None = None) -> None:
    subprocess.run(command, check=True, input=text, text=True)


@pytest.fixture
def namespace() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter("unshare", CLONE_NEWNET)
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "address", "add", "10.98.0.1/32", "dev", "lo")  # else the source is 0.0.0.0
        _run("ip", "route", "add", "10.99.0.0/16", "dev", "lo", "src", "10.98.0.1")
        _run("ip", "-6", "route", "add", "fd99::/64", "dev", "lo")
        yield
    finally:
        _enter("setns", home, CLONE_NEWNET)
        os.close(home)


class Capture:
    """The two hosts, where the near one captures what goes to 10.99/16 and fd99::/64."""

    def __init__(self, tcp: TCP) -> None:
        self.tcp = tcp
        self.specs = [self._listener(a, f"capture-{a}") for a in ("127.0.0.1", "::1")]
        self.apply()
        _run("nft", "-f", "-", text=RULES % (self.specs[0].port, self.specs[1].port))

    def _listener(self, address: str, ident: str) -> ListenerSpec:
        sock = (
            listen(address)
            if ":" not in address
            else socket.create_server((address, 0), family=socket.AF_INET6)
        )
        self.tcp.sockets.append(sock)
        port = sock.getsockname()[1]
        spec = ListenerSpec(ident, "capture", address, port, owner=OWNER)
        self.tcp.hosts.near.listener(spec, sock)
        config = self.tcp.hosts.configs["near"]
        listeners = (*config.listeners, spec)
        self.tcp.hosts.configs["near"] = replace(config, listeners=listeners)
        return spec

    def apply(self, *hosts: Any) -> None:
        both = self.tcp.hosts
        both.revision += 1
        scopes = {"default": hosts or (self.tcp.outbound(),)}
        frame = both.near.configure(
            both.configs["near"], scopes, str(both.revision), {"default": TABLE}
        )
        assert frame.type == "ack", frame

    def dial(self, address: str, port: int = 5432) -> socket.socket:
        return socket.create_connection((address, port), timeout=10)

    def refused(self, reason: str) -> int:
        return self.tcp.count("meshd_refusals_total", reason=reason)


@pytest.fixture
def capture(namespace: None, tmp_path: Path) -> Iterator[Capture]:
    # Not as a fixture's argument: the sockets must be made in the namespace.
    making = hosts_fixture.__wrapped__(tmp_path)  # type: ignore[attr-defined]
    hosts: Hosts = next(making)
    try:
        with tcp_hosts(hosts) as tcp:
            yield Capture(tcp)
    finally:
        next(making, None)


@pytest.mark.parametrize("address", ["10.99.0.7", "fd99::7", "10.99.4.200"])
def test_a_captured_connection_goes_where_it_meant_to(capture: Capture, address: str) -> None:
    capture.tcp.hosts.use(lambda conn: (conn.sendall(b"220 ready "), echo(conn)))
    with capture.dial(address) as conn:
        assert conn.recv(10) == b"220 ready ", capture.tcp.hosts.near.stderr.read_text()
        conn.sendall(b"hello")
        conn.shutdown(socket.SHUT_WR)
        assert conn.recv(100) == b"hello"
        assert conn.recv(1) == b""
    wait_for(lambda: capture.tcp.closed("-") == 1)
    where = f"[{address}]:5432" if ":" in address else f"{address}:5432"
    assert capture.tcp.line()["downstream_local_address"] == where


def test_a_port_that_is_matched_by_its_number(capture: Capture) -> None:
    capture.tcp.hosts.use(echo)
    with capture.dial("10.99.200.1", 7777) as conn:
        conn.sendall(b"x")
        assert conn.recv(1) == b"x"


def test_captured_http(capture: Capture) -> None:
    capture.tcp.far("HTTP")
    capture.tcp.hosts.use(http_echo)
    capture.apply(capture.tcp.hosts.outbound())
    with capture.dial("10.99.0.7") as conn:
        conn.sendall(get(host="db.example"))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")


def test_captured_auto(capture: Capture) -> None:
    tcp = capture.tcp
    tcp.far("AUTO")
    http = tcp.hosts.outbound()
    capture.apply(replace(tcp.outbound(), ports=http.ports))
    tcp.hosts.use(http_echo)
    with capture.dial("10.99.0.7") as conn:
        conn.sendall(get(host="db.example"))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    tcp.hosts.use(echo)
    with capture.dial("10.99.0.7") as conn:
        conn.sendall(b"\0x")
        assert conn.recv(2) == b"\0x"


@pytest.mark.parametrize(("address", "port"), [("10.99.0.8", 5432), ("fd99::7", 5433)])
def test_an_unknown_destination_is_closed(capture: Capture, address: str, port: int) -> None:
    with pytest.raises(ConnectionResetError), capture.dial(address, port) as conn:
        conn.recv(1)
    assert capture.refused("unknown_destination") == 1
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    assert f"{OWNER} to {where}" in capture.tcp.hosts.near.stderr.read_text()


def test_somebody_elses_connection_is_reset(capture: Capture) -> None:
    config = capture.tcp.hosts.configs["near"]
    others = tuple(replace(w, uid=54321) for w in config.workloads)
    capture.tcp.hosts.configs["near"] = replace(config, workloads=others)
    capture.apply()
    with pytest.raises(ConnectionResetError), capture.dial("10.99.0.7") as conn:
        conn.recv(1)
    assert capture.refused("caller_unknown") == 1
    assert f"uid {os.getuid()} does not own" in capture.tcp.hosts.near.stderr.read_text()


def test_a_connection_to_ourselves_is_refused(capture: Capture) -> None:
    """Not redirected: whoever connects to the capture port itself."""
    for spec in capture.specs:
        with pytest.raises(ConnectionResetError), capture.dial(spec.address, spec.port) as conn:
            conn.recv(1)
    assert capture.refused("loop") == 2
