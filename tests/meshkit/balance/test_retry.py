"""Retry verdicts (istio-semantics 1.3, limits-and-faults 1), from tests/vectors/retry."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.balance.retry import IDEMPOTENT, backoff, may_retry
from meshkit.snapshot.types import RetryPolicy

VECTORS = Path(__file__).parents[2] / "vectors" / "retry" / "verdicts.json"
CASES = json.loads(VECTORS.read_text())


def policy_of(spec: dict[str, Any]) -> RetryPolicy:
    if not spec:
        return RetryPolicy()
    return RetryPolicy(spec["attempts"], retry_on=tuple(spec["retryOn"]))


@pytest.mark.parametrize("case", CASES, ids=[case["why"] for case in CASES])
def test_vectors(case: dict[str, Any]) -> None:
    verdict = may_retry(
        policy_of(case["policy"]),
        case["method"].encode(),
        case["idempotencyKey"],
        case["attempt"],
        case["outcome"],
    )
    assert (verdict.retry, verdict.why) == (case["retry"], case["because"])


WORDS = ["5xx", "reset", "connect-failure", "gateway-error", "503", "refused-stream"]
OUTCOMES = [
    "connect-failure",
    "tls-alert",
    "unsent",
    "reused-reset",
    "reset",
    "reset-after-bytes",
    "per-try-timeout",
    "status-200",
    "status-503",
    "timeout",
]


@given(
    st.integers(0, 3),
    st.lists(st.sampled_from(WORDS)).map(tuple),
    st.sampled_from([b"GET", b"POST", b"PATCH"]),
    st.booleans(),
    st.integers(1, 6),
    st.sampled_from(OUTCOMES),
)
def test_what_no_policy_can_buy(
    attempts: int, words: tuple[str, ...], method: bytes, key: bool, attempt: int, outcome: str
) -> None:
    policy = RetryPolicy(attempts, retry_on=words)
    verdict = may_retry(policy, method, key, attempt, outcome)
    if attempt > max(attempts, 1) or outcome in ("reset-after-bytes", "status-200", "timeout"):
        assert not verdict.retry
    if verdict.why == "safety-rule":
        assert attempt == 1
        assert key or method in IDEMPOTENT


@pytest.mark.parametrize(("attempt", "most"), [(1, 0.025), (2, 0.075), (3, 0.175), (4, 0.25)])
def test_backoff_grows_to_ten_times_the_base(attempt: int, most: float) -> None:
    random = Random(3)
    pauses = [backoff(random, attempt, 0.025) for _ in range(2000)]
    assert 0 <= min(pauses) < most * 0.05
    assert most * 0.95 < max(pauses) < most


def test_backoff_of_a_late_attempt_stays_bounded() -> None:
    assert backoff(Random(1), 10_000, 0.025) <= 0.25
