"""Counters in shared memory: one file a worker, bumped in place, read by the agent.

The file is an append-only table of series:

    header   magic (8 bytes) · used (u64: bytes that are valid, header included)
    record   key length (u32) · number of cells (u32) · key, padded to 8 · cells (u64 each)

A key is JSON: metric name, labels.  The writer completes a record beyond
``used`` and then publishes it with one aligned 8-byte store, so a reader, or a
writer that reopens the file after a kill −9, sees a record whole or not at all.
Cells are bumped with ordinary aligned stores; a reader may see a histogram
between two of them, and the count is therefore defined as the sum of its
buckets.  What a crash can lose is the one bump that was in progress.

A histogram has one cell a bucket, +Inf last, then the sum in parts of its unit (`Metric.scale`).
Gauges are set to 0 when a new worker opens the file: what they described died
with the old one.  When the file is full, further series share one overflow cell
that is exported as such; nothing is ever written outside the file.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meshkit.telemetry.metrics import Metric, metric

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

MAGIC = b"BMCNT\x00\x00\x01"
SIZE = 32 * 1024 * 1024
"""Bytes a worker: about 6,000 label sets of requests, with their four series each; sparse, so
only what is used costs memory."""
_HEADER = 16
_RECORD = struct.Struct("<II")
_USED = 1
"""Index of ``used`` among the file's 8-byte cells."""
_OVERFLOW = "meshd_series_overflow_total"
_SCRATCH = "scratch"
_SCRATCH_CELLS = 64
"""Where histograms without room are bumped; more cells than any histogram has."""

Labels = tuple[tuple[str, str], ...]


class CounterFileBusy(OSError):
    """Another process writes this file."""


class Series(NamedTuple):
    """One series as read: ``values`` are the raw cells."""

    name: str
    labels: Labels
    values: tuple[int, ...]


class CounterFile:
    """The writer's side.  ``cells[offset] += 1`` is the whole hot path.

    Opens ``path`` if it is a counter file (and continues), else makes it anew.
    Raises CounterFileBusy while another process has it open, OSError as usual.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = True, size: int = SIZE):
        if size < 4096:
            raise ValueError("a counter file has 4096 bytes at least")
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = os.open(path, flags, 0o640)
        try:
            _lock(self._fd, path)
            self.reopened = _is_counter_file(self._fd)
            if not self.reopened:
                _format(self._fd, size)
            self._map = mmap.mmap(self._fd, 0)
        except BaseException:
            os.close(self._fd)
            raise
        self.cells = memoryview(self._map).cast("Q")
        self._offsets: dict[tuple[str, Labels], int] = {}
        self._load()
        self._overflow = self._series(_OVERFLOW, (), 1)
        self._scratch = self._series(_SCRATCH, (), _SCRATCH_CELLS)

    def has(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the series is there."""
        return (name, tuple(sorted(labels.items()))) in self._offsets

    def counter(self, name: str, labels: Mapping[str, str] | None = None) -> int:
        """Offset of a counter's cell, made at first use; KeyError for an undeclared name."""
        return self._find(metric(name), labels, 1)

    gauge = counter
    """The same one cell; set it instead of adding to it (never below 0)."""

    def histogram(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        bounds: tuple[float, ...] | None = None,
    ) -> int:
        """Offset of a histogram's first bucket; `observe` fills it.

        ``bounds`` must be those of the metric's declaration, where given.
        """
        declared = metric(name)
        if bounds is not None and tuple(bounds) != declared.bounds:
            raise ValueError(f"{name}: the bounds differ from its declaration")
        return self._find(declared, labels, len(declared.bounds) + 2)

    def observe(self, offset: int, declared: Metric, value: float) -> None:
        """Count ``value`` (in the histogram's unit) in its bucket and its sum."""
        cells, bounds = self.cells, declared.bounds
        cells[offset + bisect_left(bounds, value)] += 1
        cells[offset + len(bounds) + 1] += int(value * declared.scale)

    def close(self) -> None:
        """Unmap and unlock; the file stays for readers and the next writer."""
        self.cells.release()
        self._map.close()
        os.close(self._fd)

    def _find(self, declared: Metric, labels: Mapping[str, str] | None, cells: int) -> int:
        pairs = tuple(sorted((labels or {}).items()))
        known = self._offsets.get((declared.name, pairs))
        if known is not None:
            return known
        if {name for name, _value in pairs} != set(declared.labels):
            raise ValueError(f"{declared.name}: its labels are {', '.join(declared.labels)}")
        if self._room(declared.name, pairs, cells):
            return self._series(declared.name, pairs, cells)
        if cells == 1:
            return self._overflow  # what the caller adds is counted there
        self.cells[self._overflow] += 1
        return self._scratch

    def _room(self, name: str, labels: Labels, cells: int) -> bool:
        return self.cells[_USED] + _record_size(_key(name, labels), cells) <= len(self._map)

    def _series(self, name: str, labels: Labels, cells: int) -> int:
        """The offset of a series, appended to the table if it is not there."""
        known = self._offsets.get((name, labels))
        if known is not None:
            return known
        used = self.cells[_USED]
        key = _key(name, labels)
        size = _record_size(key, cells)
        # A crash may have left a part of a record here: write all of it.
        record = _RECORD.pack(len(key), cells) + key
        self._map[used : used + size] = record.ljust(size, b"\0")
        self.cells[_USED] = used + size
        offset = int(used + size) // 8 - cells
        self._offsets[name, labels] = offset
        return offset

    def _load(self) -> None:
        data = self._map[: self.cells[_USED]]
        for name, labels, start, count in _records(data):
            offset = start // 8
            self._offsets[name, labels] = offset
            if name == _SCRATCH or metric(name).type == "gauge":
                self.cells[offset : offset + count] = memoryview(bytes(8 * count)).cast("Q")


