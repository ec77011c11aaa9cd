"""What an operator does about an error of the operating system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from meshd.config import AgentConfig

_BINDING = {
    errno.EADDRINUSE: "another program has it (`ss -ltnp` names it): end it, or choose another",
    errno.EADDRNOTAVAIL: "this host does not have that address (`ip address` lists those it has)",
    errno.EACCES: "a port below 1024 needs root, or CAP_NET_BIND_SERVICE",
}
_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


def reason(error: OSError) -> str:
    """The system's words, without number and file name."""
    return error.strerror or str(error)


def cannot_bind(address: str, port: int, error: OSError) -> str:
    """Why a listener is not open, and what to do."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    said = f"{where}: {reason(error)}"
    remedy = _BINDING.get(error.errno or 0)
    return f"{said}; {remedy}" if remedy else said


def cannot_run(config: AgentConfig, error: OSError) -> str:
    """Why the agent ended, and what to do."""
    if not error.filename:
        return reason(error)
    file = Path(os.fsdecode(error.filename))
    said = f"{file}: {reason(error)}"
    if error.errno not in _RIGHTS:
        return said
    other = "" if error.errno == errno.EROFS else "run as root, or "
    for setting, folder in (("runtimeDir", config.runtime), ("stateDir", config.state)):
        if file == folder or file in folder.parents or folder in file.parents:
            return f"{said}; {other}set {setting} to a folder that may be written here"
    return f"{said}; {other}make it writable"
