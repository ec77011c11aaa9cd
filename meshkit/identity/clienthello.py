"""The first message of a TLS client, read before TLS begins (RFC 8446, 4.1.2 and 5.1).

Which server is meant decides whether a client certificate is asked for, and OpenSSL's own SNI
callback cannot change that any more. So the ClientHello is read ahead (MSG_PEEK) and this parser
finds the name in it. It judges no more than it must to find name, protocols and versions without
doubt; whether the rest is sound is OpenSSL's to say, which reads the same bytes again. What could
make the two read different names is refused: doubled extensions, several names, lengths that do
not add up.

The message may come split over many records, and the bytes in any pieces. Memory and work are
bounded by MAX_HELLO bytes, record headers included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct

MAX_HELLO = 16_384  # real ones are under 2 KiB, with post-quantum key shares

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MAX_RECORD = 16_384  # RFC 8446, 5.1: of plaintext
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
_HOST_NAME = 0
_EXTENSION = Struct("!HH")  # type and length
_NOT_A_NAME = re.compile(rb"[^\x21-\x7e]")


class ClientHelloError(ValueError):
    """These bytes do not begin with an acceptable ClientHello, whatever follows."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`sni` in lower case, None if there is none; `versions` as on the wire (0x0304 is TLS 1.3),
    in the client's order, without GREASE (RFC 8701)."""

    sni: str | None
    alpn: tuple[str, ...]
    versions: tuple[int, ...]


def parse_client_hello(buf: bytes) -> ClientHello | None:
    """The ClientHello at the start of `buf`; None: more bytes are needed.

    What follows the message is not looked at. Raises ClientHelloError as soon as it is certain.
    """
    message = _assemble(buf[:MAX_HELLO])
    if isinstance(message, bytes):
        return _parse_body(message)
    if len(buf) >= MAX_HELLO:
        raise ClientHelloError(f"no whole ClientHello in {MAX_HELLO} bytes")
    return None


def missing_bytes(buf: bytes) -> int:
    """How many bytes must still come, at least, after `parse_client_hello` said None.

    Who waits for them parses a message in one-byte pieces a few dozen times, not once a byte.
    """
    message = _assemble(buf[:MAX_HELLO])
    return message if isinstance(message, int) else 0


def _assemble(buf: bytes) -> bytes | int:
    """The handshake message's body out of its records; or how much of it is missing."""
    message = bytearray()
    at = 0
    while True:
        _check_record(buf[at : at + 5])
        if len(buf) < at + 5:
            return _missing(message)
        size = int.from_bytes(buf[at + 3 : at + 5], "big")
        message += buf[at + 5 : at + 5 + size]
        needed = _message_size(message)
        if needed is not None and len(message) >= needed:
            return bytes(message[4:needed])
        at += 5 + size
        if at > len(buf):
            return _missing(message)


def _missing(message: bytearray) -> int:
    return max(1, (_message_size(message) or 4) - len(message))


def _check_record(header: bytes) -> None:
    """As far as the header is there."""
    if header and header[0] != _HANDSHAKE:
        raise ClientHelloError("not a TLS handshake")
    if len(header) > 1 and header[1] != 3:
        raise ClientHelloError(f"record version {header[1]} is not of SSL 3.0 to TLS 1.3")
    if len(header) == 5 and not 0 < int.from_bytes(header[3:], "big") <= _MAX_RECORD:
        raise ClientHelloError("record is empty or longer than 16384 bytes")


def _message_size(message: bytearray) -> int | None:
    """Header and body, None while the header is not all there."""
    if message and message[0] != _CLIENT_HELLO:
        raise ClientHelloError(f"handshake begins with message {message[0]}, not a ClientHello")
    if len(message) < 4:
        return None
    size = 4 + int.from_bytes(message[1:4], "big")
    if size > MAX_HELLO:
        raise ClientHelloError(f"ClientHello of {size} bytes is longer than {MAX_HELLO}")
    return size


class _Cursor:
    """Reads vectors from front to back; a length beyond the end is an error."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise ClientHelloError(f"{self._what} is cut short")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, what: str) -> _Cursor:
        """What a length of `size` bytes announces."""
        return _Cursor(self.take(self.number(size)), what)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self:
            raise ClientHelloError(f"{self._what} has bytes after its end")


def _parse_body(body: bytes) -> ClientHello:
    hello = _Cursor(body, "ClientHello")
    legacy_version = hello.number(2)
    hello.take(32)  # random
    hello.vector(1, "session id")
    hello.vector(2, "cipher suites")
    hello.vector(1, "compression methods")
    extensions = _extensions(hello)
    versions = extensions.get(_SUPPORTED_VERSIONS)
    return ClientHello(
        sni=_server_name(extensions.get(_SERVER_NAME)),
        alpn=_protocols(extensions.get(_ALPN)),
        versions=(legacy_version,) if versions is None else _versions(versions),
    )


def _extensions(hello: _Cursor) -> dict[int, bytes]:
    """Some twenty of them, hence by offset: half the time of the whole parse."""
    if not hello:  # TLS 1.2 may leave them out
        return {}
    block = hello.vector(2, "extensions").rest()
    hello.end()
    found: dict[int, bytes] = {}
    at, size = 0, len(block)
    while at < size:
        if at + 4 > size:
            raise ClientHelloError("extensions are cut short")
        kind, length = _EXTENSION.unpack_from(block, at)
        at += 4 + length
        if at > size:
            raise ClientHelloError(f"extension {kind} is cut short")
        if kind in found:
            raise ClientHelloError(f"extension {kind} comes twice")
        found[kind] = block[at - length : at]
    return found


def _server_name(data: bytes | None) -> str | None:
    """RFC 6066, 3: a list for which only one entry of one type was ever defined."""
    if data is None:
        return None
    extension = _Cursor(data, "server_name")
    names = extension.vector(2, "server_name list")
    extension.end()
    if names.number(1) != _HOST_NAME:
        raise ClientHelloError("server_name is not a host name")
    name = names.vector(2, "host name").rest()
    names.end()
    if not 0 < len(name) <= 255 or _NOT_A_NAME.search(name):
        raise ClientHelloError("server_name is empty, too long or not printable ASCII")
    return name.decode("ascii").lower()


def _protocols(data: bytes | None) -> tuple[str, ...]:
    """RFC 7301, 3.1. Names are bytes; as Latin-1 none is lost."""
    if data is None:
        return ()
    extension = _Cursor(data, "ALPN")
    names = extension.vector(2, "ALPN list")
    extension.end()
    found = []
    while names:
        name = names.vector(1, "ALPN name").rest()
        if not name:
            raise ClientHelloError("ALPN name is empty")
        found.append(name.decode("latin-1"))
    return tuple(found)


def _versions(data: bytes) -> tuple[int, ...]:
    extension = _Cursor(data, "supported_versions")
    numbers = extension.vector(1, "supported_versions list")
    extension.end()
    found = []
    while numbers:
        found.append(numbers.number(2))
    return tuple(number for number in found if number & 0x0F0F != 0x0A0A)
