"""Upgrades, judged: what may ask for a tunnel, and which answer opens one.

A proxy that opens a tunnel where one side still speaks HTTP lets its client write
requests that nobody judges.  So a tunnel opens on exactly one sign, the upstream's own
101 (RFC 9110 section 7.8) that names one of the protocols asked for, and for websocket
proves that it understood (RFC 6455 section 4.2.2); over HTTP/2 the sign is a 2xx to an
extended CONNECT (RFC 8441 section 4).  Every other answer is an ordinary one.

An HTTP/1.1 handshake has a key and its digest; over HTTP/2 there is neither, and who
translates makes the key, checks the digest, or computes it for the other side.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1

from meshkit.http.errors import HTTPError
from meshkit.http.fields import Field
from meshkit.http.h1_request import RequestHead, tokens
from meshkit.http.h1_response import ResponseHead

SWITCHING = 101
WEBSOCKET = b"websocket"
KEY_BYTES = 16
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
"""Base64 of 16 bytes: the last digit has two bits, and there is one way to write them."""
_KEY_NAME, _VERSION_NAME = b"sec-websocket-key", b"sec-websocket-version"
_ACCEPT_NAME = b"sec-websocket-accept"


def check_request(head: RequestHead) -> bytes:
    """The websocket key of a request that asks for an upgrade; b"" = it needs none.

    Raises HTTPError 400: a body with it, a websocket handshake that is not one.
    """
    if head.http2:
        if head.upgrade == WEBSOCKET:
            _check_version(head.headers)
        return b""
    if head.body:
        raise HTTPError(400, "upgrade_with_body", "a request for an upgrade has no body")
    if WEBSOCKET not in tokens(head.upgrade):
        return b""
    if head.method != b"GET":
        raise HTTPError(400, "bad_websocket", "a websocket handshake is a GET")
    _check_version(head.headers)
    keys = values(head.headers, _KEY_NAME)
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        raise HTTPError(400, "bad_websocket_key", "Sec-WebSocket-Key is not base64 of 16 bytes")
    return keys[0]


def _check_version(headers: Sequence[Field]) -> None:
    if values(headers, _VERSION_NAME) != [b"13"]:
        raise HTTPError(400, "bad_websocket_version", "the only Sec-WebSocket-Version is 13")


def values(headers: Sequence[Field], name: bytes) -> list[bytes]:
    """All values of a name, in order."""
    return [value for known, value in headers if known == name]


def check_switch(offered: bytes, key: bytes, response: ResponseHead) -> None:
    """Whether a 101 is one to this request.  ``offered``: `RequestHead.upgrade`.

    Raises HTTPError 502.
    """
    if response.upgrade not in tokens(offered):
        raise HTTPError(502, "bad_upgrade", "101 to another protocol than was asked for")
    accepted = values(response.headers, _ACCEPT_NAME)
    if response.upgrade == WEBSOCKET and accepted != [accept_of(key)]:
        raise HTTPError(502, "bad_websocket_accept", "Sec-WebSocket-Accept is not the key's")


def accept_of(key: bytes) -> bytes:
    """Sec-WebSocket-Accept: that the server has read the handshake, and means it."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def new_key(random: bytes) -> bytes:
    """A Sec-WebSocket-Key from KEY_BYTES random bytes; it is a nonce, and no secret."""
    return b64encode(random)


def offer_lines(upgrade: bytes) -> bytes:
    """What makes a request one for an upgrade: rendered lines, ours and not the client's."""
    return b"connection: upgrade\r\nupgrade: %b\r\n" % upgrade


def only(upgrade: bytes) -> bytes:
    """The one protocol of several offered that an extended CONNECT asks for."""
    offered = tokens(upgrade)
    return WEBSOCKET if WEBSOCKET in offered else offered[0]


# Between the versions: HTTP/2 has no key and no accept (RFC 8441 section 5)


def without_key(headers: Sequence[Field]) -> list[Field]:
    """A handshake's fields for the other version, request or response."""
    return [h for h in headers if h[0] not in (_KEY_NAME, _ACCEPT_NAME)]


def with_key(headers: Sequence[Field], key: bytes) -> list[Field]:
    """The fields of an HTTP/2 handshake, for an HTTP/1.1 upstream."""
    return [*without_key(headers), (_KEY_NAME, key)]


def with_accept(headers: list[Field], key: bytes) -> list[Field]:
    """The fields of an HTTP/2 answer, for an HTTP/1.1 client with this key (b"": none)."""
    return [*without_key(headers), (_ACCEPT_NAME, accept_of(key))] if key else headers
