"""meshctl as a process against a served mesh-ca."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshctl.exits import Exit

BIN = Path(sys.executable).parent
EXAMPLES = Path(__file__).parents[2] / "examples" / "bookinfo"
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def wait_for_port(address: str, port: int) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "mesh-ca does not listen"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ca") / "state"
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    common = ["--state-dir", str(folder), "--listen", f"127.0.0.1:{port}"]
    subprocess.run(
        [BIN / "mesh-ca", "init", *common, "--trust-domain", "demo.mesh"],
        check=True,
        capture_output=True,
    )
    with subprocess.Popen([BIN / "mesh-ca", "serve", *common], stderr=subprocess.DEVNULL) as server:
        wait_for_port("127.0.0.1", port)
        yield folder
        server.terminate()


@pytest.fixture
def ctl(state: Path) -> Run:
    def run(*arguments: str, stdin: str = "") -> Done:
        command = [BIN / "meshctl", "--context", str(state / "operator"), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    return run


def test_apply_get_go_back(ctl: Run) -> None:
    rules = str(EXAMPLES / "destination-rules.yaml")
    v1, canary = (str(EXAMPLES / f"virtual-service-{n}.yaml") for n in ("all-v1", "canary-90-10"))
    first = ctl("apply", "-f", rules, "-f", v1, "-m", "start", "-o", "json")
    assert first.returncode == 0, first.stderr
    revision = json.loads(first.stdout)["revision"]
    assert "VirtualService/default/reviews configured" in ctl("apply", "-f", canary).stdout
    back = ctl("history", str(revision), "--manifests")
    again = ctl("apply", "-f", "-", stdin=back.stdout)
    assert "VirtualService/default/reviews configured" in again.stdout
    (item,) = json.loads(ctl("get", "vs", "reviews", "-o", "json").stdout)["items"]
    assert item["spec"]["http"][0]["route"] == [
        {"destination": {"host": "reviews", "subset": "v1"}}
    ]
    assert item["author"] == "spiffe://demo.mesh/operator/admin"


def test_what_only_the_server_can_know_comes_with_its_line(ctl: Run) -> None:
    assert ctl("apply", "-f", str(EXAMPLES / "destination-rules.yaml")).returncode == 0
    broken = (EXAMPLES / "virtual-service-all-v1.yaml").read_text().replace("v1\n", "v9\n")
    broken = broken.replace("networking.istio.io/v9", "networking.istio.io/v1")
    refused = ctl("apply", "-f", "-", stdin=broken)
    assert refused.returncode == Exit.REFUSED
    assert "<stdin>:11:7: error: spec.http[0].route[0].destination.subset:" in refused.stderr


def test_two_operators_at_once(ctl: Run) -> None:
    stale = ctl("apply", "-f", str(EXAMPLES / "retries.yaml"), "--expect-revision", "0")
    assert stale.returncode == Exit.REFUSED


def test_what_is_not_there(ctl: Run) -> None:
    assert ctl("history", "99999").returncode == Exit.NOT_FOUND
    assert ctl("proxy", "config", "nobody").returncode == Exit.NOT_FOUND
    assert ctl("get", "gw", "nope").returncode == Exit.NOT_FOUND


def test_tokens(ctl: Run) -> None:
    made = ctl("token", "create", "--host", "vm1", "--account", "default/reviews")
    assert made.stdout.startswith("bm1.") and made.stdout.count("\n") == 1
    listed = json.loads(ctl("token", "list", "-o", "json").stdout)["items"]
    assert [t["host"] for t in listed] == ["vm1"]
    assert made.stdout.strip() not in json.dumps(listed)
    bad = ctl("token", "create", "--host", "vm1", "--account", "reviews")
    assert bad.returncode == Exit.REFUSED and "default/reviews" in bad.stderr


def test_check_of_a_mesh_without_hosts(ctl: Run) -> None:
    done = ctl("check", "-o", "json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["version"]) == (0, True, 1)
    assert [g["title"] for g in report["groups"]][:2] == ["Operator", "Policy server"]


def test_another_mesh_is_not_spoken_to(state: Path, tmp_path: Path) -> None:
    """A context of one mesh, pointed at the server of another."""
    other = tmp_path / "other"
    make = [BIN / "mesh-ca", "init", "--state-dir", str(other), "--trust-domain", "demo.mesh"]
    subprocess.run(make, check=True, capture_output=True)
    address = (state / "operator" / "operator.yaml").read_text().splitlines()[0]
    settings = other / "operator" / "operator.yaml"
    lines = settings.read_text().splitlines()
    settings.write_text("\n".join([address, *lines[1:]]))
    command = [BIN / "meshctl", "--context", str(other / "operator"), "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.UNREACHABLE and "verified" in done.stderr


def test_nobody_there(tmp_path: Path) -> None:
    make = [BIN / "mesh-ca", "init", "--state-dir", str(tmp_path / "s"), "--listen", "127.0.0.1:1"]
    subprocess.run(make, check=True, capture_output=True)
    command = [BIN / "meshctl", "--context", str(tmp_path / "s" / "operator"), "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.CHECK_FAILED
    assert "✗ cannot reach the policy server" in done.stdout


def test_hosts_that_have_not_joined(ctl: Run) -> None:
    assert json.loads(ctl("host", "list", "-o", "json").stdout)["items"] == []
    for command in (("remove", "vm1"), ("grant", "vm1", "--exact", "--account", "default/web")):
        done = ctl("host", *command)
        assert done.returncode == Exit.NOT_FOUND and "no host vm1 has joined" in done.stderr
