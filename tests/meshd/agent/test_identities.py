from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from meshd.agent.identities import Roster, join, sign, spiffe_of
from meshd.agent.store import HOST, Identity, Membership, Store, Unusable
from meshkit.identity.csr import make_key_and_request
from meshkit.identity.rotation import Validity
from meshkit.names import MeshSettings

NOW = 1_800_000_000.0
DAY = 86400.0
MESH = MeshSettings("td", "svc.x", "r")
CA_KEY = ec.generate_private_key(ec.SECP256R1())


def issue(csr: str, spiffe: str) -> str:
    """A leaf as mesh-ca makes them, without its chain."""
    request = x509.load_pem_x509_csr(csr.encode())
    begin = dt.datetime.fromtimestamp(NOW, dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - dt.timedelta(seconds=60))
        .not_valid_after(begin + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, False, False, False, False),
            critical=True,
        )
        .sign(CA_KEY, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


class No(Exception):
    """The server's refusal."""


class Server:
    """``/v1/sign`` and ``/v1/join`` for accounts in ``entitled``."""

    def __init__(self, *entitled: str) -> None:
        self.entitled = entitled
        self.calls: list[str] = []

    async def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.calls.append(path)
        if path == "/v1/join":
            certificate = issue(body["csr"], f"spiffe://td/host/{body['host']}")
            mesh = {"trustDomain": "td", "domain": "svc.x", "rootNamespace": "r"}
            return {"certificate": certificate, "roots": {"td": "PEM"}, "mesh": mesh}
        names = [r["account"] for r in body["requests"]]
        for name in names:
            if name not in self.entitled:
                raise No(f"not entitled to {name}")
        chains = [issue(r["csr"], spiffe_of(r["account"], MESH, "vm1")) for r in body["requests"]]
        return {"certificates": chains, "roots": {"td": "PEM2"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def held(name: str, begins: float = NOW, ends: float = NOW + DAY) -> Identity:
    return Identity(name, name, b"", b"", Validity(begins, ends), "1", Path(name))


def roster(chance: float = 0.5) -> Roster:
    return Roster(lambda: chance)


def nothing(name: str) -> Identity | None:
    return None


def test_what_is_missing_is_due_at_once() -> None:
    names = roster()
    names.want([HOST, "default/web"], nothing)
    assert names.due(NOW) == [HOST, "default/web"]
    assert names.missing(NOW) == {HOST: "no certificate yet", "default/web": "no certificate yet"}


def test_renewal_is_due_between_45_and_50_percent_of_the_life() -> None:
    for chance, share in ((0.0, 0.45), (0.999999, 0.5)):
        names = roster(chance)
        names.want([HOST], held)
        assert names.due(NOW + DAY * share - 1) == []
        assert names.due(NOW + DAY * share + 1) == [HOST]


def test_a_failed_renewal_keeps_the_certificate_and_is_retried_until_expiry() -> None:
    names = roster()
    names.want([HOST], held)
    now, attempts = NOW + DAY / 2, 0
    while now < NOW + DAY:
        assert names.usable(now)
        assert names.due(now) == [HOST]
        names.failed(HOST, "away", now)
        attempts += 1
        due = names.next_due()
        assert due is not None
        assert due - now <= 300
        now = due
    assert attempts > 100
    assert names.usable(NOW + DAY) == {}
    assert names.missing(NOW + DAY) == {HOST: "the certificate has expired: away"}


def test_success_forgives() -> None:
    names = roster()
    names.want([HOST], nothing)
    names.failed(HOST, "away", NOW)
    names.renewed(held(HOST))
    assert names.held[HOST].failures == 0
    assert names.missing(NOW) == {}
    assert names.next_expiry(NOW) == NOW + DAY


def test_names_no_longer_wanted_are_let_go_and_kept_ones_are_not_read_again() -> None:
    names = roster()
    names.want(["default/a", "default/b"], held)
    kept = names.held["default/b"]
    names.want(["default/b", "default/c"], nothing)
    assert list(names.held) == ["default/b", "default/c"]
    assert names.held["default/b"] is kept


async def test_joining_leaves_identity_and_membership_on_disk(store: Store) -> None:
    member, identity = await join(Server(), store, "vm1", "token")
    assert member == Membership("vm1", MESH, {"td": "PEM"})
    assert store.membership() == member
    assert identity.spiffe == "spiffe://td/host/vm1"
    again = store.load(HOST)
    assert again is not None
    assert (again.serial, again.key) == (identity.serial, identity.key)


async def test_one_refused_account_does_not_starve_the_others(store: Store) -> None:
    server = Server("default/web", "default/shop")
    names = ["default/web", "default/bank", "default/shop"]
    signed = await sign(server, store, names, MESH, No)
    assert [i.name for i in signed.renewed] == ["default/web", "default/shop"]
    assert signed.failed == {"default/bank": "not entitled to default/bank"}
    assert signed.roots == {"td": "PEM2"}
    assert store.load("default/shop") is not None
    assert store.load("default/bank") is None


async def test_one_call_where_nothing_is_refused(store: Store) -> None:
    server = Server("default/web", "default/shop")
    await sign(server, store, ["default/web", "default/shop"], MESH, No)
    assert server.calls == ["/v1/sign"]


async def test_a_certificate_for_somebody_else_is_not_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("default/web")
    await sign(server, store, ["default/web"], MESH, No)
    good = store.load("default/web")
    monkeypatch.setattr(__name__ + ".spiffe_of", lambda *_: "spiffe://td/ns/default/sa/bank")
    signed = await sign(server, store, ["default/web"], MESH, No)
    assert "sa/bank, not spiffe://td/ns/default/sa/web" in signed.failed["default/web"]
    assert store.load("default/web") == good


def test_a_certificate_of_another_key_is_refused_and_the_old_file_stays(store: Store) -> None:
    key, csr = make_key_and_request()
    chain = issue(csr.decode(), "spiffe://td/ns/default/sa/web").encode()
    store.save("default/web", key, chain)
    other, _ = make_key_and_request()
    with pytest.raises(Unusable, match="another key"):
        store.save("default/web", other, chain)
    kept = store.load("default/web")
    assert kept is not None
    assert kept.key.strip() == key.strip()


def test_a_broken_file_counts_as_missing(store: Store) -> None:
    store.path("default/web").write_text("-----BEGIN NONSENSE")
    assert store.load("default/web") is None
    assert store.load("default/none") is None
