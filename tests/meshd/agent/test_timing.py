from __future__ import annotations

import pytest

from meshd.agent.timing import Debounce, backoff, renewal_retry


def test_backoff_doubles_up_to_its_cap_with_the_upper_half_jittered() -> None:
    assert [backoff(n, 0.0, 1.0, 10.0) for n in (1, 2, 3, 4, 5, 1000)] == [0.5, 1, 2, 4, 5, 5]
    assert backoff(2, 1.0, 1.0, 10.0) == 2.0


@pytest.mark.parametrize(
    ("left", "longest"), [(30.0, 3.0), (5.0, 1.0), (-60.0, 1.0), (12 * 3600.0, 300.0)]
)
def test_a_failed_renewal_is_retried_many_times_before_expiry(left: float, longest: float) -> None:
    assert max(renewal_retry(n, 0.999999, left) for n in range(1, 30)) <= longest


def test_a_burst_is_compiled_once_after_it_is_over() -> None:
    debounce = Debounce(quiet=0.05, latest=0.2)
    assert debounce.due() is None
    debounce.note(1.0)
    assert debounce.due() == pytest.approx(1.05)
    debounce.note(1.04)
    assert debounce.due() == pytest.approx(1.09)
    debounce.done()
    assert debounce.due() is None


def test_a_steady_stream_cannot_put_it_off() -> None:
    debounce = Debounce(quiet=0.05, latest=0.2)
    for step in range(20):
        debounce.note(1.0 + step * 0.04)
    assert debounce.due() == pytest.approx(1.2)
