"""What makes a waiting poll return: Python resumes an epoll wait after a signal's handler."""

from __future__ import annotations

import os


class Waker:
    """An eventfd; writing it is safe in signal handlers and from other threads."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def on_events(self, _mask: int) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass

    def wake(self) -> None:
        os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        os.close(self.fd)
