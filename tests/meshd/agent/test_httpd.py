from __future__ import annotations

import json

import trio
import trio.testing

from meshd.agent.httpd import Reply, Request, Router, json_reply, serve_connection


async def talk(data: bytes) -> bytes:
    """What the server answers to these bytes, then end of input."""
    router = Router()

    async def status(request: Request) -> Reply:
        return json_reply({"query": dict(request.query), "body": request.body.decode()})

    router.add("GET", "/status", status)
    router.add("POST", "/reload", status)
    client, server = trio.testing.memory_stream_pair()
    answer = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, server, router)
        await client.send_all(data)
        await client.send_eof()
        async for part in client:
            answer += part
    return answer


async def test_a_get_is_answered_with_json() -> None:
    answer = await talk(b"GET /status?a=1&b= HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == {"query": {"a": "1", "b": ""}, "body": ""}


async def test_pipelined_requests_and_a_body() -> None:
    answer = await talk(
        b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        b"HEAD /status HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert b'"body": "abc"' in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_unknown_path_and_method_say_what_there_is() -> None:
    assert b"/reload, /status" in await talk(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1.1 405" in await talk(b"DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_garbage_and_floods_end_the_connection() -> None:
    assert await talk(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n") == b""
    big = b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_100_000
    assert await talk(big) == b""
