"""The first bytes of a TCP connection between two meshd: who calls, and where it meant to go.

HTTP carries the caller's facts in a header; bytes have none, so with ALPN
``baremesh-tcp/1`` the client begins with one frame and the stream follows at once:

    "BMT1"                 4 bytes
    length of the fields   2 bytes, big endian, at most 1018
    fields                 kind (1 byte), size (1 byte), value

    kind 1–4   workload, namespace, app, version of the caller; UTF-8, for telemetry only
    kind 5     original destination: port (2 bytes), then 4 or 16 bytes of address

A field may be missing; a kind that is not known here is skipped, so that later releases
can say more; the same kind twice is an error.  Nothing is ever answered to it, and the
certificate alone says who the peer is.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from meshkit.telemetry.peer import UNKNOWN, Facts

ALPN_TCP = "baremesh-tcp/1"
ALPN_TCP_RAW = "baremesh-tcp"
"""The same without a preface: for foreign peers (an Envoy), which cannot write or read one."""

MAGIC = b"BMT1"
HEADER_BYTES = 6
MAX_BYTES = 1024
"""Of the whole frame: five fields at their longest, and room for one that is not known yet."""

_VALUE_BYTES = 180
"""Longer facts are cut, at a character: a label of that length helps nobody."""
_ORIGINAL = 5


class PrefaceError(ValueError):
    """These bytes begin with no preface; ``code`` is the counter's label."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Preface(NamedTuple):
    """``original``: (address, port) that the application connected to, None if not said."""

    facts: Facts = UNKNOWN
    original: tuple[str, int] | None = None


def encode(preface: Preface) -> bytes:
    """The frame; facts that are empty or unknown are left out."""
    fields = b"".join(
        _field(kind, _cut(value))
        for kind, (value, unknown) in enumerate(zip(preface.facts, UNKNOWN, strict=True), 1)
        if value and value != unknown
    )
    if preface.original is not None:
        address, port = preface.original
        fields += _field(_ORIGINAL, port.to_bytes(2, "big") + ip_address(address).packed)
    return MAGIC + len(fields).to_bytes(2, "big") + fields


def _field(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _cut(value: str) -> bytes:
    return value.encode("utf-8", "replace")[:_VALUE_BYTES].decode("utf-8", "ignore").encode()


def frame_bytes(data: bytes) -> int | None:
    """How long the frame at the start of `data` is; None: not known yet.  PrefaceError."""
    if data[:4] != MAGIC[: len(data)]:
        raise PrefaceError("preface_invalid", "the stream does not begin with a preface")
    if len(data) < HEADER_BYTES:
        return None
    size = HEADER_BYTES + int.from_bytes(data[4:6], "big")
    if size > MAX_BYTES:
        raise PrefaceError("preface_size", f"preface of {size} bytes, at most {MAX_BYTES}")
    return size


def decode(frame: bytes) -> Preface:
    """The preface in exactly these bytes.  PrefaceError."""
    found = _fields(frame[HEADER_BYTES:])
    words = (_text(found.get(kind)) for kind in range(1, _ORIGINAL))
    original = found.get(_ORIGINAL)
    return Preface(Facts(*words), None if original is None else _address(original))


def _fields(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        kind, size = data[at], data[at + 1] if at + 1 < len(data) else -1
        value = data[at + 2 : at + 2 + size] if size >= 0 else b""
        if len(value) != size:
            raise PrefaceError("preface_invalid", f"field {kind} of the preface is cut short")
        if kind in found:
            raise PrefaceError("preface_invalid", f"field {kind} of the preface comes twice")
        found[kind] = value
        at += 2 + size
    return found


def _text(value: bytes | None) -> str:
    """A label as the peer gives it; what cannot be shown counts as not said."""
    text = (value or b"").decode("utf-8", "replace")
    return text if text and text.isprintable() and "\ufffd" not in text else "unknown"


def _address(value: bytes) -> tuple[str, int]:
    if len(value) not in (6, 18):
        raise PrefaceError("preface_invalid", "the original destination is no address and port")
    return str(ip_address(value[2:])), int.from_bytes(value[:2], "big")
