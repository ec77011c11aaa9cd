"""The table of local replies."""

from __future__ import annotations

from meshkit.http.errors import REPLIES, STATUS_TEXT, HTTPError, reply_body


def test_every_reply_has_a_status_text_and_a_flag() -> None:
    for reason, reply in REPLIES.items():
        assert reply.status in STATUS_TEXT, reason
        assert reply.flag == "-" or reply.flag.isupper()
        assert reason == reason.lower() and " " not in reason


def test_the_body_names_reason_and_request_id() -> None:
    assert reply_body("no healthy endpoint", "no_healthy_upstream", b"id-1") == (
        b"no healthy endpoint (no_healthy_upstream; request id id-1)\n"
    )
    assert reply_body("x", "y") == b"x (y)\n"


def test_http_error_says_what_and_why() -> None:
    assert str(HTTPError(400, "no_host", "no Host header")) == "400 no_host: no Host header"
