"""Requests as people would send them, through the gateway, and what came back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import trio

REVIEWS = "/api/v1/products/1/reviews"
AT_ONCE = 8
"""Requests in flight: enough to keep two cores busy, few enough to keep latency honest."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer: ``version`` "" when nobody of reviews answered.

    ``starless``: reviews came without the stars they should have had.
    """

    status: int
    version: str = ""
    starless: bool = False
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200 and bool(self.version)


def seen(status: int, body: Any) -> Seen:
    """Judge an answer of ``/api/v1/products/1/reviews``."""
    if status != 200 or not isinstance(body, dict):
        why = body.get("error", "") if isinstance(body, dict) else ""
        return Seen(status, why=str(why))
    version = str(body.get("served_by", {}).get("version", ""))
    rows = body.get("reviews", [])
    starless = version in ("v2", "v3") and any("stars" not in row.get("rating", {}) for row in rows)
    return Seen(status, version, starless)


class Caller:
    """A browser's stand-in at ``page``; an async context manager."""

    def __init__(self, page: str) -> None:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(base_url=page, limits=limits, timeout=10, trust_env=False)

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def reviews(self, user: str = "") -> Seen:
        headers = {"end-user": user} if user else {}
        try:
            answer = await self._http.get(REVIEWS, headers=headers)
        except httpx.HTTPError as fault:
            return Seen(0, why=f"{type(fault).__name__}: {fault}")
        return seen(answer.status_code, _json(answer))

    async def post(self, url: str) -> int:
        try:
            return (await self._http.post(url)).status_code
        except httpx.HTTPError:
            return 0

    async def text(self, url: str) -> str:
        """Body of a 200; "" for anything else."""
        try:
            answer = await self._http.get(url)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.status_code == 200 else ""


async def fresh_get(url: str) -> int:
    """Status of any URL over a connection of its own; 0 when nobody answers."""
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        try:
            return (await http.get(url)).status_code
        except httpx.HTTPError:
            return 0


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


async def many(
    count: int,
    one: Callable[[int], Awaitable[Seen]],
    progress: Callable[[int], None] = lambda done: None,
    at_once: int = AT_ONCE,
) -> list[Seen]:
    """``one(i)`` for i in 0 … count-1, ``at_once`` of them in flight; any order."""
    results: list[Seen] = []
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            results.append(await one(number))
            if len(results) % 50 == 0:
                progress(len(results))

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    return results


def versions(answers: list[Seen]) -> Counter[str]:
    """How many answers came from each version; what failed counts as ``failed``."""
    return Counter(answer.version if answer.ok else "failed" for answer in answers)


def told(counts: Counter[str]) -> str:
    """``v1 897, v3 103``."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def first_failure(answers: list[Seen]) -> str:
    """Why the first answer that failed did, for a message; "" when none did."""
    for answer in answers:
        if not answer.ok:
            return f" (first failure: status {answer.status} {answer.why})".rstrip()
    return ""
