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
from typing import Any

MOST = 512
"""Bytes of an alert record: 24 with AES-GCM; TLS 1.2 with a MAC adds some."""

_decoy: tuple[socket.socket, socket.socket] | None = None


def close_notify(tls: Any, fd: int) -> bytes:
    """The record, for the caller to send; b"" if `tls` cannot make one.  OSError: no descriptors.

    Nothing may be pending in OpenSSL: neither a send that has to be repeated nor a record that
    was read in part.
    """
    near, far = _pair()
    spare = os.dup(fd)
    try:
        os.dup2(near.fileno(), fd, inheritable=False)
        try:
            tls.shutdown()
        except (OSError, ValueError):
            pass  # as a rule WantRead: there is nothing to read
        finally:
            os.dup2(spare, fd, inheritable=False)
    finally:
        os.close(spare)
    try:
        return far.recv(MOST)
    except BlockingIOError:
        return b""


def _pair() -> tuple[socket.socket, socket.socket]:
    global _decoy
    if _decoy is None:
        _decoy = socket.socketpair()
        for end in _decoy:
            end.setblocking(False)
    return _decoy
