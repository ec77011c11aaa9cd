"""Header fields of HTTP/2: the same grammar as HTTP/1's lines, and a memory likewise.

An engine hands fields over as (name, value) tuples.  `FieldMemory` maps such a tuple
to itself once it was judged: a field seen a moment ago costs one dict lookup (90 ns)
instead of a judgement (400 ns), and only one copy of it is kept however many requests
hold it.  What is secret, unique or long is judged each time and never remembered.

Beyond RFC 9113 section 8.2 the rules are HTTP/1's (`meshkit.http.fields`): what could
not be written as an HTTP/1 line is not taken in either, so a translation between the
two versions has nothing left to get wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from meshkit.http.fields import (
    _CODES,
    _LENGTH,
    CONNECTION,
    CONTENT_LENGTH,
    PROTECTED,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    VALUE_BYTES,
    Field,
    Special,
)
from meshkit.http.h2 import PROTOCOL_ERROR
from meshkit.http.limits import Limits

COOKIE = 13
"""Crumbs, to be joined (RFC 9113 section 8.2.3)."""
_ORDINARY, _FORBIDDEN = 0, -2

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
REMEMBERED_BYTES = 256
_REMEMBERED = 2048
"""Fields remembered: at most about 1.5 MB a process."""
_NAMES = 1024
_FEW = 6

CONNECTION_FIELDS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""They have no meaning in HTTP/2, and a proxy that passed them on would give them one."""


class StreamError(Exception):
    """A message that breaks the rules: reset its stream with ``code``, count ``limit``."""

    def __init__(self, code: int, limit: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.limit = limit
        self.message = message


def _code_of(name: bytes) -> int:
    if name in CONNECTION_FIELDS:
        return _FORBIDDEN
    if name == b"cookie":
        return COOKIE
    if name == b"http2-settings" or name.startswith(b"proxy-"):
        return CONNECTION  # dropped: for us, not for the next hop
    code = _CODES.get(name, _ORDINARY)
    return _FORBIDDEN if code in (CONNECTION, TRANSFER_ENCODING, UPGRADE) else code


class FieldMemory(dict[Field, Field | None]):
    """Judges fields without pseudo-fields, and remembers.  One serves a whole process."""

    __slots__ = ("_names", "_set_aside", "_specials", "new_bytes")

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[bytes, int] = {}
        self._specials: dict[Field, Special] = {}
        self._set_aside: list[Special] = []
        self.new_bytes = 0
        """Of the last `parse`: bytes in fields that were not remembered.  While they and
        `REMEMBERED_BYTES` a field are under a limit, nobody needs to count them all."""

    def parse(self, fields: Iterable[Field]) -> tuple[list[Field], list[Special]]:
        """The ordinary fields and those that mean something here.  Raises StreamError."""
        special = self._set_aside = []
        self.new_bytes = 0
        ordinary = list(map(self.__getitem__, fields))
        if len(special) > _FEW:
            ordinary = [field for field in ordinary if field is not None]
        else:
            for _ in special:
                ordinary.remove(None)
        return ordinary, special  # type: ignore[return-value]  # no None is left

    def __missing__(self, field: Field) -> Field | None:
        known = self._specials.get(field)
        if known is not None:
            self._set_aside.append(known)
            return None
        name, value = field
        code = self._names.get(name)
        if code is None:
            code = self._learn(name)
        if code == _FORBIDDEN:
            raise StreamError(PROTOCOL_ERROR, "h2_connection_field", "a connection's field")
        if value.translate(None, VALUE_BYTES) or value != value.strip(b" \t"):
            raise StreamError(PROTOCOL_ERROR, "h2_bad_field", "a value no field may have")
        self.new_bytes += len(name) + len(value)
        if code > 0:
            self._set_aside.append(self._special(field, code))
            return None
        if (
            code == _ORDINARY
            and len(name) + len(value) <= REMEMBERED_BYTES
            and field.__class__ is tuple  # not one that says "never index me"
        ):
            if len(self) >= _REMEMBERED:
                self.clear()
            self[field] = field
        return field

    def _special(self, field: Field, code: int) -> Special:
        name, value = field
        number = 0
        if code == CONTENT_LENGTH:
            number = int(value) if _LENGTH.fullmatch(value) else -1
        special = Special(code, name, value, number)
        if code in (CONTENT_LENGTH, TE) and len(value) <= REMEMBERED_BYTES:
            if len(self._specials) >= _NAMES:
                self._specials.clear()
            self._specials[field] = special
        return special

    def _learn(self, name: bytes) -> int:
        if _NAME.fullmatch(name) is None:
            raise StreamError(PROTOCOL_ERROR, "h2_bad_field", "a name that is no small token")
        code = _code_of(name)
        if len(name) <= REMEMBERED_BYTES:
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[name] = code
        return code


TABLE = FieldMemory()
_FIELD_OVERHEAD = 4
"""What a line of HTTP/1 has beside name and value; both versions have one limit."""


def too_large(fields: Sequence[Field], limits: Limits) -> str:
    """The code of the limit that ``fields`` exceed, or ""."""
    sizes = [len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields]
    if sum(sizes) > limits.header_bytes:
        return "head_too_large"
    return "header_too_large" if max(sizes) > limits.field_bytes else ""


def trailer_fields(fields: Sequence[Field], limits: Limits) -> list[Field]:
    """Trailers that may be passed on.  Raises StreamError (also where they are too many).

    Names that frame, route or authenticate are dropped (RFC 9110 section 6.5.1).
    """
    if len(fields) > limits.trailer_fields:
        raise StreamError(PROTOCOL_ERROR, "too_many_trailers", "too many trailer fields")
    kept, _special = TABLE.parse(fields)
    if sum([len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields]) > (
        limits.trailer_bytes
    ):
        raise StreamError(PROTOCOL_ERROR, "trailers_too_large", "the trailers are too large")
    return [field for field in kept if field[0] not in PROTECTED]


__all__ = [
    "CONNECTION_FIELDS",
    "COOKIE",
    "REMEMBERED_BYTES",
    "TABLE",
    "TE",
    "FieldMemory",
    "StreamError",
    "too_large",
    "trailer_fields",
]
