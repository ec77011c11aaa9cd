"""The gRPC service of the peer tests, in grpcio; `node/grpc.js` is the same in node.

``/peers.Echo/``, bytes in and out, so that nothing needs a protobuf compiler:

- Unary: the request again; initial metadata ``x-said`` = the caller's ``x-ask``,
  trailers ``x-last`` and ``x-last-bin`` (the caller's ``x-ask-bin``)
- Count (server streaming): ``<n> <size>`` → n messages of that size, first byte i mod 256
- Sum (client streaming): ``<messages> <bytes>``
- Chat (bidirectional): each message again, at once
- Fail (server streaming): JSON {after, code, details} → messages, then that status
- Wait: never answers; notes under the request's bytes what became of the call
- Seen: what Wait noted: ``started``, ``cancelled`` or nothing
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import grpc

SERVICE = "peers.Echo"
LIMITS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
)
WAIT = 60.0
"""Seconds after which a call that nobody cancelled is given up."""


class GrpcioServer:
    """A grpcio server on a loopback port, in cleartext."""

    def __init__(self) -> None:
        self.noted: dict[bytes, bytes] = {}
        self._pool = ThreadPoolExecutor(80)
        # No strikes: else a server without the mesh in front refuses frequent keepalives.
        options = (*LIMITS, ("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0))
        self._server = grpc.server(self._pool, options=options)
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _handlers(self) -> grpc.GenericRpcHandler:
        methods = {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Sum": grpc.stream_unary_rpc_method_handler(total),
            "Chat": grpc.stream_stream_rpc_method_handler(chat),
            "Fail": grpc.unary_stream_rpc_method_handler(fail),
            "Wait": grpc.unary_unary_rpc_method_handler(self._wait),
            "Seen": grpc.unary_unary_rpc_method_handler(self._seen),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        ended = Event()
        self.noted[request] = b"started"

        def note() -> None:
            self.noted[request] = b"cancelled"
            ended.set()

        if not context.add_callback(note):
            note()
        ended.wait(WAIT)
        return b""

    def _seen(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return self.noted.get(request, b"")

    def close(self) -> None:
        self._server.stop(grace=0)
        self._pool.shutdown(wait=False)


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    asked = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-said", asked.get("x-ask", "")),))
    context.set_trailing_metadata(
        (
            ("x-last", "trailer"),
            ("x-last-bin", asked.get("x-ask-bin", b"")),
        )
    )
    return request


def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    messages, size = map(int, request.split())
    for i in range(messages):
        yield bytes((i % 256,)) * size


def total(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    sizes = [len(request) for request in requests]
    return b"%d %d" % (len(sizes), sum(sizes))


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


CODES = {code.value[0]: code for code in grpc.StatusCode}


def fail(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    plan = json.loads(request)
    for i in range(plan["after"]):
        yield b"%d" % i
    context.set_trailing_metadata((("x-why", "as planned"),))
    context.abort(CODES[plan["code"]], plan["details"])
