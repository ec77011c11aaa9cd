"""Every limit of the data plane, by name, with the reason for its value.

Two sets exist: `MESHD` for traffic of the mesh's own hosts and `GATEWAY` for
clients nobody knows.  Sizes are bytes, times are seconds, 0 means "no limit"
only where a field says so.  Each knob can be overridden by its camelCase name
under ``limits:`` in meshd.yaml and gateway.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """The values for a mesh host; `GATEWAY` tightens what strangers can reach."""

    header_bytes: int = 60 * 1024
    """Whole head, request or response (Envoy's 60 KiB).  Over it: 431, or 502."""
    header_fields: int = 100
    """Fields in one head (Envoy's 100): each costs far more CPU than its bytes."""
    request_line_bytes: int = 16 * 1024
    """Method, target and version.  Over it: 414."""
    field_bytes: int = 16 * 1024
    """One field line: big cookies pass, a head that is one field does not.  431."""
    trailer_bytes: int = 8 * 1024
    """Trailers carry a checksum or a status, never a cookie jar."""
    trailer_fields: int = 20
    chunk_line_bytes: int = 256
    """Size and extensions of one chunk: nobody uses extensions, attackers pad them."""
    chunk_extension_bytes: int = 16 * 1024
    """Extensions of a whole message (net/http's 16 KiB): no free bytes beside the body."""
    tiny_chunks: int = 8192
    """Of a request, ahead of what its reads and bytes allow (see `meshkit.http.chunked`):
    64 KiB of one-byte chunks cost us 300 times what they cost their sender.  0 = no limit."""
    interim_responses: int = 8
    """1xx heads before the final one; an endless series would hold a connection."""

    buffer_bytes: int = 64 * 1024
    """High watermark in each direction: memory held for a peer that does not read."""
    drain_bytes: int = 64 * 1024
    """Body read and dropped to keep a connection after an early reply; else close."""

    tls_handshake: int = 10
    sniff: int = 10
    """Waiting for the bytes that tell a protocol."""
    unfinished_handshakes: int = 1000
    """One costs 640 µs of CPU: more at once than this starve what is established."""
    handshakes_per_second: int = 0
    """A source address's rate; 0 = no limit (hosts of the mesh share addresses)."""
    handshakes_burst: int = 0

    head_timeout: int = 10
    """From a request's first byte to its head's end, absolute: a slow drip ends here."""
    body_idle: int = 300
    """Between two reads of one body, while the client is waited for; 0 = no limit."""
    body_rate: int = 0
    """Bytes a second that a client must send of a body, over `body_rate_seconds`; 0 = off."""
    body_rate_seconds: int = 30
    request_timeout: int = 0
    """For a whole request to arrive; 0 = off (routes have their own timeouts)."""
    forbidden_grace: int = 45
    """For requests under way on a connection that a change has forbidden (Istio's drain time);
    tunnels and TCP connections end at once."""
    stream_idle: int = 300
    """No byte to or from the client while its request is under way; 0 = no limit."""
    keepalive_idle: int = 75
    """Idle between requests (nginx's 75): above every sender's own idle limit."""
    keepalive_requests: int = 0
    """Requests on one connection; 0 = no limit."""
    keepalive_age: int = 3600
    """After this, or up to a tenth earlier, the next answer is a connection's last: load
    spreads again, and not all at once.  0 = no limit."""
    upstream_idle_local: int = 3
    """Idle pooled connection to an application: frameworks close at 5 s (linkerd's 3 s)."""
    upstream_idle_mesh: int = 60
    """Between hosts: always under the receiver's 75 s, or a request races its close."""

    http2_streams: int = 100
    """Open at once on one connection, each way (Envoy's edge; RFC 9113 advises 100)."""
    http2_stream_window: int = 64 * 1024
    """Bytes of one body that wait here: credit returns when the other side took them."""
    http2_connection_window: int = 100 * 64 * 1024
    """Of all streams of a peer's connection: between hosts every stream its own window,
    or 16 readers that stopped starve the rest of a shared connection."""
    http2_frame_bytes: int = 16384
    """Largest frame taken; the RFC's least: a larger one only makes others wait longer."""
    http2_continuations: int = 8
    """CONTINUATION frames of one header block (nghttp2's 8); 4 hold the largest head."""
    http2_resets_burst: int = 1000
    http2_resets_per_second: int = 33
    """Streams reset by a peer, or by us because of what it sent (nghttp2's 1000, 33/s):
    each may have made a backend work for nothing (rapid reset, MadeYouReset)."""
    http2_pings_burst: int = 100
    http2_pings_per_second: int = 10
    """Each is answered: cheap to ask, dear to write."""
    http2_settings_burst: int = 10
    http2_settings_per_second: int = 1
    http2_settings_entries: int = 32
    """SETTINGS frames, and entries in one (nghttp2's 32): each may touch every stream."""
    http2_idle_frames: int = 2000
    """Frames without progress (empty or tiny DATA, WINDOW_UPDATE, PRIORITY, unknown ones)
    ahead of what bytes and time allow: see `meshkit.http.h2_guard`."""
    http2_control_frames: int = 1000
    http2_control_bytes: int = 64 * 1024
    """Answers to a peer's frames that wait because it does not read (Envoy's 1000)."""
    http2_ping_after: int = 15
    """Silence of a peer while streams wait for it, then a PING; 0 = never.  A host without
    power says nothing, and TCP alone would give it up after a quarter of an hour."""
    http2_ping_wait: int = 10
    """For the answer to that PING; then the connection is given up."""
    http2_idle: int = 3600
    """Connection without a stream; between hosts long, for a new one costs a handshake."""
    tcp_idle: int = 3600
    """No byte either way on a TCP connection (Envoy's 1 h); 0 = no limit."""

    listener_connections: int = 0
    """Of one listener in one worker; 0 = only half of RLIMIT_NOFILE for all of them."""
    source_connections: int = 0
    """From one client address (IPv6: one /64) in one worker; 0 = no limit."""

    def override(self, knobs: Mapping[str, int]) -> Limits:
        """A copy with ``knobs`` (camelCase or snake_case → value) replaced.

        Raises ValueError for an unknown name, or for a value that is not a whole
        number of 0 or more.
        """
        changes: dict[str, int] = {}
        for knob, value in knobs.items():
            name = KNOBS.get(knob, knob)
            if name not in KNOBS.values():
                known = ", ".join(sorted(KNOBS))
                raise ValueError(f"limits.{knob}: no such limit; known ones: {known}")
            if type(value) is not int or value < 0:
                raise ValueError(f"limits.{knob}: expected a whole number of 0 or more")
            changes[name] = value
        return replace(self, **changes)


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


KNOBS: Mapping[str, str] = {_camel(f.name): f.name for f in fields(Limits)}
"""camelCase name in a configuration file → field of `Limits`."""

MESHD = Limits()

GATEWAY = Limits(
    header_bytes=32 * 1024,
    request_line_bytes=8 * 1024,
    field_bytes=8 * 1024,
    buffer_bytes=32 * 1024,
    sniff=5,
    handshakes_per_second=50,
    handshakes_burst=200,
    tiny_chunks=1024,
    body_idle=60,
    body_rate=240,  # Kestrel's minimum
    request_timeout=300,
    keepalive_requests=1000,
    http2_connection_window=1024 * 1024,
    http2_resets_burst=200,
    http2_idle=75,
    listener_connections=10_000,
    source_connections=200,
)
