"""The API over real TLS: who may call what, joining, renewal, streams, policy."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ca import http, tls
from ca.authority import open_authority
from ca.client import APIError, Messages, PolicyClient, Unreachable
from meshkit.identity import pem, spiffe
from meshkit.identity.csr import make_request
from meshkit.identity.judge import judge
from meshkit.names import MeshSettings

REVIEWS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: v1}}]}]
"""
DECLARED = {
    "namespace": "default",
    "name": "reviews",
    "account": "reviews",
    "instance": "v1",
    "ports": [{"port": 9080, "name": "http", "protocol": "HTTP"}],
    "labels": {"app": "reviews"},
}

INSTANCE = {
    "service": "reviews",
    "namespace": "default",
    "instance": "v1",
    "port": 9080,
    "portName": "http",
    "address": "10.0.0.5",
    "meshPort": 15443,
    "protocol": "HTTP",
    "labels": {"version": "v1"},
    "weight": 1,
    "healthy": True,
}


async def next_of(messages: Messages, kind: str) -> dict[str, Any]:
    with trio.fail_after(20):
        async for message in messages:
            if message["type"] == kind:
                return message
    raise AssertionError(f"the stream ended before {kind}")


async def refused(call: Any) -> APIError:
    with pytest.raises(APIError) as error:
        await call
    return error.value


def documents(*texts: str) -> list[dict[str, str]]:
    return [{"source": f"f{n}.yaml", "text": text} for n, text in enumerate(texts)]


class TestAccess:
    async def test_the_operator_is_known_by_name(self, control: Any) -> None:
        who = await (await control.operator()).get("/v1/whoami")
        assert (who["identity"], who["role"]) == ("spiffe://td/operator/admin", "operator")

    async def test_without_a_certificate_only_joining_is_allowed(self, control: Any) -> None:
        stranger = await control.client()
        error = await refused(stranger.get("/v1/status"))
        assert (error.status, error.code) == (401, "no_certificate") and error.remedy
        assert control.events("call_refused")[0]["code"] == "no_certificate"

    async def test_roles_are_kept_apart(self, control: Any) -> None:
        host = await control.host("vm1")
        operator = await control.operator()
        assert (await refused(host.get("/v1/status"))).code == "wrong_role"
        assert (await refused(host.post("/v1/apply", {}))).code == "wrong_role"
        assert (await refused(operator.post("/v1/sign", {}))).code == "wrong_role"
        workload = await control.client(control.certified("spiffe://td/ns/default/sa/reviews"))
        assert (await refused(workload.get("/v1/whoami"))).code == "wrong_role"

    async def test_an_expired_certificate_is_refused_in_the_handshake(self, control: Any) -> None:
        pair = control.certified(
            spiffe.operator_id("td", "admin"), now=control.plane.now() - 7200, lifetime=3600
        )
        with pytest.raises(Unreachable) as error:
            await (await control.client(pair)).get("/v1/status")
        assert error.value.reason == "certificate_refused"
        assert "expired" in str(error.value)
        assert control.events("handshake_refused")[0]["reason"] == "certificate has expired"

    async def test_a_foreign_authority_is_refused(self, control: Any, tmp_path: Path) -> None:
        foreign = open_authority(tmp_path / "foreign", control.plane.now(), MeshSettings("td"))
        pair = control.certified(spiffe.operator_id("td", "admin"), by=foreign)
        with pytest.raises(Unreachable) as error:
            await (await control.client(pair)).get("/v1/status")
        assert error.value.reason == "certificate_refused"
        assert control.events("handshake_refused")

    async def test_a_foreign_trust_domain_is_refused(self, control: Any, tmp_path: Path) -> None:
        other = open_authority(tmp_path / "other", control.plane.now(), MeshSettings("other"))
        pair = control.certified("spiffe://other/operator/admin", by=other)
        with pytest.raises(Unreachable):
            await (await control.client(pair)).get("/v1/status")

    async def test_a_certificate_that_expires_on_a_connection(
        self, control: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operator = await control.operator()
        await operator.get("/v1/whoami")
        later = control.plane.now() + 7200
        monkeypatch.setattr(control.plane, "now", lambda: later)
        error = await refused(operator.get("/v1/whoami"))
        assert error.code == "certificate_refused" and "expired" in error.message

    async def test_tls_1_2_is_refused(self, control: Any) -> None:
        context = ssl.create_default_context(cadata=control.authority.root_pem)
        context.check_hostname = False
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        host, port = control.address.split(":")
        stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=context)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()

    async def test_a_removed_host_is_refused(self, control: Any) -> None:
        host = await control.host("vm1", "default/reviews")
        operator = await control.operator()
        async with host.stream("/v1/stream") as messages:
            await next_of(messages, "state")
            await operator.delete("/v1/hosts/vm1")
            with trio.fail_after(20):
                assert [m async for m in messages if m["type"] == "ping"] == []
        assert (await refused(host.get("/v1/whoami"))).code == "host_unknown"
        assert (await refused(operator.delete("/v1/hosts/vm1"))).status == 404


