"""sd_notify: tells systemd READY, STATUS, WATCHDOG, STOPPING where NOTIFY_SOCKET is set.

The protocol is one datagram; `systemd.daemon.notify` would need a compiled
package on every laptop for the same bytes (sd_notify(3)).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping


class Notifier:
    """``environ`` is the process's; without NOTIFY_SOCKET every call is a no-op."""

    def __init__(self, environ: Mapping[str, str], pid: int):
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog = watchdog_interval(environ, pid)

    def send(self, *states: str) -> None:
        """``READY=1``, ``STATUS=…``: never raises, systemd may be reloading."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto("\n".join(states).encode(), self._address)
            except OSError:
                return


def _address(value: str) -> str:
    # "@name" is systemd's spelling of the abstract namespace.
    return "\0" + value[1:] if value.startswith("@") else value


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between WATCHDOG=1 (half of WATCHDOG_USEC); None where none is wanted."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 2_000_000
