"""The admin socket (Unix, for operators on this host) and the metrics port (TCP, for probes)."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from meshd.agent import metrics
from meshd.agent.answers import answer
from meshd.agent.context import Agent
from meshd.agent.httpd import (
    Gate,
    Handler,
    Reply,
    Request,
    Router,
    error_reply,
    json_reply,
    serve_connection,
    text_reply,
)
from meshd.agent.log import Log
from meshd.agent.remedies import cannot_bind
from meshd.agent.reports import missing, status
from meshd.config import Address

PING_WITHIN = 1.0
"""A worker that answers later than this is not one that serves."""
WHAT = ("routes", "clusters", "endpoints", "listeners", "certs")

Reload = Callable[[], Awaitable[str]]
"""Reads the configuration again; returns what is wrong with it, "" when it is in force."""


def admin_router(agent: Agent, reload: Reload) -> Router:
    router = Router()

    async def show_status(request: Request) -> Reply:
        return json_reply(status(agent))

    async def show_config(what: str, request: Request) -> Reply:
        found = partial(answer, what, agent.compiled.snapshot, agent.usable())
        return json_reply(await trio.to_thread.run_sync(found))

    async def do_reload(request: Request) -> Reply:
        fault = await reload()
        if fault:
            return error_reply(422, "config", fault, "mend the file; what ran goes on running")
        return json_reply({"reloaded": True})

    router.add("GET", "/status", show_status)
    for what in WHAT:
        router.add("GET", f"/config/{what}", partial(show_config, what))
    router.add("POST", "/reload", do_reload)
    return router


def probe_router(agent: Agent) -> Router:
    router = Router()

    async def healthy(request: Request) -> Reply:
        return text_reply("ok\n")

    async def ready(request: Request) -> Reply:
        lacking = missing(agent, await agent.pool.ping(PING_WITHIN))
        return text_reply("\n".join(lacking or ["ready"]) + "\n", 503 if lacking else 200)

    async def show_metrics(request: Request) -> Reply:
        body = await trio.to_thread.run_sync(metrics.render, agent)
        return Reply(200, body, "text/plain; version=0.0.4; charset=utf-8")

    router.add("GET", "/healthz", healthy)
    router.add("GET", "/readyz", ready)
    router.add("GET", "/metrics", show_metrics)
    return router


async def open_unix(path: Path, mode: int = 0o660) -> trio.SocketListener:
    """Listen on a Unix socket; an old socket file is replaced."""
    path.unlink(missing_ok=True)
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(path))
    path.chmod(mode)
    sock.listen(64)
    return trio.SocketListener(sock)


async def open_tcp(address: Address) -> trio.SocketListener:
    """Listen on one address; OSError where it cannot be bound."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        why = cannot_bind(address.host, address.port, error)
        raise OSError(error.errno, f"metrics: {why}") from error
    sock.listen(128)
    return trio.SocketListener(sock)


async def serve(listener: trio.SocketListener, handler: Handler, log: Log) -> None:
    """Answer until cancelled; connections beyond the gate are closed."""
    gate = Gate()

    def failed(error: Exception) -> None:
        log.error("admin_request_failed", error=repr(error))

    async def one(stream: trio.SocketStream) -> None:
        source = _source(stream)
        if not gate.enter(source):
            await trio.aclose_forcefully(stream)
            return
        try:
            await serve_connection(stream, handler, failed)
        finally:
            gate.leave(source)

    await trio.serve_listeners(one, [listener])


def _source(stream: trio.SocketStream) -> str:
    """The peer's address; "" on a Unix socket."""
    try:
        peer = stream.socket.getpeername()
    except OSError:
        return "gone"
    return str(peer[0]) if isinstance(peer, tuple) else ""
