"""An application that speaks HTTP/2 as it should not: its request fails, nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from h2peer import Server
from hosts import Hosts, get
from limits import hits
from rig import wait_for

from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_wire import frame, literal

SETTINGS = frame(wire.SETTINGS, 0, 0) + frame(wire.SETTINGS, wire.ACK, 0)
OK = wire.STATUS_200


def head(block: bytes, flags: int = wire.END_HEADERS) -> bytes:
    return frame(wire.HEADERS, flags, 1, block)


def many(data: bytes, times: int = 3000) -> bytes:
    return data * times


CONNECTION: dict[str, tuple[str, bytes]] = {
    "no HTTP/2": ("h2_frame_too_large", b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(40)),
    "pings": ("h2_ping_flood", many(frame(wire.PING, 0, 0, bytes(8)))),
    "settings": ("h2_settings_flood", many(frame(wire.SETTINGS, 0, 0))),
    "windows": ("h2_idle_frames", many(frame(wire.WINDOW_UPDATE, 0, 0, b"\0\0\0\1"))),
    "unknown frames": ("h2_idle_frames", many(frame(wire.UNKNOWN, 0, 0))),
    "empty DATA": ("h2_idle_frames", head(OK) + many(frame(wire.DATA, 0, 1))),
    "resets": ("h2_rapid_reset", many(wire.reset(1))),
    "a large frame": ("h2_frame_too_large", head(OK) + frame(wire.DATA, 0, 1, bytes(17000))),
    "continuation": (
        "h2_continuation_flood",
        head(OK, 0) + many(frame(wire.CONTINUATION, 0, 1), 20),
    ),
    "a promise": (
        "h2_protocol_error",
        frame(wire.PUSH_PROMISE, wire.END_HEADERS, 1, b"\0\0\0\2" + wire.GET),
    ),
    "a header bomb": (
        "h2_header_bomb",
        head(OK + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 200),
    ),
    "an answer to nobody": ("h2_protocol_error", frame(wire.HEADERS, wire.WHOLE, 99, OK)),
}
"""What ends the application's connection."""

STREAM: dict[str, tuple[str, bytes]] = {
    "a line end in a value": ("h2_invalid_message", head(OK + literal(b"a", b"x\r\ny: z"))),
    "no status": ("h2_invalid_message", head(literal(b"a", b"b"))),
    "a status that is none": ("h2_invalid_message", head(literal(b":status", b"2000"))),
    "a connection field": ("h2_invalid_message", head(OK + literal(b"connection", b"close"))),
    "a transfer coding": (
        "h2_invalid_message",
        head(OK + literal(b"transfer-encoding", b"chunked")),
    ),
    "a length and no body": (
        "h2_invalid_message",
        head(OK + literal(b"content-length", b"5"), wire.WHOLE),
    ),
    "too many fields": (
        "upstream_too_many_headers",
        head(OK + literal(b"x", b"y") * 150, wire.WHOLE),
    ),
}
"""What ends one answer."""


def raw(attack: bytes) -> Callable[[socket.socket], None]:
    """An application that reads one request and says this."""

    def serve(conn: socket.socket) -> None:
        seen = b""
        while b"\1" not in seen[24:]:  # the head has come when anything but zeros is there
            seen += conn.recv(65536)
        conn.sendall(SETTINGS + attack)
        conn.settimeout(0.5)
        while conn.recv(65536):
            pass

    return serve


def attacked(hosts: Hosts, attack: bytes) -> bytes:
    """The status line that a caller gets."""
    hosts.use(raw(attack))
    hosts.speak("HTTP2")
    return hosts.request(get("/"))[0].partition(b"\r\n")[0]


def still_works(hosts: Hosts) -> None:
    """Once the hostile connection has ended, where it did not at once."""
    hosts.use(lambda conn: Server(conn)())
    wait_for(lambda: hosts.request(get("/after"))[0].startswith(b"HTTP/1.1 200 "))
    for side in (hosts.near, hosts.far):
        assert side.process.poll() is None


@pytest.mark.parametrize("name", CONNECTION)
def test_a_hostile_application_ends_its_own_connection(hosts: Hosts, name: str) -> None:
    limit, attack = CONNECTION[name]
    status = attacked(hosts, attack)
    assert status[9:12] in (b"502", b"503") or name in ("empty DATA", "a large frame"), status
    wait_for(lambda: hits(hosts, "far").get(limit, 0) > 0)
    still_works(hosts)


@pytest.mark.parametrize("name", STREAM)
def test_an_answer_that_is_none(hosts: Hosts, name: str) -> None:
    limit, attack = STREAM[name]
    status = attacked(hosts, attack)
    assert status[9:12] in (b"502", b"503"), status
    wait_for(lambda: hits(hosts, "far").get(limit, 0) > 0)
    still_works(hosts)


def test_endless_interim_answers(hosts: Hosts) -> None:
    attack = b"".join([head(literal(b":status", b"103"))] * 50)
    assert attacked(hosts, attack)[9:12] == b"103"
    wait_for(lambda: sum(n for k, n in hits(hosts, "far").items() if "interim" in k) > 0)
    still_works(hosts)
