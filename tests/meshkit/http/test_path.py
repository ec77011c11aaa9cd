"""The canonical path: its table, and the invariants that rules rely on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.http.errors import HTTPError
from meshkit.http.path import Mode, canonical

MODES: list[Mode] = ["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [
        (b"/", b"/"),
        (b"/a/b?c=/../%00", b"/a/b?c=/../%00"),
        (b"*", b"*"),
        (b"/x/../admin", b"/admin"),
        (b"/x/%2e%2e/admin", b"/admin"),
        (b"/x/%2E./admin", b"/admin"),
        (b"/x\\..\\admin", b"/admin"),
        (b"\\admin", b"/admin"),
        (b"/../../admin", b"/admin"),
        (b"/./a/./b/.", b"/a/b/"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a//../b", b"/a/b"),
        (b"//admin", b"//admin"),
        (b"/%61dmin", b"/admin"),
        (b"/a%2fb%5cc", b"/a%2Fb%5Cc"),
        (b"/a%252e", b"/a%252e"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/...", b"/..."),
        (b"/a?%", b"/a?%"),
    ],
)
def test_base(given_path: bytes, expected: bytes) -> None:
    assert canonical(given_path) == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("NONE", b"//a/./%2f%5C..//b?//"),
        ("BASE", b"//a/%2F%5C..//b?//"),
        ("MERGE_SLASHES", b"/a/%2F%5C../b?//"),
        ("DECODE_AND_MERGE_SLASHES", b"/a/b?//"),
    ],
)
def test_modes(mode: Mode, expected: bytes) -> None:
    assert canonical(b"//a/./%2f%5C..//b?//", mode) == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "path", [b"/%00", b"/a%00?x", b"/%", b"/%4", b"/%zz", b"/%%341", b"/#", b"/a?b#c", b"a", b""]
)
def test_refused(path: bytes, mode: Mode) -> None:
    with pytest.raises(HTTPError) as error:
        canonical(path, mode)
    assert (error.value.status, error.value.code) == (400, "bad_path")


PATHS = st.lists(
    st.sampled_from(
        (
            *(b"/", b"//", b"\\", b".", b"..", b"%2e", b"%2E", b"%2f", b"%5c", b"%25", b"%41"),
            *(b"a", b"?", b"%7e", b"%c3%a9", b"b c"),
        )
    ),
    max_size=12,
).map(lambda parts: b"/" + b"".join(parts))


@settings(max_examples=500, deadline=None)
@given(PATHS, st.sampled_from(MODES))
def test_idempotent(path: bytes, mode: Mode) -> None:
    once = canonical(path, mode)
    assert canonical(once, mode) == once


@settings(max_examples=500, deadline=None)
@given(PATHS, st.sampled_from(MODES[1:]))
def test_no_dot_segment_or_backslash_is_left(path: bytes, mode: Mode) -> None:
    clean = canonical(path, mode).partition(b"?")[0]
    assert not {b".", b".."} & set(clean.split(b"/"))
    assert b"\\" not in clean
    assert clean.startswith(b"/")
    if mode != "BASE":
        assert b"//" not in clean
