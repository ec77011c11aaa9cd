"""A remembered head is the head that would have been made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.http import h2_recall
from meshkit.http.fields import Field
from meshkit.http.h2_head import StreamError, request_head, response_head
from meshkit.http.h2_recall import LastRequest, LastResponse
from meshkit.http.limits import MESHD

PSEUDO: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":path", b"/a"),
    (b":authority", b"app"),
]
FACTS: Field = (b"x-baremesh-source", b"caller")


def request(*fields: Field, n: int = 0) -> tuple[Field, ...]:
    ids = ((b"x-request-id", b"id-%08d" % n), (b"traceparent", b"00-%08d" % n))
    return (*PSEUDO, *fields, *ids)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each request that was judged and not recalled."""
    calls: list[object] = []

    def counted(*args: object) -> object:
        calls.append(args)
        return request_head(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(h2_recall, "request_head", counted)
    return calls


def test_the_same_fields_are_judged_once(judged: list[object]) -> None:
    last = LastRequest()
    first = last.head(request(), True, MESHD)
    assert last.head(request(), True, MESHD) is first
    assert last.head(request(), False, MESHD) is not first, "a body follows that one"
    assert len(judged) == 2
    last.forget()
    last.head(request(), False, MESHD)
    assert len(judged) == 3


def test_other_ids_are_put_into_the_last_head(judged: list[object]) -> None:
    last = LastRequest()
    for n in range(5):
        fields = request((b"accept", b"*/*"), FACTS, n=n)
        head = last.head(fields, True, MESHD)
        assert vars(head) == vars(request_head(fields, True, MESHD))
    assert len(judged) == 1


@pytest.mark.parametrize(
    "fields",
    [
        request(n=1)[:-1],
        (*request(n=1)[:-1], (b"traceparent", b"longer than the one before")),
        (*request(n=1)[:-1], (b"x-other", b"00-00000001")),
        request((b"accept", b"*/*"), n=1),
        (*PSEUDO[:2], (b":path", b"/b"), PSEUDO[3], *request(n=1)[4:]),
    ],
)
def test_anything_else_is_judged(judged: list[object], fields: tuple[Field, ...]) -> None:
    last = LastRequest()
    last.head(request(), True, MESHD)
    head = last.head(fields, True, MESHD)
    assert len(judged) == 2
    assert vars(head) == vars(request_head(fields, True, MESHD))


@pytest.mark.parametrize("value", [b"00-0\n00001", b" 00-00001", b"00-00001\x00"])
def test_ids_that_no_field_may_have_are_refused(value: bytes) -> None:
    last = LastRequest()
    last.head(request(), True, MESHD)
    with pytest.raises(StreamError):
        last.head((*request()[:-1], (b"traceparent", value)), True, MESHD)


def test_crumbs_are_joined_behind_the_ids(judged: list[object]) -> None:
    """Then the ids are not the head's last fields, and nothing is recalled but the same."""
    last = LastRequest()
    for n in range(3):
        fields = request((b"cookie", b"a=1"), (b"cookie", b"b=2"), n=n)
        head = last.head(fields, True, MESHD)
        assert dict(head.headers)[b"cookie"] == b"a=1; b=2"
        assert dict(head.headers)[b"x-request-id"] == b"id-%08d" % n
    assert len(judged) == 3


_names = st.sampled_from([b"accept", b"cookie", b"x-request-id", b"traceparent", b"te", b"x"])
_values = st.sampled_from([b"", b"1", b"trailers", b"22", b"\n", b" 3"])
_requests = st.lists(st.lists(st.tuples(_names, _values), max_size=5), max_size=6)


@given(_requests)
def test_recall_changes_no_verdict(sequence: list[list[Field]]) -> None:
    last = LastRequest()
    for fields in sequence:
        whole = (*PSEUDO, *fields)
        try:
            expected = vars(request_head(whole, True, MESHD))
        except StreamError:
            with pytest.raises(StreamError):
                last.head(whole, True, MESHD)
        else:
            assert vars(last.head(whole, True, MESHD)) == expected


def test_answers() -> None:
    last = LastResponse()
    fields = ((b":status", b"200"), (b"content-length", b"2"))
    first = last.head(fields, False, b"GET", MESHD)
    assert last.head(fields, False, b"POST", MESHD) is first
    without = last.head(fields, False, b"HEAD", MESHD)
    assert without is not first and without.body == 0
    other = ((b":status", b"404"), (b"content-length", b"2"))
    assert vars(last.head(other, False, b"GET", MESHD)) == vars(
        response_head(other, False, b"GET", MESHD)
    )
    last.forget()
    assert last.head(fields, False, b"GET", MESHD) is not first
