from __future__ import annotations

import io
import json

from meshd.agent.log import Log, render


def test_a_record_is_one_json_line_with_its_fields() -> None:
    line = render(1700000000.25, "info", "worker_started", {"index": 1, "why": "a\nb"})
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "event": "worker_started",
        "index": 1,
        "why": "a\nb",
    }


def test_common_fields_and_levels() -> None:
    stream = io.StringIO()
    log = Log(stream, clock=lambda: 0.0, host="vm1")
    log.warning("x", n=1)
    log.error("y")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["host"], first["n"]) == ("warning", "vm1", 1)
    assert (second["level"], second["event"]) == ("error", "y")


def test_a_closed_stream_does_not_stop_the_daemon() -> None:
    stream = io.StringIO()
    stream.close()
    Log(stream).info("x")
    assert stream.closed
