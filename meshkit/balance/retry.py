"""Whether a failed try may be repeated, and after what pause.

Two rules decide, in this order.

1. The route's policy (istio-semantics 1.3): the outcome belongs to a class that
   ``retryOn`` names, and tries are left.  The operator asked for it, so it holds
   for every method.
2. The safety rule (limits-and-faults 1): a *reused* connection that died before
   a byte of the answer came back is a race between our request and the peer's
   idle timeout.  One repetition, whatever the policy says, but only for methods
   that may run twice, or with an Idempotency-Key, or where the peer provably
   did nothing.

Once a byte of the answer has come neither applies.  A status is one that the
upstream sent: a reply made by this proxy (503 UH, 404 NR) is not an outcome and
never repeated.

Outcomes are words, because they also label logs:

==================== ========================================================
connect-failure      no connection, or the TLS handshake failed
tls-alert            the peer refused our certificate before any byte (TLS 1.3
                     says so after the handshake): a connect failure
secure-naming        the peer may not serve this service; nothing was sent
refused-stream       the peer says that it did nothing (REFUSED_STREAM, GOAWAY)
unsent               the connection died before a byte of the request was taken
reused-reset         died before a byte of the answer, on a reused connection or
                     between two meshd (which answer always, or were killed)
reset                the same on a new connection
reset-after-bytes    died within the answer
per-try-timeout      perTryTimeout ran out
status-N             the upstream answered N
grpc-<word>          a gRPC answer without a message, and this status
anything else        timeout, no-credentials, protocol-error: never repeated
==================== ========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from meshkit.snapshot.types import RetryPolicy

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""Methods that limits-and-faults 1 lets run twice; TRACE is refused anyway."""

MAX_BACKOFF = 10
"""In multiples of the base, as in Envoy."""

_CONNECT = frozenset(("connect-failure", "tls-alert", "secure-naming"))
_NO_ANSWER = frozenset((*_CONNECT, "refused-stream", "unsent", "reused-reset", "reset"))
_NO_ANSWER_IN_TIME = _NO_ANSWER | {"per-try-timeout"}
_NOTHING_DONE = frozenset((*_CONNECT, "refused-stream", "unsent"))
_GATEWAY_ERRORS = frozenset(("status-502", "status-503", "status-504"))
_RETRIABLE_4XX = frozenset(("status-409",))

_CLASSES: dict[str, frozenset[str]] = {
    "5xx": _NO_ANSWER_IN_TIME,
    "gateway-error": _NO_ANSWER_IN_TIME | _GATEWAY_ERRORS,
    "reset": _NO_ANSWER_IN_TIME,
    "reset-before-request": _NOTHING_DONE,
    "connect-failure": _CONNECT,
    "refused-stream": frozenset(("refused-stream",)),
    "retriable-4xx": _RETRIABLE_4XX,
    "cancelled": frozenset(("grpc-cancelled",)),
    "deadline-exceeded": frozenset(("grpc-deadline-exceeded",)),
    "internal": frozenset(("grpc-internal",)),
    "resource-exhausted": frozenset(("grpc-resource-exhausted",)),
    "unavailable": frozenset(("grpc-unavailable",)),
}
"""retryOn word → outcomes.  ``5xx`` also takes every status from 500 on; an integer
takes that status.  gRPC words name statuses of gRPC answers that have no message."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``why`` names the word or rule that decided, for logs and tests.

    ``pause``: wait for `backoff` first; the safety rule's repetition needs none.
    """

    retry: bool
    why: str
    pause: bool = True


_SAFE = Verdict(True, "safety-rule", pause=False)
_UNSAFE = Verdict(False, "not-idempotent")
EXHAUSTED = "no-attempts-left"
_EXHAUSTED = Verdict(False, EXHAUSTED)
_NOT_LISTED = Verdict(False, "not-in-retry-on")


def may_retry(
    policy: RetryPolicy, method: bytes, idempotency_key: bool, attempt: int, outcome: str
) -> Verdict:
    """The verdict on a failed try; exactly one for every input.

    ``attempt``: tries made so far, this one included (1 after the first).  The
    caller asks only while it can still send the whole request again.
    """
    word = next((word for word in policy.retry_on if _covers(word, outcome)), "")
    if word and attempt <= policy.attempts:
        return Verdict(True, word)
    if outcome == "reused-reset" and attempt == 1:
        return _SAFE if idempotency_key or method in IDEMPOTENT else _UNSAFE
    return _EXHAUSTED if word else _NOT_LISTED


def _covers(word: str, outcome: str) -> bool:
    if outcome in _CLASSES.get(word, ()):
        return True
    if word == "5xx":
        return outcome.startswith("status-5")
    return word.isdigit() and outcome == f"status-{word}"


def backoff(random: Random, attempt: int, base: float) -> float:
    """Seconds before retry ``attempt`` (1 for the first): full jitter as in Envoy.

    Uniform in [0, (2 ** attempt - 1) * base), at most `MAX_BACKOFF` times the base.
    """
    return random.random() * base * min(2.0 ** min(attempt, MAX_BACKOFF) - 1, MAX_BACKOFF)
