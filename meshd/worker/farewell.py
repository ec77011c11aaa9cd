"""close_notify without looking for the peer's: half-closing TLS while data still arrives.

SSL_shutdown sends our close_notify, but `ssl` calls it a second time, and that one reads for the
peer's; application data that arrives instead ruins the connection for reading.  A peer that is
sending at full speed always has some on its way, so reading ahead first only makes it rarer.

So for the moment of the call the descriptor is another, empty socket.  OpenSSL writes the record
into that, finds nothing to read, and is none the wiser; the record comes back to us, to be sent
on the real socket behind what went before.  The real one stays open under a spare number, so its
registration with epoll is untouched.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshd.worker.duplex import Stream

_RECORD = 16_384
MOST = 512
"""Bytes of an alert record: 24 with AES-GCM; TLS 1.2 with a MAC adds some."""

_decoy: tuple[socket.socket, socket.socket] | None = None


def send_farewell(stream: Stream) -> bool:
    """Whether all of our close_notify is out, which is made at the first call.

    False: wait until the stream is writable, and call again.
    """
    if stream._farewell is None:
        stream._farewell = _new(stream)
    while stream._farewell:
        try:
            sent = socket.socket.send(stream.sock, stream._farewell)
        except BlockingIOError:
            stream.writable = False
            return False
        except OSError:  # the peer has gone without it
            sent = len(stream._farewell)
        stream._farewell = stream._farewell[sent:]
    return True


def _new(stream: Stream) -> bytes:
    if stream._held is not None:
        return b""  # OpenSSL has half a record of ours: the FIN has to do
    try:
        record, ahead = close_notify(stream.tls, stream.fd)
    except OSError:
        return b""  # no descriptor for a moment's copy
    if ahead:
        stream.bytes_in += len(ahead)
        stream._unread(ahead)
    return record


def close_notify(tls: Any, fd: int) -> tuple[bytes, bytes]:
    """The record, for the caller to send, and what OpenSSL had read ahead, for later reads.

    The record is b"" if `tls` cannot make one.  OSError: no descriptors.  No send that has to be
    repeated may be pending in OpenSSL.
    """
    near, far = _pair()
    ahead = b""
    spare = os.dup(fd)
    try:
        os.dup2(near.fileno(), fd, inheritable=False)
        try:
            ahead = _drain(tls)
            tls.shutdown()
        except (OSError, ValueError):
            pass  # as a rule WantRead: there is nothing to read
        finally:
            os.dup2(spare, fd, inheritable=False)
    finally:
        os.close(spare)
    try:
        return far.recv(MOST), ahead
    except BlockingIOError:
        return b"", ahead


def _drain(tls: Any) -> bytes:
    """Records that OpenSSL holds: shutdown would stumble over them."""
    pieces = []
    try:
        while piece := tls.read(_RECORD):
            pieces.append(piece)
    except OSError:
        pass  # WantRead; an error comes again when its turn is
    return b"".join(pieces)


def _pair() -> tuple[socket.socket, socket.socket]:
    global _decoy
    if _decoy is None:
        _decoy = socket.socketpair()
        for end in _decoy:
            end.setblocking(False)
    return _decoy
