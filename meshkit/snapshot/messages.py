"""What agent and worker say to each other over their Unix socket.

A frame is: header length (u32), body length (u32), both big-endian, then a JSON
object with a ``type``, then the body (only blobs have one).  Descriptors travel
beside the stream (SCM_RIGHTS with the frame's first byte); the header's ``fds``
says how many belong to the frame, so that a receiver takes that many off its
queue, in order.

Nothing here touches a socket.  A frame with an unknown type is handed on as it
is (a newer peer may say more); a known one with a field missing or of another
type is a `FrameError`, after which the connection cannot be trusted.

======== ========= ==========================================================
from     type      meaning
======== ========= ==========================================================
worker   hello     who I am, what I hold, + my listeners' descriptors
worker   need      blobs that I lack for this map
worker   ack       this revision is live
worker   refuse    it is not, for this reason; the last one stays live
worker   pong      answer to ping, with load
worker   drained   no connection is left
worker   log       an event for the agent's log
agent    listener  a descriptor to accept on
agent    close     stop accepting on it
agent    map       a revision: which host has which blob
agent    blob      one blob's bytes
agent    keys      certificate chain and key of one identity, as memfds
agent    roots     trust domain → PEM of its roots
agent    accesslog a descriptor to write the access log to
agent    ping      are you well?
agent    drain     finish within this many seconds
agent    stop      exit now
======== ========= ==========================================================
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROTOCOL = 1
MAX_HEADER = 4 * 1024 * 1024
"""A map of 10,000 hosts in four scopes fits; anything larger is a broken peer."""
MAX_BODY = 16 * 1024 * 1024
"""The largest blob: a host with 100,000 endpoints fits."""

_LENGTHS = struct.Struct("!II")


FIELDS: Mapping[str, Mapping[str, type]] = {
    "hello": {
        "protocol": int,
        "index": int,
        "pid": int,
        "version": str,
        "revision": str,
        "listeners": list,
        "blobs": list,
    },
    "need": {"revision": str, "hashes": list},
    "ack": {"revision": str},
    "refuse": {"revision": str, "reason": str},
    "pong": {"id": int, "revision": str, "connections": int, "fibers": int},
    "drained": {},
    "log": {"level": str, "event": str},
    "listener": {"id": str, "lent": bool},
    "close": {"id": str, "lent": bool},
    "map": {"revision": str, "host": str, "full": bool, "set": dict, "del": dict},
    "blob": {"hash": str},
    "keys": {"name": str},
    "roots": {"domains": dict},
    "accesslog": {},
    "ping": {"id": int},
    "drain": {"seconds": float},
    "stop": {},
}
"""The fields that each type must have; more are allowed."""


class FrameError(ValueError):
    """Bytes that are not this protocol: close the connection."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.  ``header`` has at least ``type`` and that type's `FIELDS`."""

    header: Mapping[str, Any]
    body: bytes = b""

    @property
    def type(self) -> str:
        kind: str = self.header["type"]
        return kind

    @property
    def fds(self) -> int:
        """How many descriptors came with the frame."""
        count: int = self.header.get("fds", 0)
        return count