class TestServerIdentity:
    async def test_the_pinned_root_must_be_there(self, control: Any) -> None:
        client = await control.client(roots="", fingerprint="0" * 64, trust_domain="")
        with pytest.raises(Unreachable) as error:
            await client.post("/v1/join", {})
        assert error.value.reason == "identity"

    async def test_another_domains_server_is_not_spoken_to(self, control: Any) -> None:
        client = await control.client(trust_domain="other")
        with pytest.raises(Unreachable) as error:
            await client.get("/v1/whoami")
        assert error.value.reason == "identity"

    async def test_a_workload_cannot_pose_as_the_server(
        self, control: Any, nursery: trio.Nursery
    ) -> None:
        chain, key = control.certified("spiffe://td/ns/default/sa/reviews")
        context = tls.server_context(key, chain.decode(), control.authority.root_pem)
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        received: list[bytes] = []

        async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
            try:
                received.append(bytes(await stream.receive_some()))
            except trio.BrokenResourceError:
                received.append(b"")

        await nursery.start(trio.serve_listeners, serve, listeners)
        transport = listeners[0].transport_listener
        assert isinstance(transport, trio.SocketListener)
        port = transport.socket.getsockname()[1]
        fingerprint = control.authority.fingerprint()
        client = PolicyClient(f"127.0.0.1:{port}", fingerprint=fingerprint, timeout=5)
        with pytest.raises(Unreachable) as error:
            await client.post("/v1/join", {"token": "secret"})
        assert error.value.reason == "identity" and not any(received)

    async def test_our_own_files_must_be_usable(self, control: Any, tmp_path: Path) -> None:
        client = await control.client((tmp_path / "cert.pem", tmp_path / "key.pem"))
        with pytest.raises(Unreachable, match="No such file"):
            await client.get("/v1/whoami")
        chain, _ = control.certified(spiffe.operator_id("td", "a"))
        _, key = control.certified(spiffe.operator_id("td", "a"))
        with pytest.raises(Unreachable) as error:
            await (await control.client((chain, key))).get("/v1/whoami")
        assert error.value.reason == "tls"

    async def test_calls_share_a_connection_until_it_ends(
        self, control: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.2)
        operator = await control.operator()
        await operator.get("/v1/whoami")
        wire = operator._idle
        await operator.get("/v1/whoami")
        assert wire is not None and operator._idle is wire
        with trio.fail_after(20):
            while wire.is_fresh(trio.current_time()):
                await trio.sleep(0.02)
        await operator.get("/v1/whoami")
        assert operator._idle is not wire

    async def test_nobody_there(self) -> None:
        client = PolicyClient("127.0.0.1:1", fingerprint="00", timeout=5)
        with pytest.raises(Unreachable) as error:
            await client.get("/v1/whoami")
        assert error.value.reason == "connect" and "mesh-ca" in error.value.remedy


