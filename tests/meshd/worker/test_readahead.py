"""Read-ahead: on for what `_ssl` made, and for nothing else."""

from __future__ import annotations

import socket
import ssl

import pytest

from meshd.worker import readahead


def test_it_is_possible_with_this_python() -> None:
    """The pump's speed rests on it; a Python that keeps its pointer elsewhere shows here."""
    near, far = socket.socketpair()
    with near, far:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        tls = context.wrap_socket(near, do_handshake_on_connect=False)
        with tls:
            assert readahead.enable(tls._sslobj)  # type: ignore[attr-defined]


def test_a_bio_has_it_too() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    made = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert readahead.enable(made._sslobj)


class Impostor:
    context = None


@pytest.mark.parametrize("thing", [None, object(), Impostor(), b"bytes"])
def test_what_is_no_ssl_object_is_left_alone(thing: object) -> None:
    assert not readahead.enable(thing)


def test_without_the_library_everything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    made = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    monkeypatch.setattr(readahead, "_libssl", None)
    assert not readahead.enable(made._sslobj)
