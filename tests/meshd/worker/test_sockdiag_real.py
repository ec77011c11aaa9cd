"""Whose socket is it: the kernel's answers for real connections of real users."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from meshd.worker.sockdiag import SockDiag, peer_uid

NOBODY = 65534


@contextlib.contextmanager
def _as_user(uid: int, family: socket.AddressFamily, address: tuple[str, int]) -> Iterator[None]:
    """A child under `uid` that holds a connection open meanwhile."""
    ready, told = os.pipe()
    stay, leave = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(leave)
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.connect(address)
                os.write(told, b"1")
                os.read(stay, 1)
        finally:
            os._exit(0)
    os.close(told)
    os.close(stay)
    try:
        assert os.read(ready, 1) == b"1"
        yield
    finally:
        os.close(leave)
        os.close(ready)
        os.waitpid(child, 0)


def _listen(host: str) -> socket.socket:
    if ":" in host:
        return socket.create_server((host, 0), family=socket.AF_INET6, dualstack_ipv6=host == "::")
    return socket.create_server((host, 0))


@pytest.mark.parametrize("uid", [NOBODY, 4242])
@pytest.mark.parametrize(
    ("listen", "family", "target"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("::", socket.AF_INET, "127.0.0.1"),  # our side is IPv6, the peer's is not
        ("127.0.0.1", socket.AF_INET6, "::ffff:127.0.0.1"),  # and the reverse
        ("::", socket.AF_INET6, "::ffff:127.0.0.1"),
    ],
)
def test_the_uid_of_the_connecting_process(listen, family, target, uid):
    with _listen(listen) as listener, _as_user(uid, family, (target, listener.getsockname()[1])):
        accepted, peer = listener.accept()
        with accepted:
            assert peer_uid(accepted.getsockname(), peer) == uid


def test_ones_own_uid_and_not_the_listeners():
    with _listen("127.0.0.1") as listener, socket.create_connection(listener.getsockname()):
        accepted, peer = listener.accept()
        with accepted:
            assert peer_uid(accepted.getsockname(), peer) == os.getuid()
            with _as_user(NOBODY, socket.AF_INET, listener.getsockname()):
                second, other = listener.accept()
                with second:
                    assert peer_uid(second.getsockname(), other) == NOBODY


def test_a_peer_that_has_closed_is_unknown_not_root():
    """The kernel says uid 0 for such a socket, whoever had it."""
    with _listen("127.0.0.1") as listener:
        with _as_user(NOBODY, socket.AF_INET, listener.getsockname()):
            accepted, peer = listener.accept()
        with accepted:
            assert peer_uid(accepted.getsockname(), peer) is None


def test_a_half_closed_peer_is_still_known():
    with (
        _listen("127.0.0.1") as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        accepted, peer = listener.accept()
        with accepted:
            client.shutdown(socket.SHUT_WR)
            assert peer_uid(accepted.getsockname(), peer) == os.getuid()


def test_a_listener_on_the_asked_port_does_not_answer_for_a_connection():
    with _listen("127.0.0.1") as listener:
        peer = listener.getsockname()
        assert peer_uid(("127.0.0.1", 9), peer) is None


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7", "::ffff:203.0.113.7"])
def test_a_peer_elsewhere_is_unknown(address):
    assert peer_uid((address, 80), (address, 40_000)) is None


def test_an_answer_to_a_question_given_up_is_passed_over():
    diag = SockDiag()
    with _listen("127.0.0.1") as listener, socket.create_connection(listener.getsockname()):
        accepted, peer = listener.accept()
        with accepted:
            local = accepted.getsockname()
            keep = diag._answer
            diag._answer = lambda _sequence: (2, b"\xfe\xff\xff\xff")  # type: ignore[method-assign]
            assert diag.peer_uid(local, peer) is None
            diag._answer = keep  # type: ignore[method-assign]
            assert diag.peer_uid(local, peer) == os.getuid()
    diag.close()


def test_an_unprivileged_process_may_ask():
    with _listen("127.0.0.1") as listener, socket.create_connection(listener.getsockname()):
        accepted, peer = listener.accept()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                code = 0 if peer_uid(accepted.getsockname(), peer) == 0 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, sys.platform
        accepted.close()
