"""A connection's memory of its last head: the same fields get the same verdict again.

Clients that poll send the same request again and again, and a busy service's answers
within a second often have the same head: comparing fields costs a twentieth of judging
them.  Between two meshd every request ends with ids that are new each time, and what
comes before them is compared without them.

As with HTTP/1.1 this is a memory of bytes, one head a connection, and `forget` is for
connections that have fallen idle.  Heads are read-only: they may be given out again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshkit.http.fields import Field
from meshkit.http.h1_response import ResponseHead
from meshkit.http.h2_head import H2RequestHead, request_head, response_head
from meshkit.http.limits import Limits

_IDS = frozenset((b"x-request-id", b"traceparent"))
_ID = re.compile(rb"[!-~]*")
"""Narrower than what a field may be: others are judged as ever."""


class LastRequest:
    """`request_head` of one connection."""

    __slots__ = ("_end", "_fields", "_front", "_head", "_ids")

    def __init__(self) -> None:
        self._fields: Sequence[Field] = ()
        self._front: Sequence[Field] = ()
        """What is before the ids; () where there are none."""
        self._ids = 0
        self._end = False
        self._head: H2RequestHead

    def head(self, fields: Sequence[Field], end: bool, limits: Limits) -> H2RequestHead:
        """Judge a request.  Raises StreamError, HTTPError."""
        if end == self._end:
            if fields == self._fields:
                return self._head
            if self._front and fields[: -self._ids] == self._front:
                head = self._with_ids(fields[-self._ids :])
                if head is not None:
                    return head
        head = request_head(fields, end, limits)
        self._remember(fields, end, head)
        return head

    def _with_ids(self, ids: Sequence[Field]) -> H2RequestHead | None:
        """The last head with other ids; None: these have to be looked at."""
        for field, known in zip(ids, self._fields[-self._ids :], strict=True):
            name, value = field
            if name != known[0] or len(value) > len(known[1]) or _ID.fullmatch(value) is None:
                return None
        head = H2RequestHead.__new__(H2RequestHead)
        head.__dict__.update(self._head.__dict__)
        head.headers = [*self._head.headers[: -self._ids], *ids]
        return head

    def _remember(self, fields: Sequence[Field], end: bool, head: H2RequestHead) -> None:
        self._fields, self._end, self._head = fields, end, head
        ids = 0
        while ids < len(_IDS) and fields[-1 - ids][0] in _IDS:
            ids += 1
        # What was set aside (crumbs joined, say) is appended: then the ids are not last.
        if ids and head.headers[-ids:] == list(fields[-ids:]):
            self._front, self._ids = fields[:-ids], ids
        else:
            self._front = ()

    def forget(self) -> None:
        self._fields = self._front = ()


class LastResponse:
    """`response_head` of one connection, for final answers with a body."""

    __slots__ = ("_fields", "_head")

    def __init__(self) -> None:
        self._fields: Sequence[Field] = ()
        self._head: ResponseHead

    def head(
        self, fields: Sequence[Field], end: bool, method: bytes, limits: Limits
    ) -> ResponseHead:
        """Judge a final answer.  Raises StreamError, HTTPError 502."""
        usual = not end and method != b"HEAD"
        if usual and fields == self._fields:
            return self._head
        head = response_head(fields, end, method, limits)
        if usual:
            self._fields, self._head = fields, head
        return head

    def forget(self) -> None:
        self._fields = ()
