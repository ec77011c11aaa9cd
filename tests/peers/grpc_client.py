"""What the grpcio client does in each scenario; `node/grpc.js` does the same.

Each scenario is a function of an address and its arguments and returns a JSON
document, so that one list of expectations (`test_grpc_real.py`) judges both.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from tests.peers.grpc_service import LIMITS, SERVICE

PATIENCE = 30.0
"""Seconds that a call may take on a busy machine."""
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, which :authority to send, and the PEM roots to trust (TLS)."""

    address: str
    authority: str = ""
    roots: str = ""


@contextmanager
def channel(target: Target, *extra: tuple[str, Any]) -> Iterator[grpc.Channel]:
    options = [
        *LIMITS,
        *extra,
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if target.authority:
        options.append(("grpc.default_authority", target.authority))
    if target.roots:
        options.append(("grpc.ssl_target_name_override", target.authority))
        trusted = grpc.ssl_channel_credentials(target.roots.encode())
        opened = grpc.secure_channel(target.address, trusted, options)
    else:
        opened = grpc.insecure_channel(target.address, options)
    with opened:
        yield opened


def method(name: str) -> str:
    return f"/{SERVICE}/{name}"


def pairs(metadata: Any) -> Document:
    """Metadata as text; binary values as hexadecimal digits."""
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in metadata or ()}


def unary(target: Target, size: int) -> Document:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    asked = (("x-ask", "a value; with, signs"), ("x-ask-bin", bytes(range(32))))
    with channel(target) as opened:
        call = opened.unary_unary(method("Unary")).with_call
        answer, done = call(body, metadata=asked, timeout=PATIENCE)
        return {
            "same": answer == body,
            "said": pairs(done.initial_metadata()).get("x-said"),
            "trailers": pairs(done.trailing_metadata()),
        }


def server_stream(target: Target, messages: int, size: int) -> Document:
    with channel(target) as opened:
        call = opened.unary_stream(method("Count"))
        got = list(call(b"%d %d" % (messages, size), timeout=PATIENCE))
    good = [message == bytes((i % 256,)) * size for i, message in enumerate(got)]
    return {"messages": len(got), "good": all(good)}


def client_stream(target: Target, messages: int, size: int) -> Document:
    with channel(target) as opened:
        call = opened.stream_unary(method("Sum"))
        answer = call((b"m" * size for _ in range(messages)), timeout=PATIENCE)
    return {"answer": answer.decode()}


def ping_pong(target: Target, rounds: int) -> Document:
    """Each message leaves only when the one before has come back."""
    with channel(target) as opened, conversation(opened) as (say, answers):
        good = 0
        for i in range(rounds):
            say(b"ping %d" % i)
            good += next(answers) == b"ping %d" % i
    return {"good": good}


@contextmanager
def conversation(
    opened: grpc.Channel,
) -> Iterator[tuple[Callable[[bytes], None], Iterator[bytes]]]:
    """A Chat: how to say something, and what comes back.  Ends with a half-close."""
    said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = opened.stream_stream(method("Chat"))(iter(said.get, None), timeout=PATIENCE)
    yield said.put, answers
    said.put(None)
    assert next(answers, None) is None, "nothing after the half-close"


def interleaved(target: Target, streams: int, messages: int) -> Document:
    """Several bidirectional streams on one connection; all is said before any is read."""
    with channel(target) as opened:
        call = opened.stream_stream(method("Chat"))
        said = [[b"%d %d" % (s, i) * 50 for i in range(messages)] for s in range(streams)]
        running = [call(iter(one), timeout=PATIENCE) for one in said]
        heard = [list(one) for one in running]
    return {"good": sum(a == b for a, b in zip(said, heard, strict=True))}


def fail(target: Target, after: int, code: int, details: str) -> Document:
    with channel(target) as opened:
        plan = {"after": after, "code": code, "details": details}
        call = opened.unary_stream(method("Fail"))(json.dumps(plan).encode(), timeout=PATIENCE)
        got = 0
        try:
            for _ in call:
                got += 1
        except grpc.RpcError:
            pass
        return {
            "messages": got,
            "code": call.code().value[0],
            "details": call.details(),
            "why": pairs(call.trailing_metadata()).get("x-why"),
        }


def deadline(target: Target, mark: str, seconds: float) -> Document:
    with channel(target) as opened:
        try:
            opened.unary_unary(method("Wait"))(mark.encode(), timeout=seconds)
        except grpc.RpcError as error:
            return {"code": error.code().value[0]}
    return {"code": 0}


def seen(target: Target, mark: str) -> Document:
    with channel(target) as opened:
        answer = opened.unary_unary(method("Seen"))(mark.encode(), timeout=PATIENCE)
    return {"seen": answer.decode()}


def cancel(target: Target, mark: str) -> Document:
    """Cancels a call once the server says that it has begun."""
    with channel(target) as opened:
        call = opened.unary_unary(method("Wait")).future(mark.encode(), timeout=PATIENCE)
        look = opened.unary_unary(method("Seen"))
        while look(mark.encode(), timeout=PATIENCE) != b"started":
            pass
        call.cancel()
        return {"code": call.code().value[0]}


def leave(target: Target, size: int) -> Document:
    """Goes away in the middle of a server stream that has far more to send."""
    with channel(target) as opened:
        call = opened.unary_stream(method("Count"))(b"1000 %d" % size, timeout=PATIENCE)
        got = len(next(call))
        call.cancel()
        after = opened.unary_unary(method("Unary"))(b"next", timeout=PATIENCE)
    return {"got": got, "next": after.decode()}


def many(target: Target, channels: int) -> Document:
    """Channels, each with a connection of its own, all open at once."""

    def one(i: int) -> bool:
        with channel(target) as opened:
            calls = opened.unary_unary(method("Unary"))
            return all(calls(b"%d" % i, timeout=PATIENCE) == b"%d" % i for _ in range(3))

    with ThreadPoolExecutor(channels) as pool:
        return {"good": sum(pool.map(one, range(channels)))}


def keepalive(target: Target, seconds: float) -> Document:
    """A quiet stream under keepalive pings, unanswered ones of which end the connection."""
    options = (
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.http2.max_pings_without_data", 0),
    )
    with channel(target, *options) as opened, conversation(opened) as (say, answers):
        say(b"before")
        before = next(answers)
        quiet(seconds)
        say(b"after")
        return {"before": before.decode(), "after": next(answers).decode()}


def quiet(seconds: float) -> None:
    """Time without traffic is what is tested here: nothing can be awaited instead."""
    queue_of_nothing: queue.SimpleQueue[None] = queue.SimpleQueue()
    try:
        queue_of_nothing.get(timeout=seconds)
    except queue.Empty:
        pass


SCENARIOS: dict[str, Callable[..., Document]] = {
    function.__name__: function
    for function in (
        unary, server_stream, client_stream, ping_pong, interleaved, fail, deadline, seen,
        cancel, leave, many, keepalive,
    )
}  # fmt: skip
