"""meshctl on a running mesh: what is refused changes nothing, what is shown is true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh, wait_ready
from tests.meshd.agent.rig import until

SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {exact: test-user}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: reviews, subset: v1}}]
"""
BROKEN = {
    "broken.yaml": (ROUTE.replace("[reviews]", "[reviews"), 7, ""),
    "unknown.yaml": (ROUTE.replace("route:", "ruote:", 1), 9, 'did you mean "route"'),
    "subset.yaml": (ROUTE.replace("subset: v1", "subset: v9"), 10, "v9"),
}
"""File → its text, the line that is wrong, and what must be said."""


@pytest.fixture(scope="module")
def ruled(whole: Mesh) -> Mesh:
    """The mesh with the rule that sends test-user to v2."""
    whole.apply(SUBSETS + "---" + ROUTE)
    return whole


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    for name, (text, _, _) in BROKEN.items():
        (tmp_path / name).write_text(text)
    yield tmp_path


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_files_are_refused_with_their_line_and_nothing_changes(
    ruled: Mesh, files: Path, name: str
) -> None:
    _, line, said = BROKEN[name]
    before = {host: ruled.hosts[host].admin("/status")["snapshot"] for host in ruled.hosts}
    revision = ruled.asked("status")["revision"]
    for dry_run in ((), ("--dry-run",)):
        done = ruled.ctl("apply", "-f", str(files / name), *dry_run)
        assert done.status in (3, 6), done
        assert done.out == ""
        assert f"{files / name}:{line}:" in done.err, done.err
        assert said in done.err, done.err
    whole_folder = ruled.ctl("apply", "-f", str(files))
    assert whole_folder.status == 3, "one wrong file refuses its neighbours too"
    assert ruled.asked("status")["revision"] == revision
    assert {host: ruled.revision(host) for host in ruled.hosts} == dict.fromkeys(before, revision)
    after = {host: ruled.hosts[host].admin("/status")["snapshot"] for host in ruled.hosts}
    assert after == before
    assert ruled.served_by(5, headers={"end-user": "test-user"}) == {"reviews-v2": 5}
    assert ruled.served_by(5) == {"reviews-v1": 5}


def test_what_the_server_must_refuse_it_refuses_by_itself(ruled: Mesh) -> None:
    """Past meshctl's own judgement: the server is the door."""
    from ca.client import APIError

    revision = ruled.asked("status")["revision"]
    for text, line, _ in BROKEN.values():
        with pytest.raises(BaseException) as caught:
            ruled.rig.apply(text)
        told = caught.value
        while isinstance(told, BaseExceptionGroup):
            told = told.exceptions[0]
        assert isinstance(told, APIError)
        assert line in [problem["line"] for problem in told.problems], told.problems
    assert ruled.asked("status")["revision"] == revision


def test_apply_wait_get_history_and_delete(ruled: Mesh) -> None:
    text = ROUTE.replace("name: reviews", "name: details").replace("[reviews]", "[details]")
    applied = ruled.ctl("apply", "-f", "-", "--wait", "-m", "for details", text=text)
    assert applied.status == 0, applied
    assert "VirtualService/default/details created" in applied.out
    assert f"is live on {len(ruled.hosts)} hosts" in applied.err
    revision = ruled.asked("status")["revision"]
    assert {ruled.revision(host) for host in ruled.hosts} == {revision}, "--wait waited"
    assert "unchanged" in ruled.ctl("apply", "-f", "-", text=text).out
    assert ruled.asked("status")["revision"] == revision, "nothing changed: no revision"

    names = [r["metadata"]["name"] for r in ruled.asked("get", "vs")["items"]]
    assert names == ["details", "reviews"]
    (one,) = ruled.asked("get", "vs", "details")["items"]
    assert one["spec"]["hosts"] == ["details"]
    assert one["author"] == "spiffe://cluster.local/operator/admin"
    latest = ruled.asked("history", "--limit", "1")["items"][0]
    assert (latest["revision"], latest["message"]) == (revision, "for details")
    back = ruled.ctl("history", str(revision), "--manifests")
    assert ruled.ctl("apply", "-f", "-", "--dry-run", text=back.out).status == 0

    stale = ruled.ctl("apply", "-f", "-", "--expect-revision", str(revision - 1), text=ROUTE)
    assert stale.status == 6, "somebody else was faster"
    gone = ruled.ctl("delete", "vs", "details", "--wait")
    assert gone.status == 0, gone
    assert ruled.ctl("get", "vs", "details").status == 7
    assert {ruled.revision(host) for host in ruled.hosts} == {revision + 1}


