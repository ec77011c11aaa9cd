from __future__ import annotations

import json

import trio
import trio.testing

from meshd.agent.httpd import Gate, Reply, Request, Router, json_reply, serve_connection


async def talk(data: bytes) -> bytes:
    """What the server answers to these bytes, then end of input."""
    router = Router()

    async def status(request: Request) -> Reply:
        return json_reply({"query": dict(request.query), "body": request.body.decode()})

    router.add("GET", "/status", status)
    router.add("POST", "/reload", status)

    async def broken(request: Request) -> Reply:
        raise LookupError("a mistake of ours")

    router.add("GET", "/broken", broken)
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
    assert b"/broken, /reload, /status" in await talk(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1.1 405" in await talk(b"DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_garbage_and_floods_end_the_connection() -> None:
    assert await talk(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n") == b""
    big = b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_100_000
    assert await talk(big) == b""


async def test_a_target_that_is_no_url_is_answered_like_any_other() -> None:
    for target in (b"//[", b"http://[::", b"/%", b"?", b"*"):
        answer = await talk(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404 "), target


async def test_our_own_mistake_is_a_500_and_the_connection_goes_on() -> None:
    answer = await talk(
        b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\nGET /status HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 500 ") and b"HTTP/1.1 200 " in answer


def test_a_flood_from_one_address_leaves_room_for_another() -> None:
    gate = Gate(most=5, of_one=3)
    assert [gate.enter("flood") for _ in range(5)] == [True, True, True, False, False]
    assert [gate.enter("scraper") for _ in range(3)] == [True, True, False]
    gate.leave("flood")
    assert gate.enter("scraper")
