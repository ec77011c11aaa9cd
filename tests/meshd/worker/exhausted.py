"""A process of its own in which descriptors run out: `python -m tests.meshd.worker.exhausted`.

The limit is a process's, so nothing else may run in it.  Exit status 0: the listener
paused, and accepted when the descriptors were back.
"""

from __future__ import annotations

import resource
import socket

from meshd.worker.listener import Listener
from meshd.worker.loop import Loop


async def accept_after_a_lack(loop: Loop, listening: socket.socket) -> None:
    listener = Listener(loop, listening)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(listening.getsockname()):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        loop.call_later(0.02, resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        sock, _ = await listener.accept()
        sock.close()
    assert listener.exhausted == 1, listener.exhausted
    assert listener.accepted == 1, listener.accepted
    listener.close()


def main() -> None:
    loop = Loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        loop.run_until_done(accept_after_a_lack(loop, listening))
    loop.close()


if __name__ == "__main__":
    main()
