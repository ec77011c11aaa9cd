"""How requests and connections end: response_flags and response_code_details, in one table.

Flags are Envoy's, so that Istio's dashboards and their readers know them.  The details are
a reason of ours (`meshkit.http.errors.REPLIES`) where we answered ourselves, the code of a
message that was refused (``*``), ``via_upstream`` otherwise, and nothing for connections.
docs/metrics.md shows the table; each row names the test that brings it about.
"""

from __future__ import annotations

from typing import NamedTuple

FILES = {
    "flags": "tests/meshd/worker/real/test_flags_real.py",
    "limits": "tests/meshd/worker/real/test_limits_real.py",
    "upgrade": "tests/meshd/worker/real/test_upgrade_real.py",
    "upgrade_h2": "tests/meshd/worker/real/test_upgrade_h2_real.py",
    "tcp": "tests/meshd/worker/real/test_tcp_real.py",
    "gateway": "tests/gateway/test_gateway_real.py",
}
"""Where the tests are that rows name."""


class Outcome(NamedTuple):
    """``status``: what the client is told (a gRPC caller: a grpc-status that stands for it);
    0 = what the upstream said, or nothing.  ``file``: a key of FILES, ``test`` a name in it."""

    of: str
    flag: str
    details: str
    status: int
    meaning: str
    file: str
    test: str


_TABLE = """
HTTP | - | via_upstream | 0 | the upstream's answer, whole | flags.how_a_request_ends
HTTP | URX | via_upstream | 0 | the same; the route would retry it, but no try is left
     | flags.how_a_request_ends
HTTP | NR | host_not_found | 404 | no such host in the mesh | flags.how_a_request_ends
HTTP | NR | route_not_found | 404 | the host has no route for it | flags.how_a_request_ends
HTTP | NR | port_not_http | 404 | its port carries connections: call it by an upstreams port
     | flags.how_a_request_ends
HTTP | NC | cluster_not_found | 503 | the route's destination is none | flags.how_a_request_ends
HTTP | UH | no_healthy_upstream | 503 | the destination has no endpoint | flags.how_a_request_ends
HTTP | UF | upstream_connection_failure | 503 | no connection, or its TLS failed
     | flags.how_a_request_ends
HTTP | UF | upstream_identity_refused | 503 | the endpoint may not serve the service
     | flags.how_a_request_ends
HTTP | UC | upstream_reset | 503 | the endpoint closed before it answered
     | flags.how_a_request_ends
HTTP | UC | upstream_cut | 0 | its answer broke off, and ours was cut | flags.a_cut_answer
HTTP | UR | upstream_remote_reset | 503 | it reset the HTTP/2 stream | flags.how_a_request_ends
HTTP | UPE | upstream_protocol_error | 502 | its answer is not HTTP | flags.how_a_request_ends
HTTP | UT | upstream_timeout | 504 | the route's timeout, or grpc-timeout
     | flags.how_a_request_ends
HTTP | UT | via_upstream | 0 | the same within an answer, which was cut
     | flags.a_timeout_within_an_answer
HTTP | SI | upstream_idle_timeout | 504 | the upstream sent nothing for streamIdle seconds
     | flags.how_a_request_ends
HTTP | SI | stream_idle_timeout | 408 | nor did the client, whose body was awaited
     | flags.how_a_request_ends
HTTP | SI | via_upstream | 0 | nothing moved within an answer, which was cut
     | flags.silence_within_an_answer
HTTP | - | request_timeout | 408 | the request came too slowly | flags.how_a_request_ends
HTTP | DC | via_upstream | 0 | the client left before its answer's end | flags.a_client_that_leaves
HTTP | DPE | * | 400 | no acceptable request; the details are the rule (also 405…505)
     | flags.how_a_request_ends
HTTP | UO | overloaded | 503 | the worker is out of descriptors
     | limits.short_of_descriptors_less_and_less_is_served
HTTP | - | caller_unknown | 403 | the caller is no service of this host | flags.how_a_request_ends
HTTP | - | misdirected_request | 421 | at a gateway: a host of another certificate
     | gateway.http_and_https_reach_the_mesh_and_certificates_follow_their_files
HTTP | - | https_required | 301 | at a gateway: httpsRedirect | flags.a_gateway_wants_https
upgrade | - | via_upstream | 101 | a tunnel that both sides ended (HTTP/2: 200)
     | upgrade.a_tunnel_carries_anything_both_ways
upgrade | DC | via_upstream | 101 | the client reset it | upgrade.a_client_that_dies_is_seen
upgrade | UC | via_upstream | 101 | the upstream reset it
     | upgrade.an_application_that_dies_is_seen
upgrade | SI | via_upstream | 101 | nothing moved for streamIdle seconds
     | upgrade.an_idle_tunnel_is_ended
upgrade | UPE | upstream_protocol_error | 502 | a 101 that is none: wrong protocol or digest
     | upgrade.a_101_that_is_none_is_502_and_no_tunnel
upgrade | DPE | * | 400 | no handshake: bad_websocket_key, upgrade_with_body…
     | upgrade.a_handshake_that_is_none_is_400
upgrade | - | upgrade_not_supported | 501 | the endpoint's HTTP/2 takes no extended CONNECT
     | upgrade_h2.an_application_without_extended_connect_is_501
upgrade | - | draining | 503 | asked for while the worker drains
     | flags.no_tunnel_begins_in_a_drain
TCP | - | | 0 | both sides ended, or connection_termination_details say why
    | tcp.bytes_both_ways_and_half_close
TCP | NR | route_not_found | 0 | no route for it | tcp.no_route
TCP | NC | cluster_not_found | 0 | the route's destination is none
    | tcp.what_cannot_be_served_is_reset
TCP | UH | no_healthy_upstream | 0 | the destination has no endpoint
    | tcp.what_cannot_be_served_is_reset
TCP | UF | upstream_connection_failure | 0 | no connection, or its TLS failed
    | tcp.what_cannot_be_served_is_reset
TCP | UF | upstream_identity_refused | 0 | the endpoint may not serve the service
    | tcp.what_cannot_be_served_is_reset
TCP | DC | | 0 | the client reset it | tcp.a_reset_by_the_caller_reaches_the_application
TCP | UC | | 0 | the upstream reset it | tcp.a_reset_by_the_application_reaches_the_caller
TCP | SI | stream_idle_timeout | 0 | nothing moved for too long | tcp.an_idle_connection_is_reset
"""


def _outcome(row: str) -> Outcome:
    of, flag, details, status, meaning, shown = (part.strip() for part in row.split("|"))
    file, _, test = shown.partition(".")
    return Outcome(of, flag, details, int(status), meaning, file, f"test_{test}")


OUTCOMES: tuple[Outcome, ...] = tuple(
    _outcome(row) for row in _TABLE.strip().replace("\n    ", " ").splitlines()
)
