"""nginx as two hops."""

from __future__ import annotations

from pathlib import Path

from bench.peers.running import Running
from bench.peers.templates import SERVICES, binary, first_line, render
from bench.processes import PROXY_CPU, Processes, free_ports, listening, until

# The keys of Istio's log that nginx has a variable for.
FIELDS = {
    "start_time": '"$time_iso8601"',
    "route_name": '"$server_name"',
    "method": '"$request_method"',
    "path": '"$request_uri"',
    "protocol": '"$server_protocol"',
    "response_code": "$status",
    "bytes_received": "$request_length",
    "bytes_sent": "$body_bytes_sent",
    "duration": '"$request_time"',
    "upstream_service_time": '"$upstream_response_time"',
    "x_forwarded_for": '"$http_x_forwarded_for"',
    "user_agent": '"$http_user_agent"',
    "request_id": '"@ID@"',
    "authority": '"$host"',
    "upstream_host": '"$upstream_addr"',
    "upstream_cluster": '"$proxy_host"',
    "downstream_local_address": '"$server_addr:$server_port"',
    "downstream_remote_address": '"$remote_addr:$remote_port"',
    "requested_server_name": '"$ssl_server_name"',
}


def _log(request_id: str) -> str:
    pairs = ",".join(f'"{key}":{value}' for key, value in FIELDS.items())
    return "'{" + pairs.replace("@ID@", request_id) + "}'"


def _server(i: int, port: int, upstream: int) -> str:
    pool = "keepalive 512; keepalive_requests 1000000000; keepalive_timeout 1h;"
    return (
        f"  upstream up{i} {{ server 127.0.0.1:{upstream}; {pool} }}\n"
        f"  server {{ listen 127.0.0.1:{port}; server_name svc{i};"
        f" location / {{ proxy_pass https://up{i}; }} }}"
    )


def start(folder: Path, backend: int, processes: Processes, protocol: str) -> Running:
    """Two masters with a worker each; nginx speaks HTTP/1.1 alone to what is behind it."""
    assert protocol == "http/1.1"
    out, inner = free_ports(2)
    servers = "\n".join(_server(i, out, inner) for i in range(SERVICES))
    hops = (
        ("nginx-out.conf", {"OUT": out, "SERVERS": servers, "LOG": _log("$request_id")}),
        ("nginx-in.conf", {"IN": inner, "BACKEND": backend, "LOG": _log("$http_x_request_id")}),
    )
    program, errors = binary("nginx"), folder / "nginx.err"
    pids = []
    for template, values in hops:
        command = [program, "-c", str(render(template, folder, **values)), "-p", str(folder)]
        pids.append(processes.start(command, errors, PROXY_CPU))
    until(lambda: listening(out) and listening(inner), "nginx listens", errors)
    logs = (folder / "nginx-out.log", folder / "nginx-in.log")
    return Running("nginx", first_line([program, "-v"]), out, tuple(pids), inner, logs)
