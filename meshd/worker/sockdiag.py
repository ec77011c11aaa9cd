"""Who owns the other end of a local TCP connection: the kernel's answer, by NETLINK_SOCK_DIAG.

The connection that a worker accepted from an application on this host has a second socket, the
application's. Its exact four-tuple is looked up (sock_diag(7), inet_diag_req_v2 without
NLM_F_DUMP); any user may ask. The answer counts only when it provably is that socket, alive and in
somebody's hands:

* The kernel falls back to a listener on the asked port, so the four-tuple must be the asked one
  and the state not LISTEN.
* A socket that its process has closed already has no inode, and the kernel then reports uid 0: an
  early close would make anybody root. So inode 0 is unknown.
* An IPv6 socket connected to a mapped address is an IPv4 connection: asked as such, though the
  answer then speaks IPv6.

The uid is that of the process which made the socket.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
TCP_SYN_SENT, TCP_SYN_RECV, TCP_TIME_WAIT, TCP_CLOSE, TCP_LISTEN = 2, 3, 6, 7, 10
_NO_OWNER = (TCP_SYN_SENT, TCP_SYN_RECV, TCP_TIME_WAIT, TCP_CLOSE, TCP_LISTEN)
_ANY_STATE = 0xFFFFFFFF
_MAPPED = bytes(10) + b"\xff\xff"
_REQUEST_BYTES = 72
_ANSWERS_READ = 8  # answers to earlier questions that were given up; more than one is a marvel

# nlmsghdr; inet_diag_req_v2: family, protocol, extensions, states; then inet_diag_sockid:
# ports and addresses in network order, interface 0, no cookie.
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBxI")
_NO_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
# inet_diag_msg: family, state, timer, retransmits; sockid; expires, rqueue, wqueue, uid, inode.
_ANSWER = struct.Struct("=BBBB48sIIIII")
_ERROR = struct.Struct("=i")

Address = tuple[Any, ...]  # what getsockname gives; host and port are used


class SockDiag:
    """One netlink socket. Not for two threads; a forked child needs its own."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG)
        self._sequence = 0
        self.pid = os.getpid()

    def close(self) -> None:
        self._sock.close()

    def peer_uid(self, local: Address, peer: Address) -> int | None:
        """The uid that owns `peer`'s socket of the connection; None if nobody provably does.

        `local` is the accepted socket's own address, `peer` its peer's. OSError when the kernel
        does not answer (no sock_diag support).
        """
        wanted = _sockid(peer, local)
        family = socket.AF_INET if wanted.family == 4 else socket.AF_INET6
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._sock.send(
            _HEADER.pack(_REQUEST_BYTES, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, 0)
            + _QUESTION.pack(family, socket.IPPROTO_TCP, 0, _ANY_STATE)
            + wanted.packed
            + _NO_COOKIE
        )
        kind, body = self._answer(sequence)
        if kind == NLMSG_ERROR:
            code = -_ERROR.unpack_from(body)[0]
            if code == errno.ENOENT:
                return None
            raise OSError(code, f"sock_diag: {os.strerror(code)}")
        return _owner(body, wanted)

    def _answer(self, sequence: int) -> tuple[int, bytes]:
        """The kernel answers within the send, so this never waits."""
        for _ in range(_ANSWERS_READ):
            data = self._sock.recv(4096)
            _, kind, _, number, _ = _HEADER.unpack_from(data)
            if number == sequence:
                return kind, data[_HEADER.size :]
        raise OSError(errno.EPROTO, "sock_diag: no answer to the question asked")


class _SockId:
    __slots__ = ("family", "packed")

    def __init__(self, family: int, packed: bytes) -> None:
        self.family = family
        self.packed = packed


def _sockid(near: Address, far: Address) -> _SockId:
    """The first 36 bytes of inet_diag_sockid: ports, then addresses in 16 bytes each."""
    near_ip, far_ip = _pack_ip(near[0]), _pack_ip(far[0])
    ports = struct.pack("!HH", near[1], far[1])
    if len(near_ip) == len(far_ip) == 4:
        return _SockId(4, ports + near_ip + bytes(12) + far_ip + bytes(12))
    return _SockId(6, ports + near_ip.rjust(16, b"\0") + far_ip.rjust(16, b"\0"))


def _pack_ip(text: str) -> bytes:
    if ":" not in text:
        return socket.inet_pton(socket.AF_INET, text)
    packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    return packed[12:] if packed.startswith(_MAPPED) else packed


def _owner(body: bytes, wanted: _SockId) -> int | None:
    family, state, _, _, sockid, _, _, _, uid, inode = _ANSWER.unpack_from(body)
    if state in _NO_OWNER or not inode or not _same(family, sockid, wanted):
        return None
    return int(uid)


def _same(family: int, found: bytes, wanted: _SockId) -> bool:
    """Whether the answer's four-tuple is the one asked for."""
    ours = wanted.packed
    if family == socket.AF_INET6 and wanted.family == 4:  # the peer's socket uses mapped addresses
        return found[:36] == ours[:4] + _MAPPED + ours[4:8] + _MAPPED + ours[20:24]
    if family == socket.AF_INET6:
        return found[:36] == ours
    # For IPv4 the kernel leaves the other 12 bytes of an address unsaid.
    return wanted.family == 4 and found[:8] == ours[:8] and found[20:24] == ours[20:24]


_shared: SockDiag | None = None


def peer_uid(local: Address, peer: Address) -> int | None:
    """`SockDiag.peer_uid` on this process's cached socket; about 6 us."""
    global _shared
    if _shared is None or _shared.pid != os.getpid():
        _shared = SockDiag()
    return _shared.peer_uid(local, peer)
