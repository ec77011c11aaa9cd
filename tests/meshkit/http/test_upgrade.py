"""Which requests may ask for a tunnel, and which answer opens one."""

from __future__ import annotations

import pytest

from meshkit.http.h1 import HTTPError, RequestHead, RequestReader, ResponseHead, ResponseReader
from meshkit.http.h1_request import protocols
from meshkit.http.h2_head import H2RequestHead
from meshkit.http.limits import MESHD
from meshkit.http.upgrade import (
    accept_of,
    check_request,
    check_switch,
    new_key,
    offer_lines,
    only,
    values,
    with_accept,
    with_key,
    without_key,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455 section 1.3."""

ASK = (
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Key: {KEY.decode()}\r\nSec-WebSocket-Version: 13\r\n"
)
SWITCH = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT.decode()}\r\n"
)


def request(text: str = ASK, tail: bytes = b"") -> RequestHead:
    reader = RequestReader(MESHD)
    reader.feed(text.encode() + b"\r\n" + tail)
    head = reader.head()
    assert head is not None
    assert reader.rest() == tail and reader.buffered == 0
    return head


def response(text: str = SWITCH, tail: bytes = b"") -> ResponseHead:
    for cut in (1, len(text) + 2):
        reader = ResponseReader(MESHD)
        reader.upgrading = True
        data = text.encode() + b"\r\n" + tail
        head = None
        while head is None:
            reader.feed(data[:cut])
            data = data[cut:]
            head = reader.head(b"GET")
        assert reader.rest() + data == tail
    return head


def test_the_handshake_of_the_rfc() -> None:
    assert check_request(request(tail=b"early")) == KEY
    assert accept_of(KEY) == ACCEPT
    head = response(tail=b"\x81\x05hello")
    assert (head.status, head.upgrade) == (101, b"websocket")
    check_switch(b"websocket", KEY, head)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (KEY.decode(), "", "bad_websocket_key"),
        (KEY.decode(), "dGhlIHNhbXBsZSBub25jZQ", "bad_websocket_key"),
        (KEY.decode(), "dGhlIHNhbXBsZSBub25jZR==", "bad_websocket_key"),
        (KEY.decode(), "dGhlIHNhbXBsZSBub25jZQ==a", "bad_websocket_key"),
        (f"Sec-WebSocket-Key: {KEY.decode()}\r\n", "", "bad_websocket_key"),
        (
            "Sec-WebSocket-Key",
            f"Sec-WebSocket-Key: {KEY.decode()}\r\nSec-WebSocket-Key",
            "bad_websocket_key",
        ),
        ("Connection: Upgrade", "Connection: Upgrade, Sec-WebSocket-Key", "bad_websocket_key"),
        (": 13", ": 8", "bad_websocket_version"),
        ("Sec-WebSocket-Version: 13\r\n", "", "bad_websocket_version"),
        ("GET", "POST", "bad_websocket"),
        ("Host: a\r\n", "Host: a\r\nContent-Length: 3\r\n", "upgrade_with_body"),
        ("Host: a\r\n", "Host: a\r\nTransfer-Encoding: chunked\r\n", "upgrade_with_body"),
        ("Upgrade: websocket", "Upgrade: foo\r\nContent-Length: 3", "upgrade_with_body"),
    ],
)
def test_a_handshake_that_is_none_is_refused(old: str, new: str, code: str) -> None:
    with pytest.raises(HTTPError) as caught:
        check_request(request(ASK.replace(old, new, 1)))
    assert (caught.value.status, caught.value.code) == (400, code)


def test_other_protocols_need_no_key() -> None:
    head = request("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: Foo/2, h2c\r\n")
    assert head.upgrade == b"foo/2" and check_request(head) == b""


def test_http10_asks_for_no_upgrade() -> None:
    assert request(ASK.replace("HTTP/1.1", "HTTP/1.0")).upgrade == b""


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (ACCEPT.decode(), ACCEPT.decode().lower(), "bad_websocket_accept"),
        (f"Sec-WebSocket-Accept: {ACCEPT.decode()}\r\n", "", "bad_websocket_accept"),
        (
            "Sec-WebSocket-Accept",
            f"Sec-WebSocket-Accept: {ACCEPT.decode()}\r\nSec-WebSocket-Accept",
            "bad_websocket_accept",
        ),
        ("Upgrade: WebSocket\r\n", "", "bad_upgrade"),
        ("Upgrade: WebSocket", "Upgrade: h2c", "bad_upgrade"),
        ("Upgrade: WebSocket", "Upgrade: websocket, foo", "bad_upgrade"),
        ("Connection: Upgrade\r\n", "", "bad_upgrade"),
    ],
)
def test_a_101_that_opens_no_tunnel(old: str, new: str, code: str) -> None:
    with pytest.raises(HTTPError) as caught:
        check_switch(b"websocket", KEY, response(SWITCH.replace(old, new, 1)))
    assert (caught.value.status, caught.value.code) == (502, code)


def test_a_101_without_being_asked_and_one_with_a_body() -> None:
    for upgrading, extra in ((False, ""), (True, "Content-Length: 2\r\n")):
        reader = ResponseReader(MESHD)
        reader.upgrading = upgrading
        reader.feed((SWITCH + extra + "\r\n").encode())
        with pytest.raises(HTTPError):
            reader.head(b"GET")


def test_an_ordinary_answer_to_a_request_for_an_upgrade() -> None:
    head = response("HTTP/1.1 403 No\r\nContent-Length: 0\r\nUpgrade: a\r\nConnection: upgrade\r\n")
    assert (head.status, head.upgrade) == (403, b"")


def test_the_other_version_has_no_key() -> None:
    assert new_key(b"the sample nonce") == KEY
    head = request()
    plain = without_key(head.headers)
    assert values(plain, b"sec-websocket-version") == [b"13"]
    assert not values(plain, b"sec-websocket-key")
    assert values(with_key(plain, KEY), b"sec-websocket-key") == [KEY]
    assert values(with_accept(plain, KEY), b"sec-websocket-accept") == [ACCEPT]
    assert with_accept(plain, b"") is plain
    assert offer_lines(b"foo") == b"connection: upgrade\r\nupgrade: foo\r\n"


def test_an_extended_connect_needs_the_version_only() -> None:
    head = H2RequestHead(b"GET", b"/", False, [(b"sec-websocket-version", b"13")])
    head.upgrade = b"websocket"
    assert check_request(head) == b""
    head.headers = []
    with pytest.raises(HTTPError):
        check_request(head)


def test_no_upgrade_is_to_http_again() -> None:
    assert protocols(b"WebSocket, h2c,h2, HTTP/2.0 ,TLS/1.0, tls, Foo/2, http/1.1") == [
        b"websocket",
        b"foo/2",
    ]
    for odd in (b"foo h2c", b"foo;h2c", b"h2c/x", b"/", b"foo/", b"/foo", b"a/b/c", b",", b"a\tb"):
        assert protocols(odd) == [], odd


def test_one_protocol_of_several() -> None:
    assert only(b"foo, websocket") == b"websocket"
    assert only(b"foo/2, bar") == b"foo/2"
