"""Members that overstep: certificates used for what they are not, tokens, names, the registry."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.client import PolicyClient, Unreachable
from meshkit.identity.csr import make_key_and_request
from tests.attack.conftest import PORT, Range
from tests.attack.peers import SNI, ask, call, pair_of
from tests.attack.raw import read_all, say
from tests.meshd.agent.rig import until


@pytest.fixture(scope="module")
def evil(target: Range) -> Iterator[Range]:
    """With a member d that is entitled to default/evil only, its own agent out of the way."""
    whole = target.whole
    whole.serve(whole.join("d", 4, "default/evil", workers=1), "evil", "v1", 9666)
    whole.start()
    yield target


def host_pair(evil: Range) -> Path:
    return pair_of(evil.whole.hosts["d"], "host")


def workload_pair(evil: Range) -> Path:
    return pair_of(evil.whole.hosts["d"], "default/evil")


def fresh() -> str:
    """A request that nothing is wrong with."""
    return make_key_and_request()[1].decode()


FOR_HOSTS = [
    *(("post", "/v1/sign"), ("post", "/v1/services"), ("post", "/v1/report")),
    *(("put", "/v1/registry"), ("post", "/v1/answers/q1")),
]
FOR_OPERATORS = [
    *(("post", "/v1/tokens"), ("get", "/v1/tokens"), ("put", "/v1/hosts/d")),
    *(("post", "/v1/apply"), ("post", "/v1/delete"), ("get", "/v1/resources")),
    *(("get", "/v1/history"), ("get", "/v1/history/1"), ("get", "/v1/status")),
    *(("get", "/v1/hosts/b/config"), ("put", "/v1/hosts/..%2fd")),
]


@pytest.mark.parametrize(("method", "path"), [*FOR_HOSTS, *FOR_OPERATORS])
def test_nobody_calls_what_is_not_for_him(evil: Range, method: str, path: str) -> None:
    assert call(evil.whole, None, method, path, {}) == "no_certificate"
    assert call(evil.whole, workload_pair(evil), method, path, {}) == "wrong_role"
    if (method, path) in FOR_OPERATORS:
        assert call(evil.whole, host_pair(evil), method, path, {}) == "wrong_role"


ACCOUNTS = [
    *("default/victim", "default/shop", "istio-system/mesh-ca", "istio-system/mesh-gateway"),
    *("../evil", "default/../evil", "default/evil/../victim", "default/evil\n", "default/EVIL"),
    *(
        "default/evil/",
        "/evil",
        "evil",
        "",
        "HOST",
        "host/b",
        "default/evil\0",
        "default/\uff45vil",
    ),
    *("operator/admin", "default/evil:victim", "default//evil"),
]


@pytest.mark.parametrize("account", ACCOUNTS, ids=repr)
def test_a_host_gets_no_account_that_it_is_not_entitled_to(evil: Range, account: str) -> None:
    body = {"requests": [{"account": account, "csr": fresh()}]}
    assert call(evil.whole, host_pair(evil), "post", "/v1/sign", body) == "not_entitled"


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *names: x509.GeneralName) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = builder.sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def tricks() -> dict[str, str]:
    curve, uri = ec.generate_private_key(ec.SECP256R1()), x509.UniformResourceIdentifier
    mine = "spiffe://cluster.local/ns/default/sa/evil"
    good = csr(curve)
    return {
        "another identity": csr(curve, uri(mine.replace("evil", "victim"))),
        "two identities": csr(curve, uri(mine), uri(mine.replace("evil", "victim"))),
        "a DNS name": csr(curve, x509.DNSName("victim")),
        "a short RSA key": csr(rsa.generate_private_key(65537, 1024)),
        "another curve": csr(ec.generate_private_key(ec.SECP521R1())),
        "a broken signature": good[:120] + ("A" if good[120] != "A" else "B") + good[121:],
        "a huge one": "-----BEGIN CERTIFICATE REQUEST-----\n" + "A" * 100_000,
        "no PEM": "\x00\x01",
        "a key": "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n",
        "two": good + csr(ec.generate_private_key(ec.SECP256R1()), uri(mine + "/x")),
    }


def test_a_request_gives_its_key_and_nothing_else(evil: Range) -> None:
    for what, text in tricks().items():
        body = {"requests": [{"account": "default/evil", "csr": text}]}
        answer = call(evil.whole, host_pair(evil), "post", "/v1/sign", body)
        if isinstance(answer, str):
            assert answer.startswith("csr_"), (what, answer)
            continue
        leaf = x509.load_pem_x509_certificates(answer["certificates"][0].encode())[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [n.value for n in names] == ["spiffe://cluster.local/ns/default/sa/evil"], what
        assert what == "two", f"{what} was signed"


def test_of_twenty_joins_with_one_token_one_wins_and_other_uses_are_refused(evil: Range) -> None:
    whole = evil.whole
    made = whole.rig.post("/v1/tokens", {"host": "late", "accounts": ["default/late"]})

    def join(host: str, token: str = made["token"]) -> object:
        body = {"token": token, "host": host, "csr": fresh()}
        return call(whole, None, "post", "/v1/join", body)

    for host in ("b", "late2", "LATE", "late ", "../late", "late\n", "la\u0442e", "", "l" * 300):
        assert join(host) in ("token_other_host", "invalid_request"), host
    for text in ("", "bm1..", "x", made["token"].upper(), "bm1." + "a" * 32 + "." + "0" * 64):
        assert str(join("late", text)).startswith("token_"), text
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(join, ["late"] * 20))
    won = [a for a in answers if isinstance(a, dict)]
    assert len(won) == 1 and set(map(str, answers)) - {str(won[0])} == {"token_used"}
    log = (whole.folder / "ca.log").read_text()
    secret = made["token"].split(".")[1]
    assert secret not in log
    assert secret.encode() not in (whole.folder / "ca" / "policy.db").read_bytes()


def test_a_workloads_certificate_is_no_policy_server(evil: Range) -> None:
    """Nothing is sent to an impostor, whatever it presents, and with a wrong fingerprint too."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(5)
    got: list[bytes] = []

    def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(workload_pair(evil))
        raw, _ = listener.accept()
        raw.settimeout(5)
        try:
            with context.wrap_socket(raw, server_side=True) as conn:
                got.append(conn.recv(65536))
        except OSError:
            got.append(b"")

    async def member() -> None:
        async with PolicyClient(
            f"127.0.0.1:{listener.getsockname()[1]}",
            roots=(evil.whole.folder / "ca" / "operator" / "roots.pem").read_text(),
            trust_domain="cluster.local",
        ) as client:
            await client.post("/v1/join", {"token": "secret"})

    with ThreadPoolExecutor(1) as thread:
        served = thread.submit(serve)
        with pytest.raises(Unreachable) as caught:
            trio.run(member)
        served.result()
    assert caught.value.reason == "identity"
    assert got == [b""]
    listener.close()


