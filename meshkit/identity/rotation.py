"""When to renew a certificate: predicates over now.

A leaf is renewed at 45–50 % of its life, so that the control plane may be away
for the other half with no failed request; the spread keeps a fleet that joined
in one minute from coming back in one minute.  A failed renewal keeps the valid
certificate and tries again with backoff.

All times are seconds since 1970; chance is a number in [0, 1).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509

BACKDATE = 60.0
"""NotBefore lies this far before the signing, for clocks that are a little slow."""
EARLIEST, SPREAD = 0.45, 0.05
FIRST_RETRY, LAST_RETRY = 1.0, 300.0
"""Seconds between attempts: the bounds of the doubling."""


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate was signed and until when it holds."""

    issued: float
    expires: float

    @property
    def lifetime(self) -> float:
        return self.expires - self.issued


def validity(certificate: x509.Certificate) -> Validity:
    """The life of a certificate that our authority signed, without its backdating.

    The backdating counts for nothing: of a one-minute leaf it would be half.
    """
    return Validity(
        _timestamp(certificate.not_valid_before_utc) + BACKDATE,
        _timestamp(certificate.not_valid_after_utc),
    )


def _timestamp(moment: dt.datetime) -> float:
    return moment.timestamp()


def renew_at(life: Validity, chance: float) -> float:
    """The moment to renew; draw ``chance`` once for each certificate and keep it."""
    return life.issued + life.lifetime * (EARLIEST + SPREAD * chance)


def due(life: Validity, now: float, chance: float) -> bool:
    """Whether to renew now.  True as well for what has expired."""
    return now >= renew_at(life, chance)


def expired(life: Validity, now: float) -> bool:
    """Whether it must not be used any more."""
    return now >= life.expires


def clock_is_behind(life: Validity, now: float) -> bool:
    """Whether this clock is earlier than the certificate: more than `BACKDATE` slow."""
    return now < life.issued - BACKDATE


def retry_delay(failures: int, chance: float) -> float:
    """Seconds until the next attempt after ``failures`` (1 or more) in a row.

    Doubles from `FIRST_RETRY` to `LAST_RETRY`; the upper half of each is chance.
    """
    ceiling = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 32))
    return float(ceiling * (0.5 + 0.5 * chance))
