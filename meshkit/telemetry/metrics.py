"""Every metric that a daemon exports: name, type, help, labels, in one table.

Istio's names and labels are kept (istio-semantics section 6), so that existing
dashboards work.  Our own begin with ``meshd_`` (hosts and gateways) or
``mesh_ca_``.  A metric that is not in `METRICS` cannot be made: `meshd.counters`
looks names up here.  docs/metrics.md is generated from this table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Type = Literal["counter", "gauge", "histogram"]

DURATION_BOUNDS: tuple[float, ...] = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000),
    *(300_000, 600_000, 1_800_000, 3_600_000),
)
"""Milliseconds; the bounds of Envoy's histograms, which Istio exports."""

SIZE_BOUNDS: tuple[float, ...] = (
    0,
    *(2**bits - 1 for bits in range(6, 21)),
    *(2**bits - 1 for bits in range(22, 31, 2)),
)
"""Bytes.  One below a power of two, so that `bit_length` finds the bucket (see `SIZE_BUCKETS`):
looking for it in a list costs three times as much, and every request pays it twice."""

SIZE_BUCKETS: tuple[int, ...] = tuple(bisect_left(SIZE_BOUNDS, 2**bits - 1) for bits in range(65))
"""``bit_length`` of a size → index of its bucket."""

_SIDES = ("source", "destination")
_FACTS = (
    *("workload", "workload_namespace", "principal", "app", "version", "cluster"),
    *("canonical_service", "canonical_revision"),
)
ISTIO_LABELS: tuple[str, ...] = (
    "reporter",
    *(f"{side}_{fact}" for side in _SIDES for fact in _FACTS),
    *("destination_service", "destination_service_name", "destination_service_namespace"),
    *("request_protocol", "response_code", "grpc_response_status", "response_flags"),
    "connection_security_policy",
)
"""Labels of the istio_* request metrics; a missing value is ``unknown``."""

ISTIO_STREAM_LABELS: tuple[str, ...] = tuple(
    label for label in ISTIO_LABELS if label not in ("response_code", "grpc_response_status")
)
"""Of TCP connections, which have no code.  Messages and bytes of what is still under way carry
them too, with response_flags "-": how it will end is not known yet."""


@dataclass(frozen=True, slots=True)
class Metric:
    """``bounds`` (histograms only) are upper and inclusive; +Inf is implied.

    ``scale``: a histogram's sum is kept in whole parts of so much of its unit.
    """

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    scale: int = 1


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels)


_TABLE = (
    Metric("istio_requests_total", "counter", "Requests handled.", ISTIO_LABELS),
    Metric(
        "istio_request_duration_milliseconds",
        "histogram",
        "From the request's head to the response's end, milliseconds.",
        ISTIO_LABELS,
        DURATION_BOUNDS,
        1000,
    ),
    Metric(
        "istio_request_bytes",
        "histogram",
        "Bytes of the request's body.",
        ISTIO_LABELS,
        SIZE_BOUNDS,
    ),
    Metric(
        "istio_response_bytes",
        "histogram",
        "Bytes of the response's body.",
        ISTIO_LABELS,
        SIZE_BOUNDS,
    ),
    _counter("istio_request_messages_total", "gRPC messages of clients.", *ISTIO_STREAM_LABELS),
    _counter("istio_response_messages_total", "gRPC messages of servers.", *ISTIO_STREAM_LABELS),
    _counter("istio_tcp_connections_opened_total", "TCP connections opened.", *ISTIO_STREAM_LABELS),
    _counter("istio_tcp_connections_closed_total", "TCP connections closed.", *ISTIO_STREAM_LABELS),
    _counter(
        "istio_tcp_received_bytes_total", "Bytes that TCP clients sent.", *ISTIO_STREAM_LABELS
    ),
    _counter(
        "istio_tcp_sent_bytes_total", "Bytes that TCP clients received.", *ISTIO_STREAM_LABELS
    ),
    _counter("meshd_connections_total", "Connections accepted.", "listener"),
    _gauge("meshd_connections", "Connections open now."),
    _counter("meshd_connections_refused_total", "Connections closed at accept.", "reason"),
    _counter("meshd_accept_pauses_total", "Times that accepting paused: no descriptors left."),
    _counter("meshd_handshakes_total", "TLS handshakes finished.", "side"),
    _counter("meshd_handshake_failures_total", "TLS handshakes that failed.", "side", "reason"),
    _counter("meshd_refusals_total", "Peers and requests refused, by reason.", "reason"),
    _counter("meshd_limit_hits_total", "Limits hit and wire rules broken.", "limit"),
    _counter(
        "meshd_plaintext_connections_total", "Plaintext connections that were served.", "service"
    ),
    _counter("meshd_retries_total", "Requests tried again."),
    _counter("meshd_downstream_resets_total", "Downstream connections that broke."),
    _counter("meshd_upstream_connections_total", "Upstream connections opened."),
    _counter(
        "meshd_upstream_connect_failures_total", "Upstream connections that failed.", "reason"
    ),
    _gauge("meshd_upstream_connections", "Upstream connections open now."),
    _gauge("meshd_upstream_idle_connections", "Upstream connections idle in pools now."),
    _counter("meshd_access_log_dropped_total", "Access-log lines dropped: the log is too slow."),
    _counter("meshd_fiber_errors_total", "Fibers that ended with an unexpected error."),
    _gauge("meshd_fibers", "Fibers alive in workers now."),
    _gauge("meshd_requests_in_flight", "Requests being served when last looked at."),
    _counter(
        "meshd_upgrades_total", "Requests that became tunnels: websocket or other.", "protocol"
    ),
    _gauge("meshd_tunnels", "Upgraded connections and streams open now."),
    _counter("meshd_snapshots_total", "Configuration revisions switched to by workers."),
    _counter("meshd_snapshot_refusals_total", "Configuration revisions that workers refused."),
    _counter("meshd_series_overflow_total", "Counts whose own series found no room."),
    _gauge("meshd_build_info", "1, with the version as a label.", "version"),
    _gauge("meshd_ready", "1 when requests are served through a worker."),
    _gauge("meshd_workers", "Workers connected to the agent."),
    _counter("meshd_worker_starts_total", "Workers started by the agent."),
    _counter("meshd_worker_exits_total", "Workers that ended, by how.", "how"),
    _gauge("meshd_policy_connected", "1 while the policy server's stream is open."),
    _gauge("meshd_policy_revision", "Revision of the policy in force on this host."),
    _gauge("meshd_snapshot_info", "1 for the snapshot revision that each worker runs.", "revision"),
    _gauge(
        "meshd_certificate_expiry_seconds",
        "When a certificate ends, seconds since 1970.",
        "identity",
    ),
    _counter("meshd_certificate_renewals_total", "Certificates renewed."),
    _counter("meshd_certificate_renewal_failures_total", "Renewals that failed and are retried."),
    _gauge("meshd_discovery_connected", "1 while discovery answers.", "kind"),
    _gauge("meshd_discovery_instances", "Service instances known."),
    _gauge("meshd_discovery_held", "Services whose last known instances are held."),
    _gauge("meshd_local_services", "Local services, by state.", "state"),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _TABLE}


def metric(name: str) -> Metric:
    """The metric called ``name``; KeyError says where to declare a new one."""
    found = METRICS.get(name)
    if found is None:
        raise KeyError(f"{name}: declare it in meshkit/telemetry/metrics.py")
    return found


def bucket(bounds: tuple[float, ...], value: float) -> int:
    """Index of the bucket for ``value``: the first bound ≥ it; len(bounds) is +Inf."""
    return bisect_left(bounds, value)
