"""Messages as bytes, one join each; what is given here was judged before.

Values come from the readers (which refuse CR, LF and NUL) or from validated
configuration, so nothing is checked again on this path.  ``extra`` is rendered
header lines, each with its CRLF, put in as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshkit.http.fields import Field
from meshkit.http.framing import CHUNKED, UNTIL_CLOSE

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED_LINE = b"\r\ntransfer-encoding: chunked\r\n"
_BODY_METHODS = frozenset((b"POST", b"PUT", b"PATCH"))
"""Without a body these say ``content-length: 0`` (RFC 9110 section 8.6)."""


def render_request(
    method: bytes,
    path: bytes,
    authority: bytes,
    headers: Iterable[Field],
    body: int,
    extra: bytes = b"",
) -> bytes:
    """A request head.  ``body``: 0, a length, or CHUNKED."""
    if body > 0:
        end = b"\r\ncontent-length: %d\r\n%b\r\n" % (body, extra)
    elif body == CHUNKED:
        end = b"%b%b\r\n" % (_CHUNKED_LINE, extra)
    elif method in _BODY_METHODS:
        end = b"\r\ncontent-length: 0\r\n%b\r\n" % extra
    else:
        end = b"\r\n%b\r\n" % extra
    first = b"%b %b HTTP/1.1\r\nhost: %b" % (method, path, authority)
    return b"\r\n".join([first, *map(b": ".join, headers)]) + end


def render_response(
    status: int,
    reason: bytes,
    headers: Iterable[Field],
    body: int,
    keep_alive: bool,
    extra: bytes = b"",
) -> bytes:
    """A response head.

    ``body``: a length of 0 or more, CHUNKED, UNTIL_CLOSE (no framing field; pass
    ``keep_alive`` False) or NO_LENGTH (1xx, 204, and HEAD or 304 without one).
    An HTTP/1.0 client that keeps its connection needs
    ``connection: keep-alive`` in ``extra``, and never gets CHUNKED.
    """
    if body >= 0:
        end = b"\r\ncontent-length: %d\r\n" % body
    elif body == CHUNKED:
        end = _CHUNKED_LINE
    else:
        end = b"\r\n"
    if not keep_alive or body == UNTIL_CLOSE:
        end += b"connection: close\r\n"
    first = b"HTTP/1.1 %d %b" % (status, reason)
    return b"\r\n".join([first, *map(b": ".join, headers)]) + end + extra + b"\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk around ``data`` (not empty: that would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[Field] = ()) -> bytes:
    """The end of a chunked body, with trailers where there are any."""
    lines = b"".join([b"%b: %b\r\n" % field for field in trailers])
    return b"0\r\n%b\r\n" % lines
