"""HTTP/1.1, both ways: what the data plane uses, in one place.

`RequestReader` and `ResponseReader` turn bytes into heads and decoded bodies;
`render_request`, `render_response` and `chunk` turn them into bytes for the next
hop.  A codec only: no sockets, no time.
"""

from __future__ import annotations

from meshkit.http.errors import HTTPError
from meshkit.http.fields import Field, FieldTable
from meshkit.http.framing import CHUNKED, NO_LENGTH, UNTIL_CLOSE
from meshkit.http.h1_render import (
    CONTINUE,
    LAST_CHUNK,
    chunk,
    last_chunk,
    render_request,
    render_response,
)
from meshkit.http.h1_request import RequestHead, RequestReader
from meshkit.http.h1_response import ResponseHead, ResponseReader

__all__ = [
    "CHUNKED",
    "CONTINUE",
    "LAST_CHUNK",
    "NO_LENGTH",
    "UNTIL_CLOSE",
    "Field",
    "FieldTable",
    "HTTPError",
    "RequestHead",
    "RequestReader",
    "ResponseHead",
    "ResponseReader",
    "chunk",
    "last_chunk",
    "render_request",
    "render_response",
]
