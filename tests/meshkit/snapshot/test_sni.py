"""Server names between hosts (wire.md, mesh port)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.names import ServiceName
from meshkit.snapshot.sni import MeshSNI, mesh_sni, parse_mesh_sni, sni_label

DOMAIN = "svc.cluster.local"
REVIEWS = ServiceName("default", "reviews")


def test_the_contract_example() -> None:
    assert mesh_sni(REVIEWS, 9080, "v1", DOMAIN) == "p9080.v1.reviews.default.svc.cluster.local"


def test_no_instance_is_any() -> None:
    assert mesh_sni(REVIEWS, 1, "", DOMAIN).startswith("p1.any.")


def test_parse_ignores_case() -> None:
    parsed = parse_mesh_sni("P9080.V1.reviews.default.SVC.cluster.local", DOMAIN)
    assert parsed == MeshSNI(9080, "v1", "reviews", "default")


@pytest.mark.parametrize(
    "sni",
    [
        "reviews.default.svc.cluster.local",
        "p9080.v1.reviews.default.svc.cluster.local.evil.com",
        "p9080.v1.reviews.default.other.local",
        "p0.v1.reviews.default.svc.cluster.local",
        "p01.v1.reviews.default.svc.cluster.local",
        "p70000.v1.reviews.default.svc.cluster.local",
        "p9080..reviews.default.svc.cluster.local",
        "p9080.-v1.reviews.default.svc.cluster.local",
        "x.p9080.v1.reviews.default.svc.cluster.local",
        "",
    ],
)
def test_other_names_are_not_mesh_names(sni: str) -> None:
    assert parse_mesh_sni(sni, DOMAIN) is None


def test_names_that_only_look_alike_stay_apart() -> None:
    names = ["Reviews", "reviews", "re.views", "re_views", "re-views", "r" * 64, "r" * 65]
    assert len({sni_label(name) for name in names}) == len(names)


def test_an_overlong_name_is_refused() -> None:
    with pytest.raises(ValueError, match="253"):
        mesh_sni(REVIEWS, 1, "v1", ".".join(["d" * 60] * 5))


@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100), st.integers(1, 65535))
def test_whatever_the_names_the_receiver_finds_its_own(name: str, instance: str, port: int) -> None:
    sni = mesh_sni(ServiceName("default", name), port, instance, DOMAIN)
    assert re.fullmatch(r"[a-z0-9.-]+", sni)
    assert parse_mesh_sni(sni, DOMAIN) == MeshSNI(
        port, sni_label(instance), sni_label(name), "default"
    )
