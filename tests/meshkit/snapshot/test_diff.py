"""A diff applied to the old revision gives the new one, whatever the two are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshkit.snapshot.diff import MapUpdate, apply, difference, hashes, update_of
from meshkit.snapshot.messages import FrameReader
from meshkit.snapshot.types import Snapshot

NAME = st.sampled_from(["a", "b", "c"])
SCOPES = st.dictionaries(NAME, st.dictionaries(NAME, NAME, min_size=1))


def snapshot(scopes: dict[str, dict[str, str]]) -> Snapshot:
    return Snapshot("r", "h", scopes, {})


def over_the_wire(update: MapUpdate) -> MapUpdate:
    (frame,) = FrameReader().feed(update.encode())
    return update_of(frame.header)


@given(SCOPES, SCOPES)
def test_apply_inverts_difference(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> None:
    update = over_the_wire(difference(snapshot(before), snapshot(after)))
    assert apply(before, update) == after
    assert not update.full


@given(SCOPES, SCOPES)
def test_a_full_map_does_not_depend_on_what_was(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]
) -> None:
    assert apply(before, over_the_wire(difference(None, snapshot(after)))) == after


def test_only_what_changed_is_sent() -> None:
    old = snapshot({"ns": {"a": "1", "b": "2", "c": "3"}, "gone": {"x": "9"}})
    new = snapshot({"ns": {"a": "1", "b": "5"}})
    update = difference(old, new)
    assert update.put == {"ns": {"b": "5"}}
    assert update.remove == {"gone": ("x",), "ns": ("c",)}


def test_hashes_name_every_blob() -> None:
    assert list(hashes("h", {"a": {"x": "1"}, "b": {"y": "2"}})) == ["h", "1", "2"]