TAIL = ".svc.cluster.local"
ODD_SNI = [
    *("victim", "p9080.any.shop.default" + TAIL, "p9081.any.victim.default" + TAIL),
    *("p9080.any.victim.other" + TAIL, "p9080.v9.victim.default" + TAIL, SNI + ".x"),
    *("p09080.any.victim.default" + TAIL, "any.victim.default" + TAIL, "x." + SNI),
    *("p99999.any.victim.default" + TAIL, "a" * 63 + "." + SNI),
]


def test_server_names_that_are_not_served_and_host_certificates(evil: Range) -> None:
    shop = pair_of(evil.a, "default/shop")
    assert b"200" in ask(evil, shop)
    assert b"200" in ask(evil, shop, sni=SNI.upper())
    for sni in ODD_SNI:
        assert ask(evil, shop, sni=sni) == b"", sni


def test_the_victims_plaintext_port_and_a_stranger(evil: Range) -> None:
    """STRICT closes plaintext, also on a connection that was open before."""
    strict = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {mtls: {mode: STRICT}}
"""
    request = b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n"
    with socket.create_connection((evil.b.address, PORT), timeout=5) as old:
        old.sendall(request)
        assert old.recv(65536).startswith(b"HTTP/1.1 200")
        evil.whole.apply(strict)
        evil.app.forget()
        with suppress(OSError):  # it may have been reset already
            old.sendall(request)
        assert b" 200 " not in read_all(old)
    assert b" 200 " not in say(evil.b.address, PORT, request)
    assert evil.app.paths() == []
    assert evil.works(), "mutual TLS goes on"
    evil.whole.clear()


def test_the_registry_takes_nothing_that_the_host_may_not_serve(evil: Range) -> None:
    row = {
        "namespace": "default",
        "instance": "x",
        "port": PORT,
        "portName": "http",
        "address": "127.0.0.1",
        "protocol": "HTTP",
        "labels": {},
    }
    rows = [{**row, "service": name} for name in ("victim", "unheard-of", "evil")]
    body = {"lease": 5, "instances": rows}
    answer = call(evil.whole, host_pair(evil), "put", "/v1/registry", body)
    assert answer["refused"] == ["default/unheard-of", "default/victim"]
    assert b"404" in evil.get(host="unheard-of:9080")
    assert all(evil.works() for _ in range(20))


def test_what_a_host_reports_reaches_the_operators_terminal_as_text(evil: Range) -> None:
    d = evil.whole.hosts["d"]
    assert d.process is not None
    d.process.send_signal(signal.SIGSTOP)  # or it reports the truth in between
    report = {
        "revision": 0,
        "accepted": False,
        "reason": "\x1b]0;owned\x07\x1b[2J\x9b31m\nfake: ok",
    }
    assert call(evil.whole, host_pair(evil), "post", "/v1/report", report) == {
        "revision": evil.whole.rig.get("/v1/status", {})["revision"]
    }
    said = [evil.whole.ctl(command) for command in ("status", "check")]
    d.process.send_signal(signal.SIGCONT)
    assert "owned" in said[1].out
    for one in said:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]|^fake", one.out + one.err, re.MULTILINE)


def test_keys_and_tokens_are_in_no_log_and_files_are_private(evil: Range) -> None:
    whole = evil.whole
    secrets = {b"PRIVATE KEY"}
    for host in whole.hosts.values():
        token = (host.folder / "token").read_bytes().strip()
        secrets |= {token, token.split(b".")[1]}
        for file in (host.folder / "state").rglob("*"):
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
            if file.suffix == ".pem":
                body = file.read_bytes().splitlines()
                secrets |= {body[1]}
        assert stat.S_IMODE((host.folder / "state").stat().st_mode) == 0o700
        for name in ("admin.sock", "worker.sock"):
            assert stat.S_IMODE((host.folder / "run" / name).stat().st_mode) & 0o007 == 0, name
        limits = Path(f"/proc/{host.process.pid}/limits").read_text()  # type: ignore[union-attr]
        assert "Max core file size        0" in limits
    logs = [h.folder / n for h in whole.hosts.values() for n in ("log", "access.log")]
    logs += [
        whole.folder / "ca.log",
        *(f for h in whole.hosts.values() for f in (h.folder / "run").glob("*.pid")),
    ]
    for log in logs:
        text = log.read_bytes()
        assert not [s for s in secrets if s in text], log
    status = json.dumps([h.admin("/status") for h in whole.hosts.values()]).encode()
    assert not [s for s in secrets if s in status]


def test_the_agents_are_well_after_all_this(evil: Range) -> None:
    until(lambda: all(h.ready() for h in evil.whole.hosts.values()), "everybody is ready", 20)
