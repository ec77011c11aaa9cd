"""The table of outcomes: each row is what the worker answers, and a test shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.http.errors import REPLIES
from meshkit.telemetry.docs import render
from meshkit.telemetry.flags import FILES, OUTCOMES, Outcome

ROOT = Path(__file__).parents[3]
NOT_YET = {
    "upstream_overflow",  # circuit breakers
    "not_authorized",  # authorization policies
    "not_ready",
    "internal_error",
    "downstream_protocol_error",  # the rule that was broken is said instead
    "method_not_allowed",
    "retry_limit_exceeded",  # a body went out while the try was judged
}
"""Replies that no ordinary test brings about."""


@pytest.mark.parametrize("row", OUTCOMES, ids=lambda row: f"{row.of}-{row.flag}-{row.details}")
def test_a_row_is_shown_by_a_test(row: Outcome) -> None:
    assert f"\ndef {row.test}(" in (ROOT / FILES[row.file]).read_text()


def test_rows_say_what_is_replied() -> None:
    for row in OUTCOMES:
        reply = REPLIES.get(row.details)
        if reply is not None and row.of != "TCP":
            assert (row.flag, row.status) == (reply.flag, reply.status), row
    assert {row.details for row in OUTCOMES} >= REPLIES.keys() - NOT_YET
    keys = [row[:3] for row in OUTCOMES]
    assert len(set(keys)) == len(keys)


def test_the_page_has_every_row() -> None:
    page = render()
    for row in OUTCOMES:
        assert f"| {row.meaning} |" in page
