"""Answers that a sick Consul gives, over real sockets: held, said, and not asked in a loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshd.discovery.consul import ConsulDiscovery
from meshd.discovery.local import HostAddress
from meshkit.names import ServiceName

WEB = ServiceName("default", "web")
ENTRY = {
    "Node": {"Node": "n1", "Address": "10.0.0.9"},
    "Service": {"ID": "web-1", "Service": "web", "Port": 80},
    "Checks": [],
}


def reply(body: str, status: str = "200 OK", index: str = "5", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nX-Consul-Index: {index}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{extra}\r\n{body}".encode()


GOOD = reply(json.dumps([ENTRY]))
LEADERLESS = "X-Consul-KnownLeader: false\r\n"
"""In a refusal it means nothing: Consul has not asked for its leader by then."""
SICK = {
    "403": reply("Permission denied", "403 Forbidden", extra=LEADERLESS),
    "429": reply("slow down", "429 Too Many Requests"),
    "500": reply("rpc error", "500 Internal Server Error", extra=LEADERLESS),
    "truncated": GOOD[:-20],
    "not JSON": reply("<html>"),
    "another shape": reply('{"a": 1}'),
    "null": reply("null"),
    "no index": GOOD.replace(b"X-Consul-Index: 5\r\n", b""),
    "a bad index": GOOD.replace(b"Index: 5", b"Index: x"),
    "no leader": reply("[]", extra=LEADERLESS),
    "filtered": reply("[]", extra="X-Consul-Results-Filtered-By-ACLs: true\r\n"),
    "not HTTP": b"hello\r\n\r\n",
    "nothing": b"",
}
TOLD = {"403": "ACLPermissionDenied", "500": "rpc error", "no leader": "no leader"}
"""Words of the one line that an operator reads."""


class Server:
    """Answers every health query with ``answer``; blocks when asked to wait beyond index 5."""

    def __init__(self) -> None:
        self.answer = GOOD
        self.asked = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            if b"/v1/agent/" in head:
                await stream.send_all(reply("{}", extra="Connection: close\r\n"))
                return
            self.asked += 1
            while self.answer == GOOD and b"index=5" in head:
                await trio.sleep(0.02)
            await stream.send_all(self.answer)


@asynccontextmanager
async def sick_consul() -> AsyncIterator[tuple[Server, ConsulDiscovery]]:
    server = Server()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        consul = ConsulDiscovery(f"127.0.0.1:{port}", HostAddress("vm1", "10.0.0.1", 15443))
        consul.watch([WEB])
        nursery.start_soon(consul.run)
        yield server, consul
        nursery.cancel_scope.cancel()


async def suffer(kind: str) -> None:
    async with sick_consul() as (server, consul):
        while WEB not in consul.view().instances:
            await consul.changed()
        server.answer, server.asked = SICK[kind], 0
        while not consul.view().held:
            await consul.changed()
        view = consul.view()
        assert WEB in view.instances, kind
        assert not view.connected, kind
        assert view.error and TOLD.get(kind, "") in view.error, kind
        await trio.sleep(0.5)
        assert server.asked <= 4, kind
        server.answer = GOOD
        while consul.view().held or not consul.view().connected:
            await consul.changed()
        assert WEB in consul.view().instances, kind


async def test_sick_answers_are_held_said_and_recovered_from() -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for kind in SICK:
                nursery.start_soon(suffer, kind)
