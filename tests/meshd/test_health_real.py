from __future__ import annotations

import pytest
import trio

from meshd.health import probe
from meshkit.model.resources import Health

ANSWERS = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": True,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n": True,
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n": False,
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n": False,
    b"SSH-2.0-OpenSSH\r\n": False,
    b"": False,
}


@pytest.mark.parametrize(("answer", "healthy"), ANSWERS.items())
async def test_http_2xx_is_healthy(answer: bytes, healthy: bool) -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some(4096))
        if answer:
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        assert await probe("127.0.0.1", Health("/health", port)) is healthy
        assert heads[0].startswith(b"GET /health HTTP/1.1\r\n")
        nursery.cancel_scope.cancel()


async def test_a_silent_application_is_unhealthy_after_the_timeout() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, lambda stream: trio.sleep_forever(), 0)
        port = listeners[0].socket.getsockname()[1]
        assert not await probe("127.0.0.1", Health("/", port, timeout=0.1))
        assert await probe("127.0.0.1", Health(None, port))
        nursery.cancel_scope.cancel()


async def test_nobody_listening_is_unhealthy() -> None:
    assert not await probe("127.0.0.1", Health(None, 1))
