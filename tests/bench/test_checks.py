from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bench.checks import LogCount
from bench.peers.running import Running
from bench.processes import BenchError


def counted(log: Path) -> LogCount:
    log.write_text("start-up\n")
    return LogCount(Running("envoy", "1", 1, (), 2, (log,)), "tcp")


def test_what_was_logged_is_counted_and_the_file_emptied(tmp_path: Path) -> None:
    log = tmp_path / "log"
    count = counted(log)
    for _ in range(2):
        log.write_text("line\n" * 98)
        count.add(100)
        assert log.read_bytes() == b""
    count.verify()


def test_a_peer_that_logs_less_than_it_serves_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    count = counted(log)
    log.write_text("line\n" * 90)
    count.add(100)
    with pytest.raises(BenchError, match="90 lines in log for 100 requests"):
        count.verify(seconds=0.1)


def test_lines_that_are_still_in_a_buffer_are_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    count = counted(log)
    count.add(100)
    flush = threading.Timer(0.1, log.write_text, ["line\n" * 100])
    flush.start()
    count.verify()
    flush.join()


def test_a_file_that_is_written_on_at_its_old_offset_is_counted_right(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    with log.open("wb", buffering=0) as writer:
        writer.write(b"line\n" * 10_000)
        count = LogCount(Running("haproxy", "1", 1, (), 2, (log,)), "tcp")
        writer.write(b"line\n" * 100)
        assert log.stat().st_size > 50_000
        count.add(101)
    count.verify()
    count.add(100)
    with pytest.raises(BenchError):
        count.verify(seconds=0.1)


def test_lines_of_another_protocol_are_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    count = LogCount(Running("envoy", "1", 1, (), 2, (log,)), "h2")
    log.write_text('{"protocol":"HTTP/2"}\n' * 50 + '{"protocol":"HTTP/1.1"}\n' * 50)
    count.add(100)
    with pytest.raises(BenchError, match='50 lines with "protocol":"HTTP/2 in log'):
        count.verify(seconds=0.1)
