"""Envoy as two hops, configured as Istio's control plane would configure it."""

from __future__ import annotations

import json
from pathlib import Path

from bench.certs import CLIENT
from bench.peers.running import Running
from bench.peers.templates import SERVICES, binary, first_line, render
from bench.processes import PROXY_CPU, Processes, free_ports, listening, until

LOG = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
"""Istio's default JSON access log: the same keys that ours has."""


TCP_LOG = {
    key: value
    for key, value in LOG.items()
    if not value.startswith("%RE") or value.startswith("%REQUESTED")
}
"""The same for connections: nothing of a request's head."""

GRPC_STATS = """\
          - name: grpc_stats
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig
              emit_filter_state: true
              stats_for_all_methods: false"""
"""As Istio adds it to every HTTP filter chain; only measured where the calls are gRPC."""

HTTP2 = """\
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}"""

FULL_HANDSHAKES = "max_session_keys: 0"
"""No session is resumed; without it Envoy keeps one key a cluster, as Istio leaves it."""


def start(folder: Path, backend: int, processes: Processes, protocol: str) -> Running:
    """Two Envoys of one worker thread."""
    out, inner = free_ports(2)
    values: dict[str, object] = {"IN": inner, "OUT": out, "BACKEND": backend, "CLIENT": CLIENT}
    if protocol in ("tcp", "handshake"):
        values |= _tcp(folder, inner, resume=protocol == "tcp")
        templates = ("envoy-tcp-out.yaml", "envoy-tcp-in.yaml")
    else:
        values |= _http(folder, inner, protocol)
        templates = ("envoy-out.yaml", "envoy-in.yaml")
    program, errors = binary("envoy", "envoy", "_bin/envoy"), folder / "envoy.err"
    pids = []
    for template in templates:
        config = str(render(template, folder, **values))
        command = [program, "-c", config, "--concurrency", "1", "--use-dynamic-base-id"]
        pids.append(processes.start([*command, "--log-level", "error"], errors, PROXY_CPU))
    until(lambda: listening(out) and listening(inner), "envoy listens", errors)
    logs = (folder / "envoy-out.log", folder / "envoy-in.log")
    version = first_line([program, "--version"]).rpartition("version: ")[2]
    alpn = (str(values["ALPN"]),) if "ALPN" in values else ()
    return Running("envoy", f"Envoy {version}", out, tuple(pids), inner, logs, alpn=alpn)


def _http(folder: Path, inner: int, protocol: str) -> dict[str, str]:
    alpn = "http/1.1" if protocol == "http/1.1" else "h2"
    http2 = HTTP2 if alpn == "h2" else ""
    return {
        "LOG": _json(LOG),
        "ALPN": alpn,
        "HTTP2": http2,
        "STATS": GRPC_STATS if protocol == "grpc" else "",
        "HOSTS": "\n".join(_virtual_host(i) for i in range(SERVICES)),
        "CLUSTERS": "\n".join(
            "\n".join(filter(None, (_cluster(i, folder, inner, alpn), http2)))
            for i in range(SERVICES)
        ),
    }


def _tcp(folder: Path, inner: int, resume: bool) -> dict[str, str]:
    session = "" if resume else f"        {FULL_HANDSHAKES}\n"
    return {"LOG": _json(TCP_LOG), "CLUSTERS": _cluster(0, folder, inner, "", session)}


def _json(keys: dict[str, str]) -> str:
    return "{json_format: " + json.dumps(keys) + "}"


def _virtual_host(i: int) -> str:
    return (
        f"            - {{name: svc{i}, domains: [svc{i}], routes: [{{match: {{prefix: /}}, "
        f"name: svc{i}, stat_prefix: svc{i}, route: {{cluster: svc{i}, timeout: 15s, "
        f"retry_policy: {{retry_on: 'connect-failure,refused-stream', num_retries: 2}}}}}}]}}"
    )


def _cluster(i: int, folder: Path, port: int, alpn: str, session: str = "") -> str:
    offer = f"          alpn_protocols: [{alpn}]\n" if alpn else ""
    return (
        f"  - name: svc{i}\n    type: STATIC\n    connect_timeout: 1s\n"
        f"    lb_policy: LEAST_REQUEST\n"
        f"    load_assignment: {{cluster_name: svc{i}, endpoints: [{{lb_endpoints: [{{endpoint: "
        f"{{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
        f"    transport_socket:\n      name: tls\n      typed_config:\n"
        f'        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.'
        f"UpstreamTlsContext\n        sni: svc0\n{session}        common_tls_context:\n"
        f"{offer}"
        f"          tls_params: {{tls_minimum_protocol_version: TLSv1_3, "
        f"tls_maximum_protocol_version: TLSv1_3}}\n"
        f"          tls_certificates:\n          - {{certificate_chain: {{filename: "
        f"{folder}/client.pem}}, private_key: {{filename: {folder}/client.key}}}}\n"
        f"          validation_context: {{trusted_ca: {{filename: {folder}/root.pem}}, "
        f"match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: svc0}}}}]}}"
    )
