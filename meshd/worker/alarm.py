"""The loop's next due time as a descriptor (timerfd_create(2)), so that polls wait without one.

A poll with a timeout makes the kernel set and cancel a timer each time.  At one
connection, where every message is a wait of its own, that was a tenth of a
request's CPU; the next due time itself changes only a few times a second.
"""

from __future__ import annotations

import ctypes
import errno
import os
from math import inf

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSTIME = 1
_SECOND = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Rings once at ``when``, seconds of `time.monotonic`; inf = it is not set.

    Nobody reads the descriptor: each expiry is an edge of its own.
    """

    __slots__ = ("_spec", "fd", "when")

    def __init__(self) -> None:
        self.when = inf
        self._spec = (ctypes.c_long * 4)()  # struct itimerspec: interval, then value; s and ns
        self.fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self.fd < 0:
            raise _error("timerfd_create")

    def set(self, when: float) -> None:
        """Ring then, and not before; replaces an earlier setting.  OSError."""
        nanoseconds = int(when * _SECOND) + 1
        self._spec[2], self._spec[3] = divmod(nanoseconds, _SECOND)
        if _libc.timerfd_settime(self.fd, _ABSTIME, self._spec, None) < 0:
            raise _error("timerfd_settime")
        self.when = when

    def on_events(self, _mask: int) -> None:
        """It has rung; the loop looks at its timers every turn anyway."""
        self.when = inf

    def close(self) -> None:
        os.close(self.fd)


def _error(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {errno.errorcode.get(code, code)}")