def _lock(fd: int, path: str | os.PathLike[str]) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = "another worker writes this counter file; give each its own --counters"
        raise CounterFileBusy(f"{os.fspath(path)}: {text}") from None


def _format(fd: int, size: int) -> None:
    """Make the file empty; the magic comes last, so half of this is no counter file."""
    os.ftruncate(fd, 0)
    os.ftruncate(fd, size - size % 8)
    os.pwrite(fd, _HEADER.to_bytes(8, "little"), 8)
    os.pwrite(fd, MAGIC, 0)


def _is_counter_file(fd: int) -> bool:
    """Whether every record is one that this release understands."""
    size = os.fstat(fd).st_size
    header = os.pread(fd, _HEADER, 0)
    if size % 8 or len(header) < _HEADER or header[:8] != MAGIC:
        return False
    used = int.from_bytes(header[8:], "little")
    if not _HEADER <= used <= size:
        return False
    try:
        return all(_fits(*record) for record in _records(os.pread(fd, used, 0)))
    except ValueError:
        return False


def _fits(name: str, labels: Labels, _start: int, count: int) -> bool:
    """The series is one that today's declaration of its metric would make."""
    if name == _SCRATCH:
        return count == _SCRATCH_CELLS
    try:
        declared = metric(name)
    except KeyError:
        return False
    cells = len(declared.bounds) + 2 if declared.bounds else 1
    return count == cells and {label for label, _value in labels} == set(declared.labels)


def _key(name: str, labels: Labels) -> bytes:
    return json.dumps([name, dict(labels)], separators=(",", ":")).encode()


def _padded(length: int) -> int:
    return (length + 7) & ~7


def _record_size(key: bytes, cells: int) -> int:
    return 8 + _padded(len(key)) + 8 * cells


def _records(data: bytes) -> Iterator[tuple[str, Labels, int, int]]:
    """(name, labels, byte offset of the first cell, number of cells) of each record.

    Raises ValueError where the bytes are no table.
    """
    position = _HEADER
    while position < len(data):
        if position + 8 > len(data):
            raise ValueError("a record is cut off")
        length, count = _RECORD.unpack_from(data, position)
        start = position + 8 + _padded(length)
        if start + 8 * count > len(data):
            raise ValueError("a record is cut off")
        name, labels = json.loads(data[position + 8 : position + 8 + length])
        yield name, tuple(labels.items()), start, count
        position = start + 8 * count


def read(path: str | os.PathLike[str]) -> Iterator[Series]:
    """The series of one file, while its worker may be writing; none if it is no counter file.

    Raises OSError as `open` does.
    """
    with Path(path).open("rb", buffering=0) as file:
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[:8] != MAGIC:
            return
        used = int.from_bytes(header[8:], "little")
        # Everything below `used` was complete before `used` was published.
        data = header + (file.read(used - _HEADER) or b"")
    for name, labels, start, count in _records(data):
        if name != _SCRATCH:
            yield Series(name, labels, struct.unpack_from(f"<{count}Q", data, start))


def merge(paths: Iterable[str | os.PathLike[str]]) -> dict[tuple[str, Labels], list[int]]:
    """(name, labels) → cells summed over the files; a file that is not there counts nothing."""
    total: dict[tuple[str, Labels], list[int]] = {}
    for path in paths:
        try:
            series = list(read(path))
        except (FileNotFoundError, ValueError):
            continue
        for name, labels, values in series:
            sums = total.setdefault((name, labels), [0] * len(values))
            if len(sums) == len(values):
                sums[:] = map(int.__add__, sums, values)
    return total


def collect(paths: Iterable[str | os.PathLike[str]]) -> list[Family]:
    """Prometheus families, for a custom collector of prometheus_client."""
    from meshd.exposition import families

    return families(merge(paths))
