from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca import template as templates
from ca.authority import AuthorityError, open_authority
from ca.sign import sign
from ca.template import TemplateError, leaf_template
from ca.verify import OutputFault, verify_leaf
from meshkit.identity import pem, spiffe
from meshkit.identity.judge import judge
from meshkit.names import MeshSettings

NOW = 1_800_000_000.5
MESH = MeshSettings("td", "svc.cluster.local", "istio-system")
ME = "spiffe://td/ns/default/sa/reviews"
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


def modes(state: Path) -> set[int]:
    return {stat.S_IMODE(p.stat().st_mode) for p in state.rglob("*") if p.is_file()}


def test_init_makes_private_files_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = open_authority(state, NOW, MESH)
    held = {p.name: p.read_bytes() for p in state.iterdir()}
    second = open_authority(state, NOW + 1000, MESH)
    assert {p.name: p.read_bytes() for p in state.iterdir()} == held
    assert first.fingerprint() == second.fingerprint()
    assert modes(state) == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_serving_without_init_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError) as error:
        open_authority(tmp_path, NOW)
    assert "mesh-ca init" in error.value.remedy


def test_a_state_directory_belongs_to_one_mesh(tmp_path: Path) -> None:
    open_authority(tmp_path, NOW, MESH)
    with pytest.raises(AuthorityError, match="another mesh"):
        open_authority(tmp_path, NOW, replace(MESH, trust_domain="other"))
    assert open_authority(tmp_path, NOW).mesh == MESH


def test_a_damaged_key_is_never_replaced(tmp_path: Path) -> None:
    open_authority(tmp_path, NOW, MESH)
    (tmp_path / "root.pem").write_text("garbage")
    with pytest.raises(AuthorityError) as error:
        open_authority(tmp_path, NOW, MESH)
    assert "backup" in error.value.remedy
    assert (tmp_path / "root.pem").read_text() == "garbage"


def test_a_leaf_says_who_and_nothing_more(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW, MESH)
    issued = authority.issue(ME, KEY, NOW)
    leaf, _intermediate = pem.certificates(issued.chain)
    assert leaf.subject == x509.Name([])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical and [n.value for n in names.value] == [ME]
    assert issued.not_before == int(NOW - 60) and issued.not_after == int(NOW + 86400)
    assert issued.serial == f"{leaf.serial_number:x}"
    ders = [*pem.to_der(issued.chain), *pem.to_der(authority.root_pem)]
    assert judge(ders, {"td": ders[-1:]}).refusal_at(NOW, {ME}) == ""


def test_every_serial_differs(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW, MESH)
    assert len({authority.issue(ME, KEY, NOW).serial for _ in range(20)}) == 20


def test_a_leaf_never_outlives_its_issuer(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW, MESH)
    ends = authority.intermediate.certificate.not_valid_after_utc.timestamp()
    assert authority.issue(ME, KEY, ends - 100, lifetime=86400).not_after == ends
    with pytest.raises(TemplateError, match="expired"):
        authority.issue(ME, KEY, ends + 1)


def test_the_intermediate_is_renewed_at_half_of_its_life(tmp_path: Path) -> None:
    old = open_authority(tmp_path, NOW, MESH)
    half = templates.INTERMEDIATE_LIFETIME / 2
    same = open_authority(tmp_path, NOW + half - 86400)
    new = open_authority(tmp_path, NOW + half + 86400)
    assert same.intermediate.certificate == old.intermediate.certificate
    assert new.intermediate.certificate != old.intermediate.certificate
    assert new.root == old.root


def test_no_identity_outside_the_form(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW, MESH)
    with pytest.raises(spiffe.SpiffeError):
        authority.issue("spiffe://td/ns/default/sa/../x", KEY, NOW)
    with pytest.raises(OutputFault, match="unknown_trust_domain"):
        authority.issue("spiffe://other/ns/default/sa/x", KEY, NOW)


def test_output_that_differs_from_its_template_is_dropped(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW, MESH)
    issuer = authority.intermediate
    ends = issuer.certificate.not_valid_after_utc.timestamp()
    template = leaf_template(ME, KEY, NOW, 3600, ends)
    chain = [sign(template, issuer), issuer.certificate, authority.root]
    verify_leaf(template, chain, "td", NOW)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    wrong = [
        (replace(template, identity="spiffe://td/host/vm1"), chain, "unexpected_identity"),
        (replace(template, public_key=other), chain, "another key"),
        (replace(template, not_after=template.not_after + 1), chain, "validity"),
        (template, [chain[0], authority.root, authority.root], "signatures"),
    ]
    for expected, signed, fault in wrong:
        with pytest.raises(OutputFault, match=fault):
            verify_leaf(expected, signed, "td", NOW)


def test_roots_of_other_domains_are_handed_out(tmp_path: Path) -> None:
    ours = open_authority(tmp_path / "a", NOW, MESH)
    other = open_authority(tmp_path / "b", NOW, replace(MESH, trust_domain="other"))
    folder = tmp_path / "a" / "roots.d"
    folder.mkdir()
    (folder / "other.pem").write_text(other.root_pem)
    assert open_authority(tmp_path / "a", NOW).roots() == {
        "td": ours.root_pem,
        "other": other.root_pem,
    }
    (folder / "td.pem").write_text(other.root_pem)
    with pytest.raises(AuthorityError, match="our own trust domain"):
        open_authority(tmp_path / "a", NOW)


def test_server_names_stand_beside_the_identity(tmp_path: Path) -> None:
    authority = open_authority(tmp_path, NOW, MESH)
    issued = authority.issue(
        spiffe.server_id("td", "istio-system"), KEY, NOW, names=("ca.example.org", "10.0.0.2")
    )
    leaf = pem.certificates(issued.chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ca.example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.2"]
    assert leaf.public_bytes(Encoding.DER)
