"""From HTTP/2 to an HTTP/1.1 application: what a stream says must be one request, or none.

The attacker writes HPACK by hand to the proxy of host a; behind host b an application
keeps every request it was sent.  Whatever is tried, it sees what was allowed and never
a request (`/smuggled`) that nobody made.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from meshkit.http.fields import Field
from tests.attack.conftest import PORT, Range
from tests.attack.h2 import Good, goaway_code
from tests.attack.raw import dial
from tests.meshkit.http import h2_wire as wire
from tests.meshkit.http.h2_wire import frame, literal

HOST = f"victim:{PORT}".encode()
INNER = b"GET /smuggled HTTP/1.1\r\nHost: victim\r\n\r\n"
M = literal(b":method", b"GET")
POST = literal(b":method", b"POST")
S = literal(b":scheme", b"http")
P = literal(b":path", b"/outer")
A = literal(b":authority", HOST)
BASE = M + S + P + A


def long(name: bytes, value: bytes) -> bytes:
    """A literal whose value is longer than `literal` can say."""
    rest = len(value) - 127
    size = b"\x7f"
    while rest >= 128:
        size += bytes((rest % 128 + 128,))
        rest //= 128
    return b"\0" + bytes((len(name),)) + name + size + bytes((rest,)) + value


def head(block: bytes, end: bool = True, stream: int = 1) -> bytes:
    return frame(wire.HEADERS, wire.END_HEADERS | end, stream, block)


def body(data: bytes, end: bool = True, stream: int = 1) -> bytes:
    return frame(wire.DATA, int(end), stream, data)


def with_value(value: bytes) -> bytes:
    return head(BASE + literal(b"x-a", value))


CUT = b"x\r\n\r\n" + INNER
REFUSED: dict[str, bytes] = {
    "CRLF and a request in a value": with_value(CUT),
    "CRLF and a field in a value": with_value(b"x\r\nContent-Length: 40"),
    "LF in a value": with_value(b"x\nTransfer-Encoding: chunked"),
    "CR in a value": with_value(b"x\rTransfer-Encoding: chunked"),
    "NUL in a value": with_value(b"x\0y"),
    "space before a value": with_value(b" x"),
    "CRLF in a name": head(BASE + literal(b"x\r\nhost: other\r\ny", b"z")),
    "colon in a name": head(BASE + literal(b"transfer-encoding: chunked\r\nx", b"y")),
    "space in a name": head(BASE + literal(b"content-length ", b"0")),
    "upper case": head(BASE + literal(b"Transfer-Encoding", b"chunked")),
    "empty name": head(BASE + literal(b"", b"x")),
    "a request in the path": head(M + S + A + literal(b":path", b"/ HTTP/1.1\r\n\r\n" + INNER)),
    "a space in the path": head(M + S + A + literal(b":path", b"/smuggled HTTP/1.1 x")),
    "a fragment": head(M + S + A + literal(b":path", b"/smuggled#x")),
    "an absolute path": head(M + S + A + literal(b":path", b"http://other/smuggled")),
    "no slash": head(M + S + A + literal(b":path", b"smuggled")),
    "an empty path": head(M + S + A + literal(b":path", b"")),
    "a star": head(M + S + A + literal(b":path", b"*")),
    "bytes beyond ASCII in the path": head(M + S + A + literal(b":path", b"/smuggled\xff")),
    "NUL, escaped": head(M + S + A + literal(b":path", b"/smuggled%00")),
    "a request in the method": head(S + P + A + literal(b":method", INNER)),
    "a space in the method": head(S + P + A + literal(b":method", b"GET /smuggled")),
    "CONNECT": head(literal(b":method", b"CONNECT") + A),
    "CONNECT as any other": head(S + P + A + literal(b":method", b"CONNECT")),
    "TRACE": head(S + P + A + literal(b":method", b"TRACE")),
    "a request in the authority": head(M + S + P + literal(b":authority", CUT)),
    "user information": head(M + S + P + literal(b":authority", b"x@" + HOST)),
    "a path in the authority": head(M + S + P + literal(b":authority", HOST + b"/x")),
    "Host differs": head(BASE + literal(b"host", b"other")),
    "Host twice": head(M + S + P + literal(b"host", HOST) * 2),
    "no authority": head(M + S + P),
    "a line end in the scheme": head(M + P + A + literal(b":scheme", b"http\r\nx: y")),
    "another scheme": head(M + P + A + literal(b":scheme", b"ftp")),
    "path twice": head(BASE + literal(b":path", b"/smuggled")),
    "method twice": head(BASE + POST),
    "authority twice": head(BASE + A),
    "a pseudo-field after fields": head(M + S + A + literal(b"x", b"y") + P),
    "an unknown pseudo-field": head(BASE + literal(b":x", b"y")),
    "a response's pseudo-field": head(BASE + literal(b":status", b"200")),
    "Transfer-Encoding": head(POST + S + P + A + literal(b"transfer-encoding", b"chunked"), False)
    + body(b"0\r\n\r\n" + INNER),
    "Connection": head(BASE + literal(b"connection", b"x-forwarded-client-cert")),
    "Proxy-Connection": head(BASE + literal(b"proxy-connection", b"keep-alive")),
    "Keep-Alive": head(BASE + literal(b"keep-alive", b"timeout=5")),
    "Upgrade": head(BASE + literal(b"upgrade", b"h2c")),
    "TE": head(BASE + literal(b"te", b"chunked")),
    "a length without a body": head(POST + S + P + A + literal(b"content-length", b"40")),
    "length 0 with a body": head(POST + S + P + A + literal(b"content-length", b"0"), False)
    + body(INNER),
    "two lengths": head(POST + S + P + A + literal(b"content-length", b"0") * 2, False)
    + body(INNER),
    "a list of lengths": head(POST + S + P + A + literal(b"content-length", b"0, 0"), False),
    "a length with a sign": head(POST + S + P + A + literal(b"content-length", b"+0"), False),
    "an empty length": head(POST + S + P + A + literal(b"content-length", b""), False),
    "a length that overflows": head(
        POST + S + P + A + literal(b"content-length", b"18446744073709551616"), False
    ),
    "an expectation": head(BASE + literal(b"expect", b"200-ok")),
}
"""None of them may reach the application."""


def exchange(target: Range, data: bytes, then: bytes = b"") -> bytes:
    """All that a connection answers to ``data``, and after it to a PING."""
    with dial(target.a.address, target.a.proxy) as sock:
        sock.sendall(wire.HELLO + frame(wire.SETTINGS, wire.ACK, 0) + data)
        sock.sendall(frame(wire.PING, 0, 0, b"the last") + then)
        received = b""
        sock.settimeout(10)
        with suppress(ConnectionError):
            while b"the last" not in received and (more := sock.recv(65536)):
                received += more
        return received


def outcome(received: bytes, stream: int = 1) -> set[str]:
    """What became of a stream: "reset", "answered"."""
    found, pos = set(), 0
    while pos + 9 <= len(received):
        kind, of = received[pos + 3], int.from_bytes(received[pos + 5 : pos + 9])
        if of == stream:
            found |= {"reset"} if kind == wire.RST_STREAM else {"answered"}
        pos += 9 + int.from_bytes(received[pos : pos + 3])
    return found


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_reaches_nobody(target: Range, case: str) -> None:
    target.app.forget()
    received = exchange(target, REFUSED[case])
    assert goaway_code(received) is None, "the fault of a stream costs that stream"
    good = Good(target.a.address, target.a.proxy)
    assert good.ask(fields_of(b"/works")) == (200, b"ok")
    good.close()
    seen = target.app.paths()
    assert seen in ([b"/works"], [b"/outer", b"/works"]), seen
    if b"/outer" in seen:
        # Its head was well-formed and its body is not: it went, and was cut off there.
        assert case == "length 0 with a body"
        assert INNER not in target.app.seen[0]


def fields_of(path: bytes, *more: Field, method: bytes = b"GET") -> list[Field]:
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", HOST),
        *more,
    ]


def told(target: Range, *more: Field, body: bytes = b"", trailers: list[Field] = []) -> bytes:  # noqa: B006
    """What the application was sent for a valid request."""
    target.app.forget()
    good = Good(target.a.address, target.a.proxy)
    method = b"POST" if body or trailers else b"GET"
    assert good.ask(fields_of(b"/outer", *more, method=method), body, trailers) == (200, b"ok")
    good.close()
    assert target.app.paths() == [b"/outer"]
    return target.app.seen[0]


def lines(request: bytes, name: bytes) -> list[bytes]:
    found = [line for line in request.split(b"\r\n") if line.lower().startswith(name + b":")]
    return [line.partition(b":")[2].strip() for line in found]


def test_a_body_stays_a_body(target: Range) -> None:
    for fields in ([], [(b"content-length", b"%d" % len(INNER))]):
        seen = told(target, *fields, body=INNER)
        assert INNER in seen
        assert len(lines(seen, b"content-length") + lines(seen, b"transfer-encoding")) == 1


def test_a_body_that_looks_like_chunks(target: Range) -> None:
    data = b"0\r\n\r\n" + INNER
    assert told(target, body=data).endswith(data)


def test_cookie_crumbs_are_one_field(target: Range) -> None:
    seen = told(target, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"))
    assert lines(seen, b"cookie") == [b"a=1; b=2"]


def test_what_only_meshd_says_is_not_taken_from_a_client(target: Range) -> None:
    seen = told(
        target,
        (b"x-baremesh-source", b"lies"),
        (b"x-baremesh-destination", b"lies"),
        (b"x-forwarded-client-cert", b"By=lies"),
        (b"http2-settings", b"AAMAAABkAAQAAP__"),
        (b"proxy-authorization", b"secret"),
    )
    assert b"lies" not in seen and b"secret" not in seen and b"AAMAAAB" not in seen
    assert b"By=spiffe://" in lines(seen, b"x-forwarded-client-cert")[0]


def test_host_beside_the_same_authority_is_one_field(target: Range) -> None:
    assert lines(told(target, (b"host", HOST)), b"host") == [HOST]


def test_the_path_is_made_canonical_once(target: Range) -> None:
    for path in (b"/x/../outer", b"/%6futer", b"/./outer", b"/x\\..\\outer"):
        target.app.forget()
        good = Good(target.a.address, target.a.proxy)
        assert good.ask(fields_of(path))[0] == 200
        good.close()
        assert target.app.paths() == [b"/outer"]


def test_trailers_frame_and_route_nothing(target: Range) -> None:
    trailers = [
        (b"x-sum", b"1"),
        (b"x-request-id", b"other"),
        (b"host", b"other"),
        (b"x-forwarded-client-cert", b"By=lies"),
    ]
    seen = told(target, body=b"abc", trailers=trailers)
    assert seen.endswith(b"abc") and b"lies" not in seen and b"other" not in seen


@pytest.mark.parametrize(
    "fields",
    [
        literal(b":path", b"/smuggled"),
        literal(b"x", b"\r\n\r\n" + INNER),
        literal(b"transfer-encoding", b"chunked"),
        literal(b"content-length", b"0"),
        literal(b"x", b"y") * 21,
    ],
)
def test_trailers_that_are_none_end_their_stream(target: Range, fields: bytes) -> None:
    target.app.forget()
    data = head(POST + S + P + A, False) + body(b"abc", False)
    received = exchange(target, data + frame(wire.HEADERS, wire.WHOLE, 1, fields))
    assert "reset" in outcome(received) and goaway_code(received) is None
    assert target.works()
    assert b"/smuggled" not in target.app.paths()


def test_a_head_that_is_too_large_is_answered_on_its_stream(target: Range) -> None:
    target.app.forget()
    block = BASE + long(b"x", b"y" * 9000) + long(b"z", b"y" * 6900)
    many = BASE + literal(b"x", b"y") * 101
    good = [head(many, stream=1), head(many, stream=3)]
    received = exchange(target, b"".join(good) + head(block, stream=5))
    assert outcome(received, 1) >= {"answered"} and outcome(received, 3) >= {"answered"}
    assert goaway_code(received) is None
    assert target.app.paths() in ([], [b"/outer"])
