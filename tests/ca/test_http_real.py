"""The server against clients that do not behave: limits, malformed calls, slow peers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from ca import http, tls
from meshkit.identity import spiffe


class Raw:
    """A TLS connection as an operator, without an HTTP client's good manners."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of one answer with a Content-Length."""
        data = b""
        with trio.fail_after(20):
            while b"\r\n\r\n" not in data:
                data += await self._some()
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += await self._some()
        return int(head.split()[1]), json.loads(body)

    async def _some(self) -> bytes:
        data = bytes(await self.stream.receive_some())
        assert data, "closed without an answer"
        return data

    async def ended(self) -> bool:
        """Whether the server closes within five seconds."""
        with trio.move_on_after(5):
            try:
                while await self.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
            return True
        return False


async def connect(control: Any) -> Raw:
    chain, key = control.certified(spiffe.operator_id("td", "admin"))
    context = tls.client_context(control.authority.root_pem)
    tls.load_pair(context, key, chain)
    host, port = control.address.split(":")
    tcp = await trio.open_tcp_stream(host, int(port))
    stream = trio.SSLStream(tcp, context, https_compatible=True)
    await stream.do_handshake()
    return Raw(stream)


GET = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n"


def post(path: str, body: bytes, extra: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


async def test_calls_follow_each_other_on_one_connection(control: Any) -> None:
    raw = await connect(control)
    for _ in range(3):
        await raw.send(GET)
        assert (await raw.answer())[0] == 200


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no_such_call"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no_such_call"),
        (b"PUT /v1/apply HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method"),
        (b"GET /v1/whoami HTTP/1.1\r\n\r\n", 400, "malformed_http"),
        (b"nonsense\r\n\r\n", 400, "malformed_http"),
        (b"GET /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400, "malformed_http"),
        (b"GET /v1/x HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000, 431, "malformed_http"),
        (post("/v1/apply", b"{"), 400, "invalid_request"),
        (post("/v1/apply", b"[" * 100_000), 400, "invalid_request"),
        (post("/v1/apply", b"\xff\xfe{"), 400, "invalid_request"),
        (post("/v1/apply", b"[]"), 400, "invalid_request"),
        (post("/v1/apply", b'{"documents": 1}'), 400, "invalid_request"),
        (post("/v1/apply", b'{"documents": [{"text": 1}]}'), 400, "invalid_request"),
        (post("/v1/apply", b'{"documents": []}'), 422, "empty"),
        (post("/v1/tokens", b'{"host": "a", "ttl": 1e9}'), 400, "invalid_request"),
        (post("/v1/tokens", b'{"host": "a", "ttl": NaN}'), 400, "invalid_request"),
        (post("/v1/tokens", b'{"host": "a", "ttl": true}'), 400, "invalid_request"),
    ],
)  # fmt: skip
async def test_malformed_calls_are_answered_and_the_server_lives(
    control: Any, data: bytes, status: int, code: str
) -> None:
    raw = await connect(control)
    await raw.send(data)
    got, body = await raw.answer()
    assert (got, body["error"]["code"]) == (status, code)
    assert body["error"]["message"] and body["error"]["remedy"]
    again = await connect(control)
    await again.send(GET)
    assert (await again.answer())[0] == 200


async def test_a_body_over_the_limit_is_refused(control: Any) -> None:
    raw = await connect(control)
    head = b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
    await raw.send(head + b" " * (http.MAX_BODY + 1))
    status, body = await raw.answer()
    assert (status, body["error"]["code"]) == (413, "body_too_large")
    assert await raw.ended()


async def test_a_body_just_under_the_limit_is_read(control: Any) -> None:
    raw = await connect(control)
    await raw.send(post("/v1/apply", b'{"documents": []}' + b" " * (http.MAX_BODY - 17)))
    assert (await raw.answer())[0] == 422


async def test_expect_continue_is_answered(control: Any) -> None:
    raw = await connect(control)
    body = b'{"documents": []}'
    head, _, _ = post("/v1/apply", body, b"Expect: 100-continue\r\n").partition(body)
    await raw.send(head)
    with trio.fail_after(20):
        assert (await raw.stream.receive_some()).startswith(b"HTTP/1.1 100")
    await raw.send(body)
    assert (await raw.answer())[0] == 422


@pytest.mark.parametrize(
    ("limit", "data"),
    [
        ("IDLE_TIMEOUT", b""),
        ("HEAD_TIMEOUT", b"GET /v1/who"),
        ("BODY_TIMEOUT", b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"),
    ],
)
async def test_slow_peers_are_let_go(
    control: Any, monkeypatch: pytest.MonkeyPatch, limit: str, data: bytes
) -> None:
    monkeypatch.setattr(http, limit, 0.1)
    raw = await connect(control)
    await raw.send(data or b"")
    assert await raw.ended()
    assert control.server.gate.connections in (0, 1)


async def test_silent_handshakes_end(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HANDSHAKE_TIMEOUT", 0.1)
    host, port = control.address.split(":")
    tcp = await trio.open_tcp_stream(host, int(port))
    with trio.fail_after(20):
        assert await tcp.receive_some() == b""
    assert control.events("handshake_refused")[0]["reason"] == "handshake_timeout"


async def test_the_number_of_connections_is_bounded(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = await connect(control)
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    with pytest.raises((trio.BrokenResourceError, OSError)):
        await connect(control)
    assert control.events("connection_limit")
    await raw.send(GET)
    assert (await raw.answer())[0] == 200


async def test_a_reader_that_stops_is_let_go(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_TIMEOUT", 0.2)
    raw = await connect(control)
    await raw.send(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    with trio.fail_after(20):
        while not control.plane.hub.sessions:
            await trio.sleep(0.01)
        (session,) = control.plane.hub.sessions
        while control.plane.hub.sessions:
            session.queries.append({"type": "query", "pad": "x" * 1_000_000})
            session.bell.ring()
            await trio.sleep(0.01)


async def test_a_client_that_goes_away_ends_its_stream(control: Any) -> None:
    raw = await connect(control)
    await raw.send(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    with trio.fail_after(20):
        while not control.plane.hub.sessions:
            await trio.sleep(0.01)
        await trio.aclose_forcefully(raw.stream)
        while control.plane.hub.sessions or control.server.gate.connections:
            await trio.sleep(0.01)


async def test_our_own_failure_is_a_500_and_logged(
    control: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(control.plane.store, "resources", fail)
    raw = await connect(control)
    await raw.send(b"GET /v1/resources HTTP/1.1\r\nHost: x\r\n\r\n")
    status, body = await raw.answer()
    assert (status, body["error"]["code"]) == (500, "internal")
    assert "disk" not in str(body)
    (logged,) = control.events("call_failed")
    assert "the disk is gone" in logged["error"]


@pytest.mark.parametrize("target", ["//[", "http://[::", "*", "?", "/v1/%ff%00/../x"])
async def test_a_target_that_is_no_url_is_answered(control: Any, target: str) -> None:
    raw = await connect(control)
    await raw.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await raw.answer())[1]["error"]["code"] == "no_such_call"


@pytest.mark.parametrize("body", [b'{"host": "\\ud800"}', b'{"host": "\xed\xa0\x80"}', b"\xff"])
async def test_what_is_no_text_gets_no_further(control: Any, body: bytes) -> None:
    raw = await connect(control)
    await raw.send(post("/v1/tokens", body))
    assert (await raw.answer())[0] == 400
