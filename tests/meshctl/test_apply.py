from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshkit.model.load import load_text

GOOD = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}]}]
"""
BAD = GOOD.replace("hosts:", "host:")
APPLIED = {
    "revision": 7,
    "changes": [{"key": "VirtualService/default/reviews", "change": "created"}],
    "problems": [],
}


def reported(revision: int, **more: Any) -> dict[str, Any]:
    return {"host": "vm1", "connected": True, "revision": revision, "accepted": True, **more}


def status(*hosts: dict[str, Any]) -> dict[str, Any]:
    return {"revision": 7, "hosts": list(hosts), "services": []}


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "reviews.yaml"
    path.write_text(GOOD)
    return str(path)


def test_apply_sends_every_file_as_one_revision(ctl: Any, good: str) -> None:
    result = ctl("apply", "-f", good, "-m", "why", apply=APPLIED)
    assert (result.exit_code, result.stdout) == (
        0,
        "VirtualService/default/reviews created\nrevision 7\n",
    )
    ((path, body),) = ctl.api.calls
    assert path == "/v1/apply"
    assert body == {
        "documents": [{"source": good, "text": GOOD}],
        "dryRun": False,
        "message": "why",
    }


def test_broken_files_never_reach_the_server(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    (tmp_path / "b.yml").write_text(GOOD.replace("kind: V", "kind: X"))
    (tmp_path / "README.md").write_text("not yaml: [")
    result = ctl("apply", "-f", str(tmp_path))
    assert result.exit_code == Exit.BAD_FILES
    assert f"{tmp_path}/a.yaml:5:3: error: spec.host" in result.stderr
    assert f"{tmp_path}/b.yml:2:" in result.stderr
    assert "nothing was applied" in result.stderr
    assert ctl.api.calls == [] and result.stdout == ""


def test_standard_input(ctl: Any) -> None:
    ctl("apply", "-f", "-", stdin=GOOD, apply=APPLIED)
    assert ctl.api.calls[0][1]["documents"] == [{"source": "<stdin>", "text": GOOD}]
    result = ctl("apply", "-f", "-", stdin=BAD)
    assert "<stdin>:5:3: error:" in result.stderr


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n---\n"])
def test_an_empty_file_is_an_error(ctl: Any, content: str) -> None:
    result = ctl("apply", "-f", "-", stdin=content)
    assert (result.exit_code, ctl.api.calls) == (Exit.BAD_FILES, [])


def test_a_missing_file_and_an_empty_folder(ctl: Any, tmp_path: Path) -> None:
    missing = ctl("apply", "-f", str(tmp_path / "none.yaml"))
    assert missing.exit_code == Exit.BAD_FILES and "none.yaml" in missing.stderr
    assert ctl("apply", "-f", str(tmp_path)).exit_code == Exit.BAD_FILES


def test_no_file_at_all_is_wrong_usage(ctl: Any) -> None:
    assert ctl("apply").exit_code == Exit.USAGE


def test_the_servers_problems_look_like_our_own(ctl: Any, good: str) -> None:
    problem = {
        "source": good,
        "line": 6,
        "column": 9,
        "field": "spec.http[0]",
        "message": "no subset v9",
        "remedy": "add it",
        "severity": "warning",
    }
    result = ctl("apply", "-f", good, apply={**APPLIED, "problems": [problem]})
    assert result.exit_code == 0
    assert f"{good}:6:9: warning: spec.http[0]: no subset v9; add it" in result.stderr


def test_dry_run_says_so_and_does_not_wait(ctl: Any, good: str) -> None:
    result = ctl("apply", "-f", good, "--dry-run", "--wait", apply=APPLIED)
    assert result.stdout == "VirtualService/default/reviews created (dry run)\n"
    assert [path for path, _ in ctl.api.calls] == ["/v1/apply"]


def test_the_expected_revision_is_sent(ctl: Any, good: str) -> None:
    ctl("apply", "-f", good, "--expect-revision", "6", apply=APPLIED)
    assert ctl.api.calls[0][1]["expectedRevision"] == 6


def test_json_is_versioned(ctl: Any, good: str) -> None:
    result = ctl("apply", "-f", good, "-o", "json", apply=APPLIED)
    assert json.loads(result.stdout) == {
        "version": 1,
        "kind": "Applied",
        "revision": 7,
        "dryRun": False,
        "changes": APPLIED["changes"],
    }


def test_wait_returns_when_the_last_host_acknowledged(ctl: Any, good: str) -> None:
    answers = [status(reported(6)), status(reported(6)), status(reported(7))]
    result = ctl("apply", "-f", good, "--wait", apply=APPLIED, status=answers)
    assert result.exit_code == 0
    assert "revision 7 is live on 1 host\n" in result.stderr


def test_wait_names_who_has_not_acknowledged(ctl: Any, good: str) -> None:
    result = ctl(
        "apply", "-f", good, "--wait", "--timeout", "2", apply=APPLIED, status=status(reported(6))
    )
    assert result.exit_code == Exit.NOT_LIVE
    assert "vm1: at revision 6" in result.stderr
    assert "after 2 s 1 of 1 hosts" in result.stderr


def test_wait_ends_at_once_on_a_refusal(ctl: Any, good: str) -> None:
    refused = status(reported(7, accepted=False, reason="duplicate port"))
    before = ctl.time
    result = ctl("apply", "-f", good, "--wait", apply=APPLIED, status=refused)
    assert result.exit_code == Exit.NOT_LIVE and ctl.time == before
    assert "vm1: duplicate port" in result.stderr


def test_wait_ignores_hosts_that_are_away(ctl: Any, good: str) -> None:
    answer = status(reported(7), reported(3, host="vm2", connected=False))
    result = ctl("apply", "-f", good, "--wait", apply=APPLIED, status=answer)
    assert result.exit_code == 0


def test_delete_by_name_and_by_file(ctl: Any, good: str) -> None:
    gone = {"revision": 8, "changes": [{"key": "VirtualService/x/reviews", "change": "deleted"}]}
    result = ctl("delete", "vs", "reviews", "-n", "x", delete=gone)
    assert result.stdout == "VirtualService/x/reviews deleted\nrevision 8\n"
    assert ctl.api.calls == [("/v1/delete", {"keys": ["VirtualService/x/reviews"]})]
    ctl("delete", "-f", good, delete=gone)
    assert ctl.api.calls == [("/v1/delete", {"keys": ["VirtualService/default/reviews"]})]


@pytest.mark.parametrize(
    "arguments", [[], ["vs"], ["all", "x"], ["vs", "x", "-f", "-"], ["virtualservicex", "x"]]
)
def test_delete_wants_names(ctl: Any, arguments: list[str]) -> None:
    assert ctl("delete", *arguments).exit_code == Exit.USAGE
    assert ctl.api.calls == []


def test_a_failure_of_the_server_is_the_exit_status(ctl: Any, good: str) -> None:
    result = ctl("apply", "-f", good, apply=Failure(Exit.REFUSED, "not at revision 6", "look"))
    assert result.exit_code == Exit.REFUSED
    assert "meshctl: not at revision 6\n  next: look\n" in result.stderr


def test_the_good_example_is_good() -> None:
    assert not load_text(GOOD, "x").problems
