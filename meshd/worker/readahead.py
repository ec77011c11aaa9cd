"""OpenSSL's read-ahead, which Python's `ssl` does not offer: one read(2) for several records.

Without it OpenSSL reads each record in two steps, its 5 bytes of header and its body, so that
64 KiB cost eight calls of the kernel; with it one or two.  Measured on the pump it saves a tenth
of the CPU time of a gigabyte (docs/tcp.md), and so it is asked for where bytes come in bulk.

The two functions are OpenSSL's public API; what is not public is where `_ssl` keeps the SSL
pointer.  So the object is recognized first: its fields are the socket's weak reference, the
pointer and the context, in this order since Python 3.6, and the third must be the very context
that the object says it has.  Where that does not hold, everything works without read-ahead.
"""

from __future__ import annotations

import _ssl
import ctypes
from typing import Any

AHEAD = 65_536
"""Bytes of OpenSSL's buffer: four records, held only while something is in it (Python sets
SSL_MODE_RELEASE_BUFFERS)."""

_HEAD = object.__basicsize__
_WORD = ctypes.sizeof(ctypes.c_void_p)
_POINTER, _CONTEXT = _HEAD + _WORD, _HEAD + 2 * _WORD


def _library() -> Any:
    """The libssl that `_ssl` itself is linked with; None where it cannot be called."""
    try:
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        library.SSL_set_read_ahead.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.SSL_set_read_ahead.restype = None
        library.SSL_set_default_read_buffer_len.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        library.SSL_set_default_read_buffer_len.restype = None
    except (OSError, AttributeError):
        return None
    return library


_libssl = _library()


def enable(tls: Any) -> bool:
    """Switch it on for an `_ssl._SSLSocket`; False: not possible here, and nothing is changed.

    From then on only WantRead proves that the kernel has nothing.
    """
    kind = type(tls)
    if _libssl is None or (kind.__module__, kind.__name__) != ("_ssl", "_SSLSocket"):
        return False
    if kind.__basicsize__ < _CONTEXT + _WORD:
        return False
    address = id(tls)
    if ctypes.c_void_p.from_address(address + _CONTEXT).value != id(tls.context):
        return False
    pointer = ctypes.c_void_p.from_address(address + _POINTER).value
    if not pointer:
        return False
    _libssl.SSL_set_default_read_buffer_len(pointer, AHEAD)
    _libssl.SSL_set_read_ahead(pointer, 1)
    return True
