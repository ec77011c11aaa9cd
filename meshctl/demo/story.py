"""The walk: what a mesh is for, one step at a time, each judged by what was seen."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from meshctl.demo.caller import Seen, first_failure, fresh_get, many, told, versions
from meshctl.demo.mesh import Mesh
from meshctl.demo.screen import Say, Verdict

CANARY_REQUESTS = 1000
CANARY_PERCENT = (87, 93)
"""Of v1: 90 ± 3, both bounds included.  Chance alone leaves them once in 600 runs, and
then a second thousand is asked: with 2,000 once in 100,000."""
FAIL_PERCENT = 30
KILL_SECONDS = 2.0
KILL_REQUESTS = 50
KILL_LONGEST = 20.0


@dataclass(frozen=True, slots=True)
class Chapter:
    """``why`` is shown before the step runs."""

    title: str
    why: str
    run: Callable[[Mesh, Say], Awaitable[Verdict]]


def _users(number: int) -> str:
    """Anybody but test-user; every third is signed out."""
    return ("", "ann", "bob")[number % 3]


def only(answers: list[Seen], version: str, who: str) -> Verdict:
    """All of ``answers`` came from one version."""
    counts = versions(answers)
    return Verdict(
        bool(answers) and counts == {version: len(answers)},
        f"{len(answers)} requests of {who}: {told(counts)}",
        f"reviews {version} every time{first_failure(answers)}",
    )


def both(first: Verdict, second: Verdict) -> Verdict:
    """A verdict that holds when both do."""
    wanted = "; ".join(v.expected for v in (first, second) if not v.ok)
    return Verdict(first.ok and second.ok, f"{first.seen}; {second.seen}", wanted)


async def everyone_v1(mesh: Mesh, say: Say) -> Verdict:
    await mesh.apply(say, "virtual-service-all-v1.yaml")
    answers = await many(30, lambda n: mesh.caller.reviews(_users(n)))
    return only(answers, "v1", "several users")


async def test_user_v2(mesh: Mesh, say: Say) -> Verdict:
    await mesh.apply(say, "virtual-service-reviews-test-v2.yaml")
    theirs = await many(30, lambda n: mesh.caller.reviews("test-user"))
    others = await many(30, lambda n: mesh.caller.reviews(_users(n)))
    return both(only(theirs, "v2", "test-user"), only(others, "v1", "others"))


def canary_verdict(answers: list[Seen]) -> Verdict:
    """90 ± 3 % to v1, the rest to v3, nothing anywhere else."""
    counts = versions(answers)
    total, (low, high) = len(answers), CANARY_PERCENT
    share = low * total <= 100 * counts["v1"] <= high * total
    fits = share and counts["v1"] + counts["v3"] == total
    return Verdict(
        fits,
        f"{total:,} requests: {told(counts)} ({counts['v1'] / total:.1%} to v1)",
        f"{low} to {high} % to v1 and the rest to v3{first_failure(answers)}",
    )


async def canary(mesh: Mesh, say: Say) -> Verdict:
    await mesh.apply(say, "virtual-service-canary-90-10.yaml")
    answers: list[Seen] = []
    for _ in range(2):
        answers += await many(
            CANARY_REQUESTS,
            lambda n: mesh.caller.reviews(_users(n)),
            lambda done: say(f"{done:,} of {CANARY_REQUESTS:,} requests"),
        )
        if (verdict := canary_verdict(answers)).ok:
            break
    return verdict


def _starless(answers: list[Seen]) -> int:
    """Answers that lack their stars, or that failed altogether."""
    return sum(answer.starless or not answer.ok for answer in answers)


async def retries(mesh: Mesh, say: Say) -> Verdict:
    await mesh.apply(say, "virtual-service-reviews-test-v2.yaml")
    await mesh.fail_ratings(FAIL_PERCENT)
    try:
        # One at a time: ratings fails evenly, so the first repetition then succeeds.
        before = await many(100, lambda n: mesh.caller.reviews("test-user"), at_once=1)
        await mesh.apply(say, "retries.yaml")
        after = await many(200, lambda n: mesh.caller.reviews("test-user"), at_once=1)
    finally:
        await mesh.fail_ratings(0)
    return Verdict(
        0 < _starless(before) < 60 and _starless(after) == 0,
        f"pages without stars: {_starless(before)} of 100 before, {_starless(after)} of 200 after",
        f"about {FAIL_PERCENT} before and none after{first_failure(after)}",
    )


async def strict(mesh: Mesh, say: Say) -> Verdict:
    url = mesh.plaintext_url
    before = await fresh_get(url)
    await mesh.apply(say, "peer-authentication-strict.yaml")
    after = await _until_closed(mesh, url)
    answers = await many(20, lambda n: mesh.caller.reviews(_users(n)))
    plain = Verdict(
        before == 200 and after == 0,
        f"{url} answered {before} under PERMISSIVE, {after or 'refuses the connection'} "
        f"under STRICT",
        "200 before, a refused connection after",
    )
    return both(plain, only(answers, "v1", "others, in the mesh"))


async def _until_closed(mesh: Mesh, url: str) -> int:
    """Status of the plaintext port; asked again for 3 s, as closing follows the rule."""
    with trio.move_on_after(3):
        while await fresh_get(url):
            await trio.sleep(0.1)
        return 0
    return await fresh_get(url)


async def killed_worker(mesh: Mesh, say: Say) -> Verdict:
    """Host b serves reviews v1 and details: every request of others passes through it."""
    before = await mesh.worker_of("b")
    if not before:
        return Verdict(False, "host b reports no worker", "one worker on host b")
    answers: list[Seen] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_kill_later, before)
        with trio.CancelScope() as asking:
            nursery.start_soon(_enough, answers, asking)
            await many(1_000_000, lambda n: _counted(mesh, n, answers), at_once=4)
    after = await mesh.worker_of("b", not_pid=before)
    failed = sum(not answer.ok for answer in answers)
    return Verdict(
        failed == 0 and after not in (0, before) and len(answers) >= KILL_REQUESTS,
        f"worker {before} killed with -9, {after or 'nothing'} took over; "
        f"{failed} of {len(answers)} requests failed",
        f"none of {KILL_REQUESTS} or more failed, and a new worker{first_failure(answers)}",
    )


async def _enough(answers: Sequence[Seen], asking: trio.CancelScope) -> None:
    """Two seconds of requests; on a slow machine as many as show something."""
    await trio.sleep(KILL_SECONDS)
    with trio.move_on_after(KILL_LONGEST):
        while len(answers) < KILL_REQUESTS:
            await trio.sleep(0.05)
    asking.cancel()


async def _kill_later(pid: int) -> None:
    await trio.sleep(KILL_SECONDS / 4)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def _counted(mesh: Mesh, number: int, answers: list[Seen]) -> Seen:
    """A request that the end of the step does not cut off half-way."""
    with trio.CancelScope(shield=True):
        answer = await mesh.caller.reviews(_users(number))
    answers.append(answer)
    await trio.lowlevel.checkpoint_if_cancelled()
    return answer


CHAPTERS = (
    Chapter(
        "Everyone gets reviews v1",
        "Three versions of reviews run. A DestinationRule names them by label, a VirtualService "
        "sends all traffic to one: deploying is no longer releasing.",
        everyone_v1,
    ),
    Chapter(
        "One user gets v2",
        "The rule matches the header end-user. The application only passes that header on; "
        "who goes where is decided by the caller's meshd.",
        test_user_v2,
    ),
    Chapter(
        "A canary",
        "v3 for one request in ten. The share holds however many instances run.",
        canary,
    ),
    Chapter(
        "Retries absorb a failing service",
        f"ratings now fails {FAIL_PERCENT} % of its calls. A rule for it says: ask again on 5xx. "
        "reviews does not change.",
        retries,
    ),
    Chapter(
        "Plaintext, until STRICT",
        "PERMISSIVE lets a service join while old callers still use its plain port. STRICT "
        "closes that port: from here on, only callers with an identity.",
        strict,
    ),
    Chapter(
        "A worker is killed",
        "The agent holds the listening sockets, so connections queue instead of failing while "
        "a new worker starts; callers repeat what was in flight where that is safe.",
        killed_worker,
    ),
)