class TestJoin:
    async def test_a_token_gives_a_host_its_identity(self, control: Any) -> None:
        host = await control.host("vm1", "default/reviews")
        assert (await host.get("/v1/whoami"))["identity"] == "spiffe://td/host/vm1"
        (joined,) = control.events("joined")
        assert joined["accounts"] == ["default/reviews"]
        records = await control.plane.store.certificates("vm1")
        assert [r.serial for r in records] == [joined["serial"]]

    async def test_of_twenty_racers_exactly_one_wins(
        self, control: Any, make_csr: Callable[[], str]
    ) -> None:
        token = await control.token("vm1", "default/reviews")
        outcomes: list[str] = []

        async def race() -> None:
            client = await control.client()
            try:
                await client.post("/v1/join", {"token": token, "host": "vm1", "csr": make_csr()})
                outcomes.append("won")
            except APIError as error:
                outcomes.append(error.code)

        async with trio.open_nursery() as racers:
            for _ in range(20):
                racers.start_soon(race)
        assert sorted(outcomes) == ["token_used"] * 19 + ["won"]
        assert len(await control.plane.store.certificates("vm1")) == 1

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"host": "vm2"}, 401, "token_other_host"),
            ({"token": "bm1.aaaa.bbbb"}, 401, "token_unknown"),
            ({"token": "nonsense"}, 401, "token_malformed"),
            ({"host": "a/b"}, 400, "invalid_request"),
            ({"host": 7}, 400, "invalid_request"),
            ({"csr": "nonsense"}, 403, "csr_malformed"),
            ({"csr": "x" * 100_000}, 403, "csr_too_large"),
        ],
    )
    async def test_a_refused_join_leaves_the_token_alone(
        self,
        control: Any,
        make_csr: Callable[[], str],
        change: dict[str, Any],
        status: int,
        code: str,
    ) -> None:
        token = await control.token("vm1")
        good = {"token": token, "host": "vm1", "csr": make_csr()}
        client = await control.client()
        error = await refused(client.post("/v1/join", {**good, **change}))
        assert (error.status, error.code) == (status, code) and error.remedy
        assert (await client.post("/v1/join", good))["mesh"]["trustDomain"] == "td"

    async def test_a_token_lives_ten_minutes(
        self, control: Any, make_csr: Callable[[], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        token = await control.token("vm1")
        later = control.plane.now() + 601
        monkeypatch.setattr(control.plane, "now", lambda: later)
        client = await control.client()
        body = {"token": token, "host": "vm1", "csr": make_csr()}
        assert (await refused(client.post("/v1/join", body))).code == "token_expired"

    async def test_the_secret_is_neither_stored_nor_logged(
        self, control: Any, tmp_path: Path
    ) -> None:
        token = await control.token("vm1", "default/reviews")
        secret = token.split(".")[1]
        assert len(secret) * 5 >= 128
        host = await control.host("vm2")
        await host.get("/v1/whoami")
        assert secret not in control.output.getvalue()
        for path in (tmp_path / "state").glob("policy.db*"):
            assert secret.encode() not in path.read_bytes()
        listed = await (await control.operator()).get("/v1/tokens")
        assert [t["host"] for t in listed["tokens"]] == ["vm1"] and secret not in str(listed)

    async def test_the_servers_account_is_never_given(self, control: Any) -> None:
        error = await refused(control.token("vm1", "istio-system/mesh-ca"))
        assert error.status == 400 and "policy server" in error.message


class TestSign:
    async def test_accounts_that_the_host_is_entitled_to(
        self, control: Any, make_csr: Callable[[], str]
    ) -> None:
        host = await control.host("vm1", "default/reviews", "default/web:shop")
        accounts = ["host", "default/reviews", "default/web"]
        body = {"requests": [{"account": name, "csr": make_csr()} for name in accounts]}
        answer = await host.post("/v1/sign", body)
        roots = {d: pem.to_der(text) for d, text in answer["roots"].items()}
        found = [judge([*pem.to_der(c), *roots["td"]], roots) for c in answer["certificates"]]
        assert [v.identity for v in found] == [
            "spiffe://td/host/vm1",
            "spiffe://td/ns/default/sa/reviews",
            "spiffe://td/ns/default/sa/web",
        ]

    @pytest.mark.parametrize(
        "account", ["default/ratings", "istio-system/mesh-ca", "", "reviews", "default/../reviews"]
    )
    async def test_others_are_refused_and_nothing_is_issued(
        self, control: Any, make_csr: Callable[[], str], account: str
    ) -> None:
        host = await control.host("vm1", "default/reviews")
        requests = [
            {"account": "default/reviews", "csr": make_csr()},
            {"account": account, "csr": make_csr()},
        ]
        error = await refused(host.post("/v1/sign", {"requests": requests}))
        assert (error.status, error.code) == (403, "not_entitled")
        assert "meshctl token create --host vm1" in error.remedy
        assert len(await control.plane.store.certificates("vm1")) == 1

    async def test_after_expiry_the_old_key_renews_the_host(
        self, control: Any, make_csr: Callable[[], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = await control.host("vm1")
        assert isinstance(host._certificate, bytes) and isinstance(host._key, bytes)
        later = control.plane.now() + 2 * 86400
        monkeypatch.setattr(control.plane, "now", lambda: later)
        stranger = await control.client()
        old = host._certificate.decode()
        body = {"certificate": old, "csr": make_request(host._key).decode()}
        answer = await stranger.post("/v1/renew", body)
        leaf = pem.certificates(answer["certificate"])[0]
        assert leaf.not_valid_after_utc.timestamp() > later
        other = {**body, "csr": make_csr()}
        assert (await refused(stranger.post("/v1/renew", other))).code == "renewal_refused"
        workload, key = control.certified("spiffe://td/ns/default/sa/reviews")
        forged = {"certificate": workload.decode(), "csr": make_request(key).decode()}
        assert (await refused(stranger.post("/v1/renew", forged))).code == "renewal_refused"
        await control.plane.store.forget_host("vm1")
        await control.plane.directory.refresh()
        assert (await refused(stranger.post("/v1/renew", body))).code == "renewal_refused"

    async def test_the_server_renews_its_own_certificate(self, control: Any) -> None:
        first = control.server.own
        control.server.renew_own()
        assert control.server.own.serial != first.serial
        assert (await (await control.operator()).get("/v1/whoami"))["role"] == "operator"


class TestNaming:
    async def test_a_declaration_is_admitted_by_entitlement(self, control: Any) -> None:
        host = await control.host("vm1", "default/reviews")
        evil = {**DECLARED, "name": "ratings"}
        async with host.stream("/v1/stream") as messages:
            assert (await next_of(messages, "naming"))["services"] == {}
            answer = await host.post("/v1/services", {"services": [DECLARED, evil]})
            assert answer["admitted"] == ["default/reviews"]
            (refusal,) = answer["refused"]
            assert refusal["service"] == "default/ratings"
            assert "--account default/reviews:ratings" in refusal["remedy"]
            assert (await next_of(messages, "naming"))["services"] == {
                "default/reviews": {
                    "accounts": ["spiffe://td/ns/default/sa/reviews"],
                    "ports": [{"name": "http", "port": 9080, "protocol": "HTTP"}],
                }
            }

    async def test_a_grant_admits_what_is_already_declared(self, control: Any) -> None:
        host = await control.host("vm1")
        operator = await control.operator()
        assert (await host.post("/v1/services", {"services": [DECLARED]}))["admitted"] == []
        async with host.stream("/v1/stream") as messages:
            assert (await next_of(messages, "naming"))["services"] == {}
            granted = await operator.post(
                "/v1/tokens", {"host": "vm1", "accounts": ["default/reviews"]}
            )
            assert granted["granted"] is True
            assert "default/reviews" in (await next_of(messages, "naming"))["services"]
            await operator.put("/v1/hosts/vm1", {"accounts": []})
            assert (await next_of(messages, "naming"))["services"] == {}

    async def test_an_account_of_another_namespace_is_malformed(self, control: Any) -> None:
        host = await control.host("vm1", "default/reviews")
        services = [{**DECLARED, "account": "other/reviews"}]
        assert (await refused(host.post("/v1/services", {"services": services}))).status == 400


class TestPolicy:
    async def test_apply_stream_acknowledge(self, control: Any) -> None:
        host, operator = await control.host("vm1", "default/reviews"), await control.operator()
        await host.post("/v1/services", {"services": [DECLARED]})
        async with host.stream("/v1/stream", {"revision": 0}) as messages:
            state = await next_of(messages, "state")
            assert (state["revision"], state["resources"]) == (0, [])
            body = {"documents": documents(REVIEWS), "message": "first"}
            applied = await operator.post("/v1/apply", body)
            assert applied["revision"] == 1
            assert [c["change"] for c in applied["changes"]] == ["created", "created"]
            received = await next_of(messages, "state")
            assert received["revision"] == 1 and len(received["resources"]) == 2
            one = received["resources"][1]
            assert (one["kind"], one["author"]) == ("VirtualService", "spiffe://td/operator/admin")
            assert one["source"].startswith("f0.yaml:")
            before = await operator.get("/v1/status")
            assert [h["revision"] for h in before["hosts"]] == [0]
            report = {
                "revision": 1,
                "accepted": True,
                "reason": "",
                "workers": [{"index": 1, "pid": 7, "revision": "1"}],
                "certificates": [],
                "discovery": {"kind": "embedded", "connected": True, "held": [], "instances": 1},
                "services": ["default/reviews"],
            }
            await host.post("/v1/report", report)
            status = await operator.get("/v1/status")
            (seen,) = status["hosts"]
            assert {k: seen[k] for k in report} == report
            assert seen["connected"] and seen["host"] == "vm1" and seen["seen"] > 0
            (service,) = status["services"]
            assert (service["name"], service["endpoints"]) == ("default/reviews", 1)
            changed = REVIEWS.replace("subset: v1", "subset: v2")
            await operator.post("/v1/apply", {"documents": documents(changed)})
            diff = await next_of(messages, "changes")
            assert (diff["revision"], len(diff["resources"]), diff["deleted"]) == (2, 1, [])
            await operator.post("/v1/delete", {"keys": ["VirtualService/default/reviews"]})
            diff = await next_of(messages, "changes")
            assert diff["deleted"] == ["VirtualService/default/reviews"]
        with trio.fail_after(20):
            while (await operator.get("/v1/status"))["hosts"][0]["connected"]:
                await trio.sleep(0.01)

    async def test_a_stream_resumes_where_the_host_is(self, control: Any) -> None:
        host, operator = await control.host("vm1"), await control.operator()
        await operator.post("/v1/apply", {"documents": documents(REVIEWS)})
        changed = REVIEWS.replace("subset: v1", "subset: v2")
        await operator.post("/v1/apply", {"documents": documents(changed)})
        async with host.stream("/v1/stream", {"revision": 1}) as messages:
            epoch = (await next_of(messages, "mesh"))["epoch"]
            assert len((await next_of(messages, "changes"))["resources"]) == 1
        async with host.stream("/v1/stream", {"revision": 9}) as messages:
            assert len((await next_of(messages, "state"))["resources"]) == 2
        async with host.stream("/v1/stream", {"revision": 2, "epoch": "restored"}) as messages:
            assert (await next_of(messages, "state"))["revision"] == 2
        async with host.stream("/v1/stream", {"revision": 2, "epoch": epoch}) as messages:
            await operator.post("/v1/delete", {"keys": ["VirtualService/default/reviews"]})
            assert (await next_of(messages, "changes"))["revision"] == 3

    async def test_what_does_not_differ_makes_no_revision(self, control: Any) -> None:
        operator = await control.operator()
        body = {"documents": documents(REVIEWS)}
        assert (await operator.post("/v1/apply", body))["revision"] == 1
        again = await operator.post("/v1/apply", body)
        assert again["revision"] == 1
        assert {c["change"] for c in again["changes"]} == {"unchanged"}
        assert len((await operator.get("/v1/history"))["revisions"]) == 1

    async def test_a_dry_run_changes_nothing(self, control: Any) -> None:
        operator = await control.operator()
        body = {"documents": documents(REVIEWS), "dryRun": True}
        assert [c["change"] for c in (await operator.post("/v1/apply", body))["changes"]] == [
            "created",
            "created",
        ]
        assert (await operator.get("/v1/resources"))["resources"] == []

    @pytest.mark.parametrize(
        ("text", "line", "word"),
        [
            (REVIEWS.replace("subset: v1", "subset: v9"), 14, "v9"),
            (REVIEWS.replace("hosts:", "hostz:"), 13, "hosts"),
            ("kind: [", 2, ""),
            (REVIEWS.replace("VirtualService", "EnvoyFilter"), 10, "EnvoyFilter"),
        ],
    )
    async def test_a_fault_is_refused_with_its_place(
        self, control: Any, text: str, line: int, word: str
    ) -> None:
        operator = await control.operator()
        await operator.post("/v1/apply", {"documents": documents(REVIEWS)})
        error = await refused(operator.post("/v1/apply", {"documents": documents(text)}))
        assert (error.status, error.code) == (422, "invalid")
        assert error.problems[0]["source"] == "f0.yaml"
        assert any(p["line"] == line and word in p["text"] for p in error.problems), error.problems
        assert (await operator.get("/v1/resources"))["revision"] == 1

    async def test_what_others_need_is_not_deleted_alone(self, control: Any) -> None:
        operator = await control.operator()
        await operator.post("/v1/apply", {"documents": documents(REVIEWS)})
        keys = ["DestinationRule/default/reviews", "VirtualService/default/reviews"]
        assert (await refused(operator.post("/v1/delete", {"keys": keys[:1]}))).status == 422
        gone = await operator.post("/v1/delete", {"keys": keys})
        assert [c["change"] for c in gone["changes"]] == ["deleted", "deleted"]
        assert (await refused(operator.post("/v1/delete", {"keys": keys}))).code == "not_found"

    async def test_two_operators_do_not_overwrite_each_other(self, control: Any) -> None:
        operator = await control.operator()
        body = {"documents": documents(REVIEWS), "expectedRevision": 0}
        await operator.post("/v1/apply", body)
        error = await refused(operator.post("/v1/apply", body))
        assert (error.status, error.code) == (409, "revision_conflict")

    async def test_twenty_appliers_at_once_make_twenty_revisions(self, control: Any) -> None:
        operator = await control.operator()

        async def apply(number: int) -> None:
            text = REVIEWS.replace("name: reviews}", f"name: r{number}}}").replace(
                "reviews", f"reviews{number}"
            )
            client = await control.operator()
            await client.post("/v1/apply", {"documents": documents(text)})

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(apply, number)
        history = (await operator.get("/v1/history", {"limit": 50}))["revisions"]
        assert [r["revision"] for r in history] == list(range(20, 0, -1))
        assert len((await operator.get("/v1/resources"))["resources"]) == 40

    async def test_history_shows_how_things_stood(self, control: Any) -> None:
        operator = await control.operator()
        await operator.post("/v1/apply", {"documents": documents(REVIEWS), "message": "one"})
        changed = REVIEWS.replace("subset: v1", "subset: v2")
        await operator.post("/v1/apply", {"documents": documents(changed), "message": "two"})
        listed = (await operator.get("/v1/history", {"limit": 1}))["revisions"]
        assert [(r["revision"], r["message"]) for r in listed] == [(2, "two")]
        first = await operator.get("/v1/history/1")
        subset = first["resources"][1]["spec"]["http"][0]["route"][0]["destination"]["subset"]
        assert (len(first["changes"]), subset) == (2, "v1")
        assert (await refused(operator.get("/v1/history/3"))).code == "revision_unknown"
        assert (await refused(operator.get("/v1/history", {"limit": "-1"}))).status == 400

    async def test_resources_are_found_by_kind_and_name(self, control: Any) -> None:
        operator = await control.operator()
        await operator.post("/v1/apply", {"documents": documents(REVIEWS)})
        queries: list[tuple[dict[str, str | int], int]] = [
            ({"kind": "VirtualService"}, 1),
            ({"namespace": "default"}, 2),
            ({"namespace": "other"}, 0),
            ({"kind": "VirtualService", "namespace": "default", "name": "reviews"}, 1),
        ]
        for query, count in queries:
            found = (await operator.get("/v1/resources", query))["resources"]
            assert len(found) == count, query


class TestQueries:
    async def test_a_query_is_relayed_over_the_hosts_stream(self, control: Any) -> None:
        host, operator = await control.host("vm1"), await control.operator()
        got: list[dict[str, Any]] = []

        async def agent(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with host.stream("/v1/stream") as messages:
                await next_of(messages, "state")
                task_status.started()
                question = await next_of(messages, "query")
                got.append(question)
                await host.post(f"/v1/answers/{question['id']}", {"routes": [{"name": "r"}]})

        async with trio.open_nursery() as nursery:
            await nursery.start(agent)
            answer = await operator.get("/v1/hosts/vm1/config", {"what": "routes", "port": 9080})
        assert answer == {"routes": [{"name": "r"}]}
        assert (got[0]["what"], got[0]["port"]) == ("routes", "9080")
        assert (await refused(host.post("/v1/answers/q99", {}))).code == "no_such_query"

    async def test_a_host_that_is_away_or_unknown(self, control: Any) -> None:
        await control.host("vm1")
        operator = await control.operator()
        assert (await refused(operator.get("/v1/hosts/vm1/config"))).code == "host_away"
        assert (await refused(operator.get("/v1/hosts/vm9/config"))).code == "host_unknown"

    async def test_a_newer_stream_replaces_the_older(self, control: Any) -> None:
        host = await control.host("vm1")
        async with host.stream("/v1/stream") as old:
            await next_of(old, "state")
            async with host.stream("/v1/stream") as new:
                await next_of(new, "state")
                with trio.fail_after(20):
                    assert [m async for m in old] == []


class TestRegistry:
    async def test_a_set_is_streamed_to_others(self, control: Any) -> None:
        one, two = await control.host("vm1", "default/reviews"), await control.host("vm2")
        async with two.stream("/v1/registry/stream") as messages:
            assert (await next_of(messages, "instances"))["services"] == {}
            await one.put("/v1/registry", {"lease": 30, "instances": [INSTANCE]})
            seen = await next_of(messages, "instances")
            assert seen["services"] == {"default/reviews": [{**INSTANCE, "host": "vm1"}]}
            await one.put("/v1/registry", {"lease": 30, "instances": []})
            assert (await next_of(messages, "instances"))["services"] == {"default/reviews": []}

    async def test_a_lease_runs_out(self, control: Any) -> None:
        host = await control.host("vm1", "default/reviews")
        async with host.stream("/v1/registry/stream") as messages:
            await next_of(messages, "instances")
            await host.put("/v1/registry", {"lease": 1, "instances": [INSTANCE]})
            assert len((await next_of(messages, "instances"))["services"]) == 1
            assert (await next_of(messages, "instances"))["services"] == {"default/reviews": []}
        assert control.events("lease_expired")[0]["host"] == "vm1"

    @pytest.mark.parametrize(
        "change",
        [
            *({"port": 0}, {"port": "9080"}, {"service": "a/b"}, {"service": "../a"}),
            *({"address": ""}, {"address": "db.example"}, {"address": "127.1"}),
            *({"labels": {"a": 1}}, {"labels": {"a": "\x1b[2J"}}, {"labels": {"a\n": "b"}}),
            *({"instance": "v1\n"}, {"instance": "\ud800"}, {"labels": {"\ud800": "b"}}),
        ],
        ids=repr,
    )
    async def test_malformed_instances_are_refused(
        self, control: Any, change: dict[str, Any]
    ) -> None:
        host = await control.host("vm1")
        body = {"lease": 30, "instances": [{**INSTANCE, **change}]}
        assert (await refused(host.put("/v1/registry", body))).status == 400
        assert (await refused(host.put("/v1/registry", {"lease": 9e9}))).status == 400

    async def test_instances_of_services_that_the_host_may_not_serve_are_left_out(
        self, control: Any
    ) -> None:
        one = await control.host("vm1", "default/web:shop")
        theirs = [
            {**INSTANCE, "service": name} for name in ("reviews", "shop", "web", "unheard-of")
        ]
        body = {"lease": 30, "instances": [*theirs, {**INSTANCE, "namespace": "other"}]}
        answer = await one.put("/v1/registry", body)
        assert answer["refused"] == ["default/reviews", "default/unheard-of", "other/reviews"]
        await one.put("/v1/registry", body)
        async with one.stream("/v1/registry/stream") as messages:
            seen = await next_of(messages, "instances")
        assert seen["services"].keys() == {"default/shop", "default/web"}
        assert len(control.events("instances_refused")) == 1, "said once, not at each renewal"
