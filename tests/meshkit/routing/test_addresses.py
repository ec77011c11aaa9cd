"""Original destinations: exact, then the longest network, then the port alone."""

from __future__ import annotations

import pytest

from meshkit.routing.addresses import find
from meshkit.snapshot.types import AddressTable

TABLE = AddressTable(
    {
        "10.0.0.7:5432": ("db.example", 5432),
        "[fd00::7]:5432": ("db.example", 5432),
        "*:6379": ("cache.example", 6379),
    },
    (
        ("10.0.1.0/24", 5432, "narrow.example", 1),
        ("10.0.0.0/16", 5432, "wide.example", 2),
        ("fd00::/64", 6379, "six.example", 3),
    ),
)


@pytest.mark.parametrize(
    ("address", "port", "expected"),
    [
        ("10.0.0.7", 5432, ("db.example", 5432)),
        ("fd00::7", 5432, ("db.example", 5432)),
        ("10.0.1.9", 5432, ("narrow.example", 1)),
        ("10.0.2.9", 5432, ("wide.example", 2)),
        ("10.0.2.9", 5433, None),
        ("10.1.0.1", 5432, None),
        ("fd00::9", 6379, ("six.example", 3)),
        ("192.0.2.1", 6379, ("cache.example", 6379)),
        ("no address", 5432, None),
    ],
)
def test_the_most_specific_wins(address: str, port: int, expected: tuple[str, int] | None) -> None:
    assert find(TABLE, address, port) == expected
