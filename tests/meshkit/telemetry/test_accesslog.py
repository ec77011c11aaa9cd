"""Access-log lines are valid JSON with the documented keys, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshkit.telemetry.accesslog import (
    GRPC_KEYS,
    KEYS,
    Facts,
    Stamps,
    escape,
    format_entry,
    line_format,
)

FACTS = Facts(
    route_name="default",
    upstream_cluster="outbound|9080|v1|reviews",
    local="10.0.0.1:1",
    remote="10.0.0.2:2",
    server_name="",
    method=b"GET",
    protocol=b"HTTP/1.1",
    flags="-",
    details="via_upstream",
    forwarded_for=b"",
    user_agent=b"curl/8",
    authority=b"reviews:9080",
    upstream_host=b"10.0.0.2:15443",
    failure="",
)


def entry(**changes: Any) -> dict[str, Any]:
    facts = FACTS._replace(**{k: v for k, v in changes.items() if k in Facts._fields})
    values: dict[str, Any] = {
        "start": b"2026-01-31T12:00:00.123Z",
        "path": b"/a?b=c",
        "status": 200,
        "bytes_received": 1,
        "bytes_sent": 2,
        "duration_ms": 3,
        "upstream_ms": 4,
        "request_id": b"id",
        "upstream_local": b"10.0.0.1:40000",
    }
    values |= {k: v for k, v in changes.items() if k in values}
    text = format_entry(line_format(facts), **values)
    assert text.endswith(b"}\n") and text.count(b"\n") == 1 and text.isascii()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_a_line_has_the_documented_keys_in_order() -> None:
    line = entry()
    assert tuple(line) == KEYS
    assert line["upstream_cluster"] == "outbound|9080|v1|reviews"
    assert line["duration"] == 3 and line["upstream_service_time"] == 4
    assert line["protocol"] == "HTTP/1.1"


def test_a_grpc_line_says_its_status_too() -> None:
    line = entry(protocol=b"HTTP/2", grpc_status="14")
    assert tuple(line) == (*KEYS, *GRPC_KEYS)
    assert (line["protocol"], line["grpc_status"]) == ("HTTP/2", "14")
    assert entry(grpc_status="")["grpc_status"] == "-"


def test_missing_values_are_a_dash() -> None:
    line = entry(user_agent=b"", request_id=b"", upstream_host=b"", upstream_ms=-1)
    for key in ("user_agent", "request_id", "upstream_host", "upstream_service_time"):
        assert line[key] == "-"
    assert line["requested_server_name"] == "-"
    assert line["connection_termination_details"] == "-"


def test_constants_are_escaped_for_both_formats() -> None:
    line = entry(route_name='100% "x"', upstream_cluster="%s%(a)d", server_name="sni\\")
    assert line["route_name"] == '100% "x"'
    assert line["upstream_cluster"] == "%s%(a)d"
    assert line["requested_server_name"] == "sni\\"


@given(st.binary(max_size=30), st.binary(max_size=30), st.text(max_size=20))
def test_no_value_can_break_a_line(path: bytes, agent: bytes, failure: str) -> None:
    line = entry(path=path, user_agent=agent, failure=failure)
    assert line["path"] == path.decode("latin-1")
    assert line["user_agent"] == (agent.decode("latin-1") or "-")


def test_escape_returns_ordinary_values_themselves() -> None:
    value = b"curl/8.0"
    assert escape(value) is value
    assert escape(b'a"\\\n\xff') == b'a\\"\\\\\\n\\u00ff'


def test_stamps() -> None:
    stamps = Stamps()
    assert stamps.timestamp(0.0) == b"1970-01-01T00:00:00.000Z"
    assert stamps.timestamp(1_769_860_800.9999) == b"2026-01-31T12:00:00.999Z"
    assert stamps.timestamp(1_769_860_801.5) == b"2026-01-31T12:00:01.500Z"