def encode_frame(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """The bytes of one frame; raises FrameError over the limits."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    _check_lengths(len(text), len(body))
    return _LENGTHS.pack(len(text), len(body)) + text + body


class FrameReader:
    """Turns a stream of bytes into frames, however it was cut."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes, in order; raises FrameError."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < _LENGTHS.size:
            return None
        header_length, body_length = _LENGTHS.unpack_from(buffer)
        _check_lengths(header_length, body_length)
        start = _LENGTHS.size + header_length
        end = start + body_length
        if len(buffer) < end:
            return None
        frame = Frame(_header(bytes(buffer[_LENGTHS.size : start])), bytes(buffer[start:end]))
        del buffer[:end]
        return frame


def _check_lengths(header: int, body: int) -> None:
    if header > MAX_HEADER:
        raise FrameError(f"header of {header} bytes, the limit is {MAX_HEADER}")
    if body > MAX_BODY:
        raise FrameError(f"body of {body} bytes, the limit is {MAX_BODY}")


def _header(text: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"header is not JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise FrameError("header is not an object with a type")
    for name, kind in FIELDS.get(header["type"], {}).items():
        if not _is(header.get(name), kind):
            raise FrameError(f"{header['type']}: field {name} is not {kind.__name__}")
    if not _is(header.get("fds", 0), int) or header.get("fds", 0) < 0:
        raise FrameError(f"{header['type']}: fds is not a count")
    return header


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


# -- worker → agent -----------------------------------------------------------


def hello(
    *,
    index: int,
    pid: int,
    version: str,
    revision: str,
    listeners: Sequence[str],
    blobs: Sequence[str],
) -> bytes:
    """First frame of a worker; send it with its listeners' descriptors, same order."""
    return encode_frame(
        {
            "type": "hello",
            "protocol": PROTOCOL,
            "index": index,
            "pid": pid,
            "version": version,
            "revision": revision,
            "listeners": list(listeners),
            "blobs": list(blobs),
            "fds": len(listeners),
        }
    )


def need(revision: str, hashes: Sequence[str]) -> bytes:
    """Blobs that the map of ``revision`` names and the worker does not hold."""
    return encode_frame({"type": "need", "revision": revision, "hashes": list(hashes)})


def ack(revision: str) -> bytes:
    """``revision`` is live in this worker."""
    return encode_frame({"type": "ack", "revision": revision})


def refuse(revision: str, reason: str) -> bytes:
    """``revision`` cannot be run; what was live stays live."""
    return encode_frame({"type": "refuse", "revision": revision, "reason": reason})


def pong(ident: int, *, revision: str, connections: int, fibers: int) -> bytes:
    """Answer to `ping` ``ident``."""
    return encode_frame(
        {
            "type": "pong",
            "id": ident,
            "revision": revision,
            "connections": connections,
            "fibers": fibers,
        }
    )


def drained() -> bytes:
    """No connection is left after `drain`."""
    return encode_frame({"type": "drained"})


def log(level: str, event: str, **details: Any) -> bytes:
    """An event for the agent's log; ``details`` are JSON values."""
    return encode_frame({**details, "type": "log", "level": level, "event": event})


# -- agent → worker -----------------------------------------------------------


def listener(ident: str, *, lent: bool = False, owner: int = 0) -> bytes:
    """One socket to accept on (send it along); ``lent``: the missing worker ``owner``'s."""
    header = {"type": "listener", "id": ident, "lent": lent, "owner": owner, "fds": 1}
    return encode_frame(header)


def close(ident: str, *, lent: bool = False) -> bytes:
    """Stop accepting on listener ``ident``, or, if ``lent``, on all that was lent under it."""
    return encode_frame({"type": "close", "id": ident, "lent": lent})


def snapshot_map(
    revision: str,
    host: str,
    *,
    full: bool,
    put: Mapping[str, Mapping[str, str]],
    remove: Mapping[str, Sequence[str]],
) -> bytes:
    """A revision: scope → host → hash to set, scope → hosts to drop.

    ``full``: forget what was before.  ``host`` is the hash of the HostConfig.
    `meshkit.snapshot.diff` computes and applies these.
    """
    return encode_frame(
        {
            "type": "map",
            "revision": revision,
            "host": host,
            "full": full,
            "set": {scope: dict(hosts) for scope, hosts in put.items()},
            "del": {scope: list(hosts) for scope, hosts in remove.items()},
        }
    )


def blob(ident: str, body: bytes) -> bytes:
    """The bytes that hash to ``ident``."""
    return encode_frame({"type": "blob", "hash": ident}, body)


def keys(name: str) -> bytes:
    """One identity; send two memfds along: certificate chain PEM, key PEM."""
    return encode_frame({"type": "keys", "name": name, "fds": 2})


def roots(domains: Mapping[str, str]) -> bytes:
    """Trust domain → PEM of all its roots; replaces what was before."""
    return encode_frame({"type": "roots", "domains": dict(domains)})


def access_log(*, open_: bool = True) -> bytes:
    """Write the access log to the descriptor that comes along; none = off."""
    return encode_frame({"type": "accesslog", "fds": int(open_)})


def ping(ident: int) -> bytes:
    """Answer with `pong`."""
    return encode_frame({"type": "ping", "id": ident})


def drain(seconds: float) -> bytes:
    """Accept no more, finish what runs within ``seconds``, then say `drained`."""
    return encode_frame({"type": "drain", "seconds": seconds})


def stop() -> bytes:
    """Exit now."""
    return encode_frame({"type": "stop"})
