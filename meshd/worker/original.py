"""Where a captured connection was meant to go, and who sent it.

A redirect (nftables `redirect`, iptables REDIRECT) rewrites the destination and
conntrack remembers the old one: SO_ORIGINAL_DST.  A transparent proxy (tproxy) does not
rewrite it: there the socket's own address is the destination.
"""

from __future__ import annotations

import socket
import struct

Address = tuple[str, int]

SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h; IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h is 80 too."""
_V4 = struct.Struct("!2xH4s8x")
"""sockaddr_in: family, port, address."""
_V6 = struct.Struct("!2xH4x16s4x")
"""sockaddr_in6: family, port, flow, address, scope."""
_MAPPED = "::ffff:"


def original_destination(sock: socket.socket) -> Address:
    """The destination as the client asked for it, as the kernel prints it."""
    local = sock.getsockname()
    host = str(local[0])
    try:
        if ":" in host and not host.startswith(_MAPPED):
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, _V6.size)
            port, packed = _V6.unpack(raw)
            return socket.inet_ntop(socket.AF_INET6, packed), port
        raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, _V4.size)
        port, packed = _V4.unpack(raw)
        return socket.inet_ntop(socket.AF_INET, packed), port
    except OSError:  # not redirected, or no conntrack in this kernel
        return host.removeprefix(_MAPPED), local[1]
