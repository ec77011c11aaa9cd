"""Who the other side says it is, for labels only: x-baremesh-source, -destination.

The value is base64url (no padding) of a JSON object with workload, namespace,
app and version, 512 bytes at most.  It is never used to authorize: the
certificate says who a peer is.  What cannot be read counts as unknown.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import NamedTuple

MAX_BYTES = 512
_KEYS = ("workload", "namespace", "app", "version")
_UNKNOWN = "unknown"


class Facts(NamedTuple):
    """A workload as telemetry labels it; "" becomes ``unknown`` in a label."""

    workload: str = _UNKNOWN
    namespace: str = _UNKNOWN
    app: str = _UNKNOWN
    version: str = _UNKNOWN


UNKNOWN = Facts()


def encode_facts(facts: Facts) -> bytes:
    """The header's value; values that would make it too long are cut."""
    size = 253
    while True:
        values = (value[:size] for value in facts)
        text = json.dumps(
            dict(zip(_KEYS, values, strict=True)), ensure_ascii=False, separators=(",", ":")
        )
        encoded = urlsafe_b64encode(text.encode("utf-8", "replace")).rstrip(b"=")
        if len(encoded) <= MAX_BYTES:
            return encoded
        size //= 2


def decode_facts(value: bytes) -> Facts:
    """`UNKNOWN`, whole or in part, for what is missing, malformed or too long."""
    if not value or len(value) > MAX_BYTES:
        return UNKNOWN
    try:
        document = json.loads(urlsafe_b64decode(value + b"=" * (-len(value) % 4)))
    except (Base64Error, ValueError, RecursionError):
        return UNKNOWN
    if not isinstance(document, dict):
        return UNKNOWN
    return Facts(*(_label(document.get(key)) for key in _KEYS))


def _label(value: object) -> str:
    """A printable text of the peer's, or unknown."""
    if isinstance(value, str) and value and value.isprintable():
        return value
    return _UNKNOWN
