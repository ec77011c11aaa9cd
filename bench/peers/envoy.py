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


def start(folder: Path, backend: int, processes: Processes) -> Running:
    """Two Envoys of one worker thread."""
    out, inner = free_ports(2)
    log = "{json_format: " + json.dumps(LOG) + "}"
    hosts = "\n".join(_virtual_host(i) for i in range(SERVICES))
    clusters = "\n".join(_cluster(i, folder, inner) for i in range(SERVICES))
    hops = (
        ("envoy-in.yaml", {"IN": inner, "BACKEND": backend, "LOG": log, "CLIENT": CLIENT}),
        ("envoy-out.yaml", {"OUT": out, "LOG": log, "HOSTS": hosts, "CLUSTERS": clusters}),
    )
    program, errors = binary("envoy", "envoy", "_bin/envoy"), folder / "envoy.err"
    pids = []
    for template, values in hops:
        config = str(render(template, folder, **values))
        command = [program, "-c", config, "--concurrency", "1", "--use-dynamic-base-id"]
        pids.append(processes.start([*command, "--log-level", "error"], errors, PROXY_CPU))
    until(lambda: listening(out) and listening(inner), "envoy listens", errors)
    logs = (folder / "envoy-out.log", folder / "envoy-in.log")
    version = first_line([program, "--version"]).rpartition("version: ")[2]
    return Running("envoy", f"Envoy {version}", out, tuple(pids), inner, logs)


def _virtual_host(i: int) -> str:
    return (
        f"            - {{name: svc{i}, domains: [svc{i}], routes: [{{match: {{prefix: /}}, "
        f"name: svc{i}, stat_prefix: svc{i}, route: {{cluster: svc{i}, timeout: 15s, "
        f"retry_policy: {{retry_on: 'connect-failure,refused-stream', num_retries: 2}}}}}}]}}"
    )


def _cluster(i: int, folder: Path, port: int) -> str:
    return (
        f"  - name: svc{i}\n    type: STATIC\n    connect_timeout: 1s\n"
        f"    lb_policy: LEAST_REQUEST\n"
        f"    load_assignment: {{cluster_name: svc{i}, endpoints: [{{lb_endpoints: [{{endpoint: "
        f"{{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
        f"    transport_socket:\n      name: tls\n      typed_config:\n"
        f'        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.'
        f"UpstreamTlsContext\n        sni: svc0\n        common_tls_context:\n"
        f"          alpn_protocols: [http/1.1]\n"
        f"          tls_params: {{tls_minimum_protocol_version: TLSv1_3, "
        f"tls_maximum_protocol_version: TLSv1_3}}\n"
        f"          tls_certificates:\n          - {{certificate_chain: {{filename: "
        f"{folder}/client.pem}}, private_key: {{filename: {folder}/client.key}}}}\n"
        f"          validation_context: {{trusted_ca: {{filename: {folder}/root.pem}}, "
        f"match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: svc0}}}}]}}"
    )
