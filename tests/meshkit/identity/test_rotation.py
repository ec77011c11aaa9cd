from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509

from meshkit.identity import pem, rotation
from meshkit.identity.rotation import Validity

DAY = Validity(issued=1000.0, expires=1000.0 + 86400)


def test_backdating_does_not_count_as_life(pki: Any) -> None:
    leaf = x509.load_der_x509_certificate(pki.leaf(["spiffe://td/x"]))
    life = rotation.validity(leaf)
    assert life.lifetime == 86400 - rotation.BACKDATE


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.45), (0.5, 0.475), (1.0, 0.5)])
def test_renewal_lies_at_45_to_50_percent(chance: float, share: float) -> None:
    moment = rotation.renew_at(DAY, chance)
    assert moment == pytest.approx(1000 + 86400 * share)
    assert not rotation.due(DAY, moment - 1, chance)
    assert rotation.due(DAY, moment, chance)


def test_the_control_plane_may_be_away_for_ten_hours() -> None:
    assert DAY.expires - rotation.renew_at(DAY, 1.0) >= 10 * 3600


def test_expiry_and_slow_clocks() -> None:
    assert not rotation.expired(DAY, DAY.expires - 0.1)
    assert rotation.expired(DAY, DAY.expires)
    assert not rotation.clock_is_behind(DAY, 1000 - rotation.BACKDATE)
    assert rotation.clock_is_behind(DAY, 999 - rotation.BACKDATE)


def test_retries_double_up_to_a_bound() -> None:
    assert [rotation.retry_delay(n, 1.0) for n in (1, 2, 3, 9, 10, 10_000)] == [
        1,
        2,
        4,
        256,
        300,
        300,
    ]
    assert rotation.retry_delay(3, 0.0) == 2


def test_pem_round_trip_and_fingerprint(pki: Any) -> None:
    ders = [pki.own.der, pki.foreign.der]
    text = pem.from_der(ders)
    assert pem.to_der(text) == ders == pem.to_der(text.encode())
    assert len(pem.fingerprint(ders[0])) == 64
    with pytest.raises(ValueError, match="found 0"):
        pem.to_der("nothing here")
    with pytest.raises(ValueError, match="found 65"):
        pem.to_der(pem.from_der(ders[:1]) * 65)


def test_a_chain_in_order(pki: Any) -> None:
    leaf = x509.load_der_x509_certificate(pki.leaf(["spiffe://td/x"]))
    assert not pem.is_issued_in_order([leaf, pki.foreign.certificate])
    assert pem.is_issued_in_order([leaf])