def test_status_and_check_tell_how_the_mesh_is(ruled: Mesh) -> None:
    status = ruled.asked("status")
    assert [host["host"] for host in status["hosts"]] == ["a", "b", "c"]
    for host in status["hosts"]:
        assert host["connected"] and host["accepted"]
        assert host["revision"] == status["revision"]
        assert [w["pid"] for w in host["workers"]] == ruled.hosts[host["host"]].pids()
        assert min(c["notAfter"] for c in host["certificates"]) > status["time"] + 3600
    (reviews,) = [s for s in status["services"] if s["name"] == "default/reviews"]
    assert (reviews["endpoints"], reviews["hosts"]) == (2, ["b", "c"])
    table = ruled.ctl("status")
    assert table.status == 0 and "default/reviews" in table.out and "\x1b" not in table.out
    check = ruled.ctl("check")
    assert check.status == 0, check
    assert ruled.asked("check")["kind"]


def test_check_names_what_is_wrong_and_the_remedy(ruled: Mesh) -> None:
    ruled.hosts["c"].stop()
    seen = lambda: ruled.ctl("check").status == 1  # noqa: E731
    until(seen, "check fails")
    said = ruled.ctl("check").out
    assert "c is away" in said
    assert "journalctl -u meshd" in said
    ruled.start()
    until(lambda: ruled.ctl("check").status == 0, "check is content again")


@pytest.mark.parametrize("what", ["routes", "clusters", "endpoints", "listeners", "certs"])
def test_proxy_config_shows_what_a_host_runs(ruled: Mesh, what: str) -> None:
    rows = ruled.asked("proxy", "config", "a", what)["items"]
    text = json.dumps(rows)
    expected = {
        "routes": "test-user",
        "clusters": "outbound|9080|v2|reviews.default.svc.cluster.local",
        "endpoints": f"{ruled.address(3)}:{ruled.hosts['c'].mesh}",
        "listeners": str(ruled.hosts["a"].mesh),
        "certs": "spiffe://cluster.local/ns/default/sa/shop",
    }
    assert expected[what] in text, text
    assert ruled.ctl("proxy", "config", "a", what).status == 0
    assert ruled.ctl("proxy", "config", "nobody", what).status == 7


def test_a_token_admits_one_host_once(ruled: Mesh) -> None:
    made = ruled.ctl("token", "create", "--host", "e", "--account", "default/extra")
    token = made.out.strip()
    assert made.status == 0 and token.startswith("bm1.") and "\n" not in token
    assert token not in ruled.ctl("token", "list").out
    assert [t["host"] for t in ruled.asked("token", "list")["items"]] == ["e"]
    host = ruled.rig.host("e", ruled.address(5))
    (host.folder / "token").write_text(made.out)
    ruled.serve(host, "extra", "v1", 9500)
    host.start()
    wait_ready(host)
    assert ruled.asked("token", "list")["items"] == []
    thief = ruled.rig.host("f", ruled.address(6))
    (thief.folder / "token").write_text(made.out)
    thief.start()
    until(lambda: "token" in thief.probe("/readyz")[1], "the second use is refused")
    assert "meshctl token create --host" in thief.log_tail()
