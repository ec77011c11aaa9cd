"""Framing tricks through every hop: application, outbound, mTLS, inbound, application.

A request is smuggled when the victim's application sees one more than the mesh
judged; an answer is split when a client gets one that was not for its request.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from tests.attack.conftest import PORT, Range
from tests.attack.raw import OK, statuses

HOST = f"Host: victim:{PORT}\r\n".encode()
INNER = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
LENGTHS = [
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length:\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length\t: 5\r\n",
    b"Content_Length: 5\r\n",
    b" Content-Length: 5\r\n",
    b"X: y\r\n Content-Length: 5\r\n",
    b"X: y\nContent-Length: 5\r\n",
    b"X: y\rContent-Length: 5\r\n",
    b"X: y\0\r\nContent-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: \xb2\r\n",
]
CODINGS = [
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: Chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: identity, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b'Transfer-Encoding: "chunked"\r\n',
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"TRANSFER-ENCODING: chunked\r\n",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
    b"Connection: Content-Length\r\nContent-Length: 5\r\n",
]
BODIES = [b"0\r\n\r\n" + INNER, b"5\r\n" + INNER, b"5;x=\n\r\n" + INNER, INNER]
CHUNKS = [
    b"0\r\n\r\nX",
    b"0x0\r\n\r\n",
    b"00000000000000000\r\n\r\n",
    b"-1\r\n\r\n",
    b"2\nok\n0\n\n",
    b"2\r\nokX0\r\n\r\n",
    b"2\r\nok0\r\n\r\n",
    b"2;\r\rx\r\nok\r\n0\r\n\r\n",
    b" 2\r\nok\r\n0\r\n\r\n",
    b"2 \r\nok\r\n0\r\n\r\n",
    b"2\r\nok\r\n0\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\nHost: evil\r\n\r\n",
    b"ffffffffffffffff\r\nok",
    b"2\r\nok\r\n0\r\n\r\n" + INNER[:-2],
]


def request(*fields: bytes, method: bytes = b"POST", path: bytes = b"/outer") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, path, HOST, b"".join(fields))


def judged(answer: bytes) -> int:
    """How many requests of this connection the mesh took for good."""
    return sum(status < 400 for status in statuses(answer))


def attempts() -> list[bytes]:
    """Every pair of framing fields in both orders, each with every body."""
    pairs = list(permutations([*LENGTHS[:10], *CODINGS], 2))
    heads = [request(*pair) for pair in pairs] + [request(one) for one in (*LENGTHS, *CODINGS)]
    heads += [request(b"Transfer-Encoding: chunked\r\n") for _ in CHUNKS]
    return [head + body for head in heads for body in BODIES[:2]] + [
        request(b"Transfer-Encoding: chunked\r\n") + chunks for chunks in CHUNKS
    ]


def test_the_application_sees_no_request_that_the_mesh_did_not_judge(target: Range) -> None:
    target.app.forget()
    tried = attempts()
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda data: target.say(data), tried))
    taken = sum(map(judged, answers))
    seen = target.app.paths()
    # An inner request that the mesh judged as the second one of the connection is no smuggling.
    print(f"{len(tried)} attempts, {taken} requests judged good, {len(seen)} seen")
    assert len(seen) <= taken + sum(not answer for answer in answers)
    for answer, data in zip(answers, tried, strict=True):
        head = data.lower().partition(b"\r\n\r\n")[0]
        if b"content-length:" in head and b"transfer-encoding:" in head:
            assert judged(answer) == 0, data
    for raw in target.app.seen:
        head = raw.partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"content-length:") + head.count(b"transfer-encoding:") <= 1
        assert b"\nhost: evil" not in raw
    assert target.works()


def test_pipelined_requests_get_their_own_answers_in_order(target: Range) -> None:
    for n in range(8):
        body = b"%d" % n * 3
        target.app.answers[b"/p%d" % n] = (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + body,)
    data = b"".join(
        request(b"Content-Length: %d\r\n" % len(INNER), path=b"/p%d" % n) + INNER for n in range(8)
    )
    target.app.forget()
    answer = target.say(data, want=8)
    assert statuses(answer) == [200] * 8
    assert [part[-3:] for part in answer.split(b"HTTP/1.1 ")[1:]] == [
        b"%d" % n * 3 for n in range(8)
    ]
    assert b"/smuggled" not in target.app.paths(), "bodies are bodies"


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstole"
SURPLUS = {
    "after a length": (OK + EVIL,),
    "after a length, later": (OK, 0.005, EVIL),
    "after a length, much later": (OK, 0.05, EVIL),
    "after chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        0.003,
        EVIL,
    ),
    "after 204": (b"HTTP/1.1 204 No Content\r\n\r\n", EVIL),
    "after 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n", EVIL),
    "after an early answer": (b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", EVIL),
}


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("kind", SURPLUS)
def test_what_follows_an_answer_is_never_the_next_ones(
    target: Range, kind: str, method: bytes
) -> None:
    """Good requests beside an application that says too much.

    Bytes that come with the answer give the connection away at once, so those requests run
    at the same time.  Late ones do while it is idle; had they come after the next request was
    sent, nothing in HTTP/1.1 could tell them from its answer (docs/security.md).
    """
    target.app.answers[b"/surplus"] = SURPLUS[kind]

    def evil(_: int) -> None:
        body = b"Content-Length: 3\r\n" if method == b"POST" else b""
        data = request(body, method=method, path=b"/surplus") + (b"abc" if body else b"")
        target.say(data * 3, seconds=0.2)

    with ThreadPoolExecutor(12) as threads:
        late = len(SURPLUS[kind]) > 1
        if late:
            list(threads.map(evil, range(12)))
            time.sleep(0.3)
        good = threads.map(lambda _: target.get("/good"), range(60))
        if not late:
            list(threads.map(evil, range(12)))
        answers = list(good)
    assert not [a for a in answers if b"stole" in a]
    assert all(a.endswith(b"\r\n\r\nok") for a in answers)


def test_a_late_body_after_head_answers_nobody(target: Range) -> None:
    """The next request comes before that body does: waiting bytes cannot give it away."""
    target.app.answers[b"/late"] = (b"HTTP/1.1 200 OK\r\nContent-Length: 52\r\n\r\n", 0.05, EVIL)
    for _ in range(5):
        both = request(method=b"HEAD", path=b"/late") + request(method=b"GET", path=b"/good")
        answer = target.say(both, seconds=0.3, want=2)
        assert b"stole" not in answer
        assert statuses(answer) == [200, 200]


SPLIT = [
    b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 204 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + OK,
    b"HTTP/1.1 103 Hints\r\nX: " + b"a" * 70_000 + b"\r\n\r\n" + OK,
    b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"ICY 200 OK\r\n\r\nok",
    b"HTTP/1.1 000 OK\r\n\r\n",
    b"\r\n" * 100,
    b"\x16\x03\x01\x02\x00" * 50,
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
]


@pytest.mark.parametrize("answer", SPLIT, ids=lambda a: repr(a[:60]))
def test_an_answer_that_can_be_read_in_two_ways_is_a_502(target: Range, answer: bytes) -> None:
    target.app.answers[b"/split"] = (answer, b"")
    got = target.get("/split")
    final = [status for status in statuses(got) if status >= 200]
    assert final in ([502], [503]), got[:300]
    assert b"set-cookie" not in got.lower()
    assert target.works()


def test_an_early_answer_with_an_unread_body(target: Range) -> None:
    """What is left of the body is neither a request nor in anybody's way."""
    target.app.forget()
    big = INNER * 4000
    for path, pieces in {
        b"/early": (OK, b""),
        b"/refused": (b"HTTP/1.1 413 No\r\n\r\n", b""),
    }.items():
        target.app.answers[path] = pieces
        got = target.say(request(b"Content-Length: %d\r\n" % len(big), path=path) + big)
        assert len(statuses(got)) <= 1
    got = target.say(request(b"Content-Length: %d\r\n" % len(big), path=b"/x", method=b"GET") + big)
    assert statuses(got) in ([200], [])
    assert b"/smuggled" not in target.app.paths()
    assert target.works()
