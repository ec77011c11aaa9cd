"""What a recorded run says of the machine, the interpreter and the peers."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.peers.templates import first_line

SYSTEM_PREFIX = "/usr"


def is_optimized(arguments: str, prefix: str) -> bool:
    """Whether an interpreter was built with profile-guided optimization.

    `arguments` are its CONFIG_ARGS, `prefix` its sys.base_prefix.  Distributions
    run the profiled build as a make target of their own, so theirs, in /usr, does
    not show the flag and yet is one (debian/rules of python3.11: `profile-opt`).
    """
    return "--enable-optimizations" in arguments or prefix == SYSTEM_PREFIX


def optimized() -> bool:
    return is_optimized(str(sysconfig.get_config_var("CONFIG_ARGS") or ""), sys.base_prefix)


def interpreter() -> str:
    """``CPython 3.11.2 of /usr (optimized), OpenSSL 3.0.22 …``."""
    kind = "optimized" if optimized() else "NOT optimized"
    name = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{name} of {sys.base_prefix} ({kind}), {ssl.OPENSSL_VERSION}"


def processor(cpuinfo: str) -> str:
    """The model's name in the text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine()


def commit() -> str:
    """The measured commit, "+" when files differ from it; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*"]
    done = subprocess.run([*git, "--dirty=+"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def description() -> list[tuple[str, str]]:
    """What is worth knowing, as (name, value)."""
    cpuinfo = Path("/proc/cpuinfo")
    model = processor(cpuinfo.read_text() if cpuinfo.exists() else "")
    return [
        ("processor", f"{model}, {len(os.sched_getaffinity(0))} cores"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("interpreter", interpreter()),
        ("load average before", " ".join(f"{load:.2f}" for load in os.getloadavg())),
        ("commit", commit()),
        ("load generators", f"{_wrk()}, {first_line(['h2load', '--version'])}"),
    ]


def _wrk() -> str:
    return first_line(["wrk", "-v"]).partition(" Copyright")[0]
