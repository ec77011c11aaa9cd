"""Workers and agents come and go: kill −9, adoption, lent sockets, drain."""

from __future__ import annotations

import signal
import socket
import threading
import time

import pytest
from hosts import Hosts, get, read_answer
from rig import Rig, listen, wait_for

from meshkit.snapshot import messages


def test_an_agent_that_comes_back_adopts_the_same_worker(hosts: Hosts) -> None:
    rig = hosts.near
    pid = rig.hello.header["pid"]
    rig.channel.close()
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200"), "traffic goes on without an agent"
    rig.meet()
    assert rig.hello.header["pid"] == pid
    assert rig.hello.header["revision"] == str(hosts.revision)
    assert rig.hello.header["listeners"] == ["proxy"] and rig.adopted
    taken = socket.socket(fileno=rig.adopted[-1])
    assert taken.getsockname()[1] == hosts.proxy
    rig.send(messages.ping(7))
    assert rig.expect("pong").header["id"] == 7
    taken.close()


def test_a_killed_worker_loses_no_queued_connection(hosts: Hosts) -> None:
    """The agent's copy of the socket keeps the queue; the next worker serves it."""
    rig = hosts.far
    started = time.monotonic()
    rig.process.kill()
    rig.process.wait()
    rig.channel.close()
    answers: list[bytes] = []
    callers = [
        threading.Thread(target=lambda: answers.append(hosts.request(get())[0])) for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    rig.start()
    rig.trust(hosts.authority)
    from rig import identity

    rig.keys(identity("app"), hosts.authority.issue(identity("app")))
    for fd, spec in zip(hosts.far_fds, hosts.configs["far"].listeners, strict=True):
        rig.send(messages.listener(spec.id), fd)
    assert rig.configure(hosts.configs["far"]).type == "ack"
    for caller in callers:
        caller.join(10)
    print(f"replaced after {time.monotonic() - started:.2f} s")
    assert time.monotonic() - started < 10
    assert [a[:12] for a in answers] == [b"HTTP/1.1 200"] * 8


def test_a_lent_socket_is_served_until_it_is_taken_back(hosts: Hosts, tmp_path: object) -> None:
    lent = listen()
    rig = hosts.near
    rig.send(messages.listener("proxy", lent=True), lent.fileno())
    with socket.create_connection(lent.getsockname(), timeout=5) as conn:
        conn.sendall(get())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    rig.send(messages.close("proxy", lent=True))
    rig.send(messages.ping(1))
    rig.expect("pong")
    with socket.create_connection(lent.getsockname(), timeout=5) as conn:
        conn.sendall(get())
        conn.settimeout(0.3)
        try:
            assert conn.recv(1) == b""
        except TimeoutError:
            pass
    lent.close()


def test_sockets_of_several_missing_workers_are_lent_under_one_id(hosts: Hosts) -> None:
    lent = [listen(), listen()]
    rig = hosts.near
    for owner, sock in enumerate(lent, start=1):
        rig.send(messages.listener("proxy", lent=True, owner=owner), sock.fileno())
    for sock in lent:
        with socket.create_connection(sock.getsockname(), timeout=5) as conn:
            conn.sendall(get())
            assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    rig.send(messages.close("proxy", lent=True))
    rig.send(messages.ping(1))
    rig.expect("pong")
    for sock in lent:
        with socket.create_connection(sock.getsockname(), timeout=5) as conn:
            conn.sendall(get())
            conn.settimeout(0.2)
            with pytest.raises(TimeoutError):
                conn.recv(1)
        sock.close()
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200"), "its own socket stays"


def test_sigterm_drains_and_ends(hosts: Hosts) -> None:
    asked, draining = threading.Event(), threading.Event()

    def slow(conn: socket.socket) -> None:
        conn.recv(65536)
        asked.set()
        draining.wait(10)
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    hosts.use(slow)
    idle = hosts.connect()
    with hosts.connect() as conn:
        conn.sendall(get())
        assert asked.wait(10)
        hosts.near.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b"", "an idle connection is closed at once"
        draining.set()
        head, body = read_answer(conn)
        assert head.startswith(b"HTTP/1.1 200") and b"connection: close" in head and body == b"ok"
    assert hosts.near.process.wait(5) == 0


def test_a_refused_snapshot_leaves_the_last_one(hosts: Hosts) -> None:
    rig: Rig = hosts.near
    rig.send(messages.snapshot_map("bad", "0" * 32, full=True, put={}, remove={}))
    assert rig.expect("need").header["hashes"] == ["0" * 32]
    rig.send(messages.blob("0" * 32, b'{"host":1}'))
    assert rig.expect("refuse").header["revision"] == "bad"
    assert hosts.request(get())[0].startswith(b"HTTP/1.1 200")
    wait_for(lambda: rig.process.poll() is None)
