from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshkit.identity.judge import REASONS, Judge, judge

BORN = 1_700_000_000
ME = "spiffe://td/ns/default/sa/reviews"


def test_a_good_leaf_gives_its_identity(pki: Any) -> None:
    verdict = judge([pki.leaf([ME]), pki.own.der], pki.roots)
    assert (verdict.identity, verdict.reason, verdict.serial) == (ME, "", 77)
    assert (verdict.not_before, verdict.not_after) == (BORN, BORN + 86400)


@pytest.mark.parametrize(
    ("uris", "shape", "reason"),
    [
        ([], {}, "no_spiffe_id"),
        ([], {"extra": [x509.DNSName("reviews")]}, "no_spiffe_id"),
        ([ME, "spiffe://td/ns/default/sa/other"], {}, "several_uri_names"),
        ([ME, "https://td/"], {}, "several_uri_names"),
        (["https://td/ns/default/sa/reviews"], {}, "invalid_spiffe_id"),
        (["spiffe://td/ns/default/sa/%2e%2e"], {}, "invalid_spiffe_id"),
        (["spiffe://TD/ns/default/sa/reviews"], {}, "invalid_spiffe_id"),
        ([ME], {"ca": True}, "ca_certificate"),
        ([ME], {"key_usage": None}, "key_usage"),
        ([ME], {"uses": [ExtendedKeyUsageOID.SERVER_AUTH]}, "extended_key_usage"),
        ([ME], {"uses": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "extended_key_usage"),
        (["spiffe://nowhere/ns/default/sa/reviews"], {}, "unknown_trust_domain"),
    ],
)
def test_each_rule_refuses_by_name(pki: Any, uris: Any, shape: Any, reason: str) -> None:
    verdict = judge([pki.leaf(uris, **shape), pki.own.der], pki.roots)
    assert (verdict.identity, verdict.reason) == ("", reason)
    assert verdict.detail and reason in REASONS


@pytest.mark.parametrize("bits", [{"cert": True}, {"crl": True}, {"digital": False, "crl": False}])
def test_a_key_that_may_sign_certificates_is_no_leaf(
    pki: Any, key_usage: Any, bits: dict[str, bool]
) -> None:
    leaf = pki.leaf([ME], key_usage=key_usage(**bits))
    assert judge([leaf, pki.own.der], pki.roots).reason == "key_usage"


def test_absent_optional_extensions_are_accepted(pki: Any) -> None:
    leaf = pki.leaf([ME], ca=None, uses=None, extra=[x509.DNSName("ca.example.org")])
    assert judge([leaf, pki.own.der], pki.roots).identity == ME


def test_another_domains_authority_cannot_name_ours(pki: Any) -> None:
    forged = pki.leaf([ME], pki.foreign)
    assert judge([forged, pki.foreign.der], pki.roots).reason == "foreign_anchor"
    honest = pki.leaf(["spiffe://other/ns/default/sa/reviews"], pki.foreign)
    assert judge([honest, pki.foreign.der], pki.roots).accepted


def test_an_empty_chain_a_bare_leaf_and_garbage(pki: Any) -> None:
    leaf = pki.leaf([ME])
    assert judge([], pki.roots).reason == "no_verified_chain"
    assert judge([leaf], {"td": [leaf]}).reason == "foreign_anchor"
    assert judge([b"\x30\x03garbage", pki.own.der], pki.roots).reason == "malformed_certificate"


@pytest.mark.parametrize(
    ("age", "reason"), [(-1, "not_yet_valid"), (0, ""), (86399, ""), (86400, "expired")]
)
def test_time_is_asked_of_the_verdict(pki: Any, age: int, reason: str) -> None:
    verdict = judge([pki.leaf([ME]), pki.own.der], pki.roots)
    assert verdict.refusal_at(BORN + age) == reason


def test_only_the_expected_may_answer(pki: Any) -> None:
    verdict = judge([pki.leaf([ME]), pki.own.der], pki.roots)
    assert verdict.refusal_at(BORN, {ME}) == ""
    assert verdict.refusal_at(BORN, {"spiffe://td/ns/default/sa/other"}) == "unexpected_identity"
    assert verdict.refusal_at(BORN, ()) == "unexpected_identity"


def test_the_memory_ends_with_the_roots(pki: Any) -> None:
    chain = [pki.leaf([ME]), pki.own.der]
    judge_ = Judge(pki.roots)
    first = judge_.verdict(chain)
    assert judge_.verdict(list(chain)) is first
    judge_.replace_roots({"td": [pki.foreign.der]})
    assert judge_.verdict(chain).reason == "foreign_anchor"
    assert judge_.verdict([]).reason == "no_verified_chain"
    assert judge_.generation == 2


def test_one_leaf_under_two_anchors_is_judged_twice(pki: Any) -> None:
    leaf = pki.leaf([ME])
    judge_ = Judge(pki.roots)
    assert judge_.verdict([leaf, pki.foreign.der]).reason == "foreign_anchor"
    assert judge_.verdict([leaf, pki.own.der]).identity == ME


def test_the_memory_is_bounded(pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshkit.identity.judge.CACHE_SIZE", 3)
    judge_ = Judge(pki.roots)
    for number in range(10):
        judge_.verdict([b"junk%d" % number, pki.own.der])
    assert len(judge_._verdicts) <= 3
