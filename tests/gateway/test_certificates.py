from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.certificates import BadPair, EdgeKeys, judge_pair

NOW = 1_800_000_000.0
DAY = 86400.0


def pair(
    name: str = "shop.example", begins: float = NOW - DAY, ends: float = NOW + DAY
) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(begins, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(ends, dt.UTC))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), secret


def test_a_matching_pair_is_taken_as_it_is() -> None:
    chain, key = pair()
    found = judge_pair(chain, key, NOW)
    assert (found.chain, found.key) == (chain, key)


def test_each_fault_is_named() -> None:
    chain, key = pair()
    other, other_key = pair()
    expired = pair(ends=NOW - 60)
    early = pair(begins=NOW + 60)
    faults = {
        "not PEM": (b"hello", key),
        "not an unencrypted PEM key": (chain, b"hello"),
        "does not belong": (chain, other_key),
        "out of order": (chain + other, key),
        "expired at 2027-": expired,
        "not valid before 2027-": early,
    }
    for said, (chain_pem, key_pem) in faults.items():
        with pytest.raises(BadPair, match=said):
            judge_pair(chain_pem, key_pem, NOW)


def write(folder: Path, content: tuple[bytes, bytes], stamp: int) -> tuple[str, str]:
    names = (folder / "chain.pem", folder / "key.pem")
    for name, data in zip(names, content, strict=True):
        name.write_bytes(data)
        os.utime(name, (stamp, stamp))
    return str(names[0]), str(names[1])


def test_a_replaced_file_is_read_again_and_a_broken_one_keeps_the_last_good(
    tmp_path: Path,
) -> None:
    first, second = pair(), pair()
    files = write(tmp_path, first, 1)
    keys = EdgeKeys()
    assert keys.update({"shop": files}, NOW)
    assert not keys.update({"shop": files}, NOW)
    write(tmp_path, second, 2)
    assert keys.update({"shop": files}, NOW)
    assert keys.pairs["shop"].chain == second[0]
    write(tmp_path, (second[0], first[1]), 3)
    assert keys.update({"shop": files}, NOW)
    assert "does not belong" in keys.faults["shop"]
    assert keys.pairs["shop"].chain == second[0]
    write(tmp_path, first, 4)
    assert keys.update({"shop": files}, NOW)
    assert keys.faults == {}


def test_a_missing_file_is_said_and_found_when_it_comes(tmp_path: Path) -> None:
    files = (str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))
    keys = EdgeKeys()
    assert keys.update({"shop": files}, NOW)
    assert "No such file" in keys.faults["shop"]
    write(tmp_path, pair(), 1)
    assert keys.update({"shop": files}, NOW)
    assert (keys.faults, list(keys.pairs)) == ({}, ["shop"])
    assert keys.update({}, NOW)
    assert keys.pairs == {}
