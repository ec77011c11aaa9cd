"""Request ids and trace context."""

from __future__ import annotations

from random import Random
from uuid import UUID

import pytest

from meshkit.telemetry.trace import (
    RequestIds,
    TraceParents,
    child_traceparent,
    new_traceparent,
    parse_traceparent,
    valid_request_id,
)

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"


def test_request_ids_are_uuids_of_version_4() -> None:
    random = Random(1)
    source = RequestIds(random)
    ids = {source.new() for _ in range(1000)}
    assert len(ids) == 1000
    for request_id in ids:
        assert UUID(request_id.decode()).version == 4
        assert str(UUID(request_id.decode())).encode() == request_id


def test_new_traces_are_valid_and_not_sampled_unless_asked() -> None:
    random = Random(1)
    for sampled in (False, True):
        parsed = parse_traceparent(new_traceparent(random, sampled))
        assert parsed is not None and parsed.sampled is sampled
    assert new_traceparent(Random(2)) != new_traceparent(Random(3))


@pytest.mark.parametrize(("flags", "sampled"), [(b"00", False), (b"01", True), (b"ff", True)])
def test_a_child_keeps_trace_and_decision(flags: bytes, sampled: bool) -> None:
    child = parse_traceparent(
        child_traceparent(b"00-" + TRACE + b"-" + SPAN + b"-" + flags, Random(1))
    )
    assert child is not None
    assert (child.trace_id, child.sampled) == (TRACE, sampled)
    assert child.parent_id != SPAN


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + TRACE + b"-" + SPAN,
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"-01-more",
        b"00-" + TRACE + b"-" + SPAN + b"-0g",
    ],
)
def test_what_is_malformed_begins_a_new_trace(value: bytes) -> None:
    assert parse_traceparent(value) is None
    child = parse_traceparent(child_traceparent(value, Random(1)))
    assert child is not None and child.trace_id != TRACE


def test_a_later_version_may_carry_more() -> None:
    parsed = parse_traceparent(b"01-" + TRACE + b"-" + SPAN + b"-01-more")
    assert parsed is not None and parsed.trace_id == TRACE


def test_valid_request_ids() -> None:
    assert valid_request_id(b"abc-1")
    assert not any(map(valid_request_id, (b"", b"a b", b"\xff", b"x" * 129)))


def test_drawn_trace_parents_are_well_formed_and_differ() -> None:
    source = TraceParents(Random(1))
    values = [source.new() for _ in range(1000)]
    assert len({value[3:35] for value in values}) == len({value[36:52] for value in values}) == 1000
    for value in values:
        parsed = parse_traceparent(value)
        assert parsed is not None and not parsed.sampled
