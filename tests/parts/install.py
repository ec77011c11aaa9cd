#!/usr/bin/env python3
"""Installs what the tests and the benchmark start beside Python: `make test` calls it.

Nothing happens when all is present.  Packages come from the machine's own apt
sources.  Debian 12 has no Consul any more, so the one package of the release
before is fetched through a private apt state and unpacked into .parts/: the
system's apt configuration is not touched.  Node is a wheel of requirements-dev.txt
(Debian's npm brings hundreds of packages); what the tests run in it comes from npm
into .parts/node, in the versions of tests/parts/node.

Exit status: 0 all is present; 1 something is missing, with one line on what to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.parts import sources
from tests.parts.find import NODE_PACKAGES, PARTS, installed_consul, npm_command, program

# Debian package → the program that shows it is there.
PACKAGES = {
    "nginx-light": "nginx",
    "wrk": "wrk",
    "nghttp2-client": "h2load",
    "nghttp2-server": "nghttpd",
    "nghttp2-proxy": "nghttpx",
    "curl": "curl",
    "haproxy": "haproxy",
    "nftables": "nft",
    "iproute2": "ip",
    "openssl": "openssl",
    "procps": "ps",
    "redis-server": "redis-server",
    "redis-tools": "redis-cli",
}
SYSTEM_PYTHON = "/usr/bin/python3"
CONSUL_SUITE = "bullseye"
NODE_FILES = [
    Path(__file__).parent / "node" / name for name in ("package.json", "package-lock.json")
]
OWN_CONSUL = "put a consul 1.8 or later on PATH"


class Missing(Exception):
    """Something cannot be installed; the message is the one line to print."""


def missing_packages() -> list[str]:
    missing = [package for package, name in PACKAGES.items() if program(name) is None]
    return missing if makes_environments(SYSTEM_PYTHON) else [*missing, "python3-venv"]


def makes_environments(python: str) -> bool:
    """Whether the system's Python, which `make bench` runs on, can make a venv.

    True where there is no such Python: the benchmark then takes another one.
    """
    if not os.access(python, os.X_OK):
        return True
    command = [python, "-c", "import venv, ensurepip"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def install_packages(packages: Sequence[str]) -> None:
    """Install through apt.  Raises `Missing` for other users and other systems."""
    command = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise Missing(f"missing programs of the packages {' '.join(packages)}: install them")
    if os.geteuid() != 0:
        raise Missing(f"missing packages: {' '.join(packages)}; install them: sudo {command}")
    print(f"installing {' '.join(packages)} ...", flush=True)
    # RUNLEVEL=1 keeps invoke-rc.d from starting the daemons: tests start their own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run(["apt-get", "-qq", "update"], environment)
    options = ["-qq", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]
    run(["apt-get", "install", *options, *packages], environment)


def run(
    command: Sequence[str], environment: dict[str, str] | None = None, folder: Path | None = None
) -> None:
    done = subprocess.run(
        command, env=environment, cwd=folder, text=True, capture_output=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Missing(f"'{' '.join(command[:2])} ...' failed: {''.join(reason)}")


def codename(release: str) -> str:
    """VERSION_CODENAME of an os-release file's text, "" if it has none."""
    values = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return values.get("VERSION_CODENAME", "").strip('"')


def consul_source() -> sources.Source:
    release = Path("/etc/os-release")
    name = codename(release.read_text()) if release.is_file() else ""
    files = sources.machine_files()
    found = sources.read(files, name, CONSUL_SUITE) if name and shutil.which("apt-get") else None
    if found is None:
        raise Missing(f"no consul, and no Debian source to take one from: {OWN_CONSUL}")
    return found


def private_apt(folder: Path, source: sources.Source) -> list[str]:
    """`apt-get` with every file that it writes or reads as state under ``folder``."""
    for part in ("state/lists/partial", "cache/archives/partial", "parts"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "parts" / f"consul{source.suffix}").write_text(source.text)
    options = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": folder / "parts",
        # A release that is no longer renewed has a Release file that is out of date.
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    flags = [flag for key, value in options.items() for flag in ("-o", f"{key}={value}")]
    return ["apt-get", "-qq", *flags]


def install_consul() -> None:
    """Unpack Debian's consul into .parts/consul, whole or not at all."""
    source = consul_source()
    print(f"fetching consul of {CONSUL_SUITE} into {PARTS.name}/ ...", flush=True)
    PARTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PARTS, prefix="apt-") as name:
        folder = Path(name)
        apt = private_apt(folder, source)
        try:
            run([*apt, "update"])
            run([*apt, "download", "consul"], folder=folder)
            (package,) = folder.glob("consul_*.deb")
            run(["dpkg-deb", "-x", str(package), str(folder / "unpacked")])
        except Missing as reason:
            raise Missing(f"no consul ({reason}): {OWN_CONSUL}") from reason
        shutil.rmtree(PARTS / "consul", ignore_errors=True)
        (folder / "unpacked").rename(PARTS / "consul")


def node_packages_missing() -> bool:
    """Whether .parts/node is not what the lock file says."""
    marks = [NODE_PACKAGES / file.name for file in NODE_FILES]
    whole = (NODE_PACKAGES / "complete").is_file() and all(mark.is_file() for mark in marks)
    return not whole or any(
        mark.read_bytes() != file.read_bytes() for mark, file in zip(marks, NODE_FILES, strict=True)
    )


def install_node_packages() -> None:
    """What package-lock.json lists, none of it run on the way (--ignore-scripts)."""
    print(f"fetching node packages into {PARTS.name}/ ...", flush=True)
    shutil.rmtree(NODE_PACKAGES, ignore_errors=True)
    NODE_PACKAGES.mkdir(parents=True)
    for file in NODE_FILES:
        shutil.copy(file, NODE_PACKAGES)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    run([*npm_command(), "ci", *options], folder=NODE_PACKAGES)
    (NODE_PACKAGES / "complete").touch()


def main() -> int:
    try:
        packages = missing_packages()
        if packages:
            install_packages(packages)
        if installed_consul() is None:
            install_consul()
        if node_packages_missing():
            install_node_packages()
    except (Missing, FileNotFoundError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
