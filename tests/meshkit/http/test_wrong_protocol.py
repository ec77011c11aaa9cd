"""Peers that speak another protocol than a port declares: told at once, and what to do."""

from __future__ import annotations

import pytest

from meshkit.http.errors import HTTPError
from meshkit.http.h1_request import RequestReader
from meshkit.http.h1_response import ResponseReader
from meshkit.http.h2 import FRAME_SIZE_ERROR, H2Error, settings_of
from meshkit.http.h2_guard import Guard
from meshkit.http.limits import MESHD
from meshkit.http.sniff import foreign

CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303")
TLS_ALERT = bytes.fromhex("15030300020246")
SETTINGS = bytes.fromhex("000012040000000000000300000080")


def refused(reader: RequestReader | ResponseReader, data: bytes) -> HTTPError:
    reader.feed(data)
    with pytest.raises(HTTPError) as error:
        reader.head() if isinstance(reader, RequestReader) else reader.head(b"GET")
    return error.value


@pytest.mark.parametrize(
    ("data", "speaks"),
    [(CLIENT_HELLO, "TLS"), (TLS_ALERT, "TLS"), (SETTINGS, "HTTP/2"), (b"GET / ", ""), (b"", "")],
)
def test_what_speaks_instead(data: bytes, speaks: str) -> None:
    assert foreign(data) == speaks


@pytest.mark.parametrize("data", [b"*1\r\n$4\r\nPING\r\n", b"EHLO client\r\n", b"hello\r\n"])
def test_a_line_that_is_no_request_waits_for_nothing(data: bytes) -> None:
    error = refused(RequestReader(MESHD), data)
    assert (error.status, error.code) == (400, "bad_request_line")


@pytest.mark.parametrize("data", [b"-ERR unknown\r\n", b"220 mail ESMTP\r\n", b"ICY 200 OK\r\n"])
def test_a_server_of_another_protocol_is_no_endless_wait(data: bytes) -> None:
    error = refused(ResponseReader(MESHD), data)
    assert (error.status, error.code) == (502, "bad_status_line")


def test_the_first_line_alone_is_judged_early() -> None:
    reader = RequestReader(MESHD)
    for line in (b"\r\n", b"GET / HTTP/1.1\r\n", b"X: not a request\r\n", b"Host: a\r\n"):
        reader.feed(line)
        assert reader.head() is None
    reader.feed(b"\r\n")
    head = reader.head()
    assert head is not None and head.authority == b"a"


def test_the_preface_of_http2_is_refused_when_it_is_whole() -> None:
    reader = RequestReader(MESHD)
    reader.feed(b"PRI * HTTP/2.0\r\n")
    assert reader.head() is None
    error = refused(reader, b"\r\nSM\r\n\r\n")
    assert error.code == "http2_preface"
    assert reader.since_preface() == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SETTINGS, "the endpoint answers in HTTP/2: declare its port HTTP2 or GRPC"),
        (TLS_ALERT, "the endpoint answers in TLS: declare its port HTTPS or TLS"),
        (b"\0\0\0\4", "a bare CR, LF or NUL in the head"),
    ],
)
def test_an_endpoint_of_another_protocol_is_named(data: bytes, message: str) -> None:
    assert refused(ResponseReader(MESHD), data).message == message


def test_a_client_that_speaks_tls_is_told() -> None:
    error = refused(RequestReader(MESHD), CLIENT_HELLO)
    assert error.message == "the client speaks TLS, this port takes cleartext HTTP"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "the endpoint answers in HTTP/1.1: declare its port HTTP",
        ),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "a frame over our limit"),
    ],
)
def test_an_http1_answer_to_http2_is_named(data: bytes, message: str) -> None:
    with pytest.raises(H2Error) as error:
        Guard("client", settings_of(MESHD, "client")).feed(data, 0.0)
    assert (error.value.code, error.value.message) == (FRAME_SIZE_ERROR, message)
