"""Every wire vector: whole, byte by byte, in two cuts, and with a pipelined tail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshkit.http.h1 import HTTPError, RequestReader, ResponseReader
from meshkit.http.limits import MESHD

VECTORS = Path(__file__).parents[2] / "vectors" / "http1"
TAIL_REQUEST = b"GET /tail HTTP/1.1\r\nHost: tail.example\r\n\r\n"
TAIL_RESPONSE = b"HTTP/1.1 404 Tail\r\nContent-Length: 0\r\n\r\n"

Cut = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def single_bytes(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[i : i + 1]


def halves(data: bytes) -> Iterator[bytes]:
    middle = len(data) // 2
    yield from (data[:middle], data[middle:])


CUTS: list[Cut] = [whole, single_bytes, halves]


def load(name: str) -> list[Any]:
    vectors = json.loads((VECTORS / name).read_text())
    return [pytest.param(v, id=v["name"]) for v in vectors]


def wire(vector: dict[str, Any]) -> bytes:
    """Parts are text (one character a byte) or [text, times]."""
    texts = [p if isinstance(p, str) else p[0] * p[1] for p in vector["bytes"]]
    return "".join(texts).encode("latin-1")


def body_of(reader: RequestReader | ResponseReader, more: Iterator[bytes], eof: bool) -> bytes:
    body = b""
    while (data := reader.body()) != b"":
        if data is None:
            feed(reader, more, eof)
        else:
            body += data
    return body


def feed(reader: RequestReader | ResponseReader, more: Iterator[bytes], eof: bool) -> None:
    piece = next(more, None)
    if piece is not None:
        reader.feed(piece)
    elif eof and not reader._eof:
        reader.eof()
    else:
        pytest.fail("the reader wants more than the whole message")


def _attributes(head: object) -> dict[str, object]:
    """What a head says, whether set in it or a default of its class."""
    names = {n for n in (*vars(type(head)), *vars(head)) if not n.startswith("_")}
    return {name: getattr(head, name) for name in names}


def read_request(reader: RequestReader, more: Iterator[bytes]) -> dict[str, Any]:
    while (head := reader.head()) is None:
        feed(reader, more, False)
    seen = _attributes(head)
    seen["body"] = body_of(reader, more, False)
    return seen | {"trailers": reader.trailers}


def read_response(
    reader: ResponseReader, more: Iterator[bytes], method: str, eof: bool
) -> dict[str, Any]:
    interim = []
    while (head := reader.head(method.encode())) is None or head.status < 200:
        if head is None:
            feed(reader, more, eof)
        else:
            interim.append(head.status)
    seen = _attributes(head)
    seen["body"] = body_of(reader, more, eof)
    return seen | {"trailers": reader.trailers, "interim": interim}


def plain(value: Any) -> Any:
    """As JSON has it: bytes are Latin-1 text, tuples are lists."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def check(vector: dict[str, Any], seen: dict[str, Any]) -> None:
    want = vector.get("want", {})
    assert {name: plain(seen[name]) for name in want} == want


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("vector", load("requests.json"))
def test_request(vector: dict[str, Any], cut: Cut) -> None:
    reader = RequestReader(MESHD)
    more = cut(wire(vector))
    if vector["verdict"] == "ok":
        check(vector, read_request(reader, more))
        assert reader.done and not reader.buffered
        return
    with pytest.raises(HTTPError) as error:
        read_request(reader, more)
    assert error.value.status == vector["verdict"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("vector", load("requests.json"))
def test_request_with_a_tail(vector: dict[str, Any], cut: Cut) -> None:
    reader = RequestReader(MESHD)
    more = cut(wire(vector) + TAIL_REQUEST)
    if vector["verdict"] == "ok":
        check(vector, read_request(reader, more))
        assert read_request(reader, more)["path"] == b"/tail"
        return
    with pytest.raises(HTTPError) as error:
        read_request(reader, more)
    assert error.value.status == vector["verdict"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("vector", load("responses.json"))
def test_response(vector: dict[str, Any], cut: Cut) -> None:
    reader = ResponseReader(MESHD)
    more = cut(wire(vector))
    if vector["verdict"] == "ok":
        check(vector, read_response(reader, more, vector["method"], vector["eof"]))
        assert reader.done and not reader.buffered
        return
    with pytest.raises(HTTPError) as error:
        read_response(reader, more, vector["method"], vector["eof"])
    assert error.value.status == 502


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("vector", [v for v in load("responses.json") if not v.values[0]["eof"]])
def test_response_with_a_tail(vector: dict[str, Any], cut: Cut) -> None:
    """Bytes after a response are never its body; `buffered` tells the caller."""
    reader = ResponseReader(MESHD)
    more = cut(wire(vector) + TAIL_RESPONSE)
    if vector["verdict"] == "ok":
        check(vector, read_response(reader, more, vector["method"], False))
        if cut is whole:
            assert reader.buffered == len(TAIL_RESPONSE)
        assert read_response(reader, more, "GET", False)["status"] == 404
        return
    with pytest.raises(HTTPError):
        read_response(reader, more, vector["method"], False)
