"""nghttpx as two hops: the proxy of the nghttp2 project, HTTP/2 only here."""

from __future__ import annotations

from pathlib import Path

from bench.peers.running import HOST, Running
from bench.peers.templates import SERVICES, binary, first_line, render
from bench.processes import PROXY_CPU, Processes, free_ports, listening, until

# The keys of Istio's log that nghttpx has a variable for.
FIELDS = {
    "start_time": '"$time_iso8601"',
    "method": '"$method"',
    "path": '"$path"',
    "protocol": '"$protocol_version"',
    "response_code": "$status",
    "bytes_sent": "$body_bytes_sent",
    "duration": '"$request_time"',
    "x_forwarded_for": '"$http_x_forwarded_for"',
    "user_agent": '"$http_user_agent"',
    "authority": '"$authority"',
    "upstream_host": '"$backend_host:$backend_port"',
    "downstream_local_address": '"$server_port"',
    "downstream_remote_address": '"$remote_addr:$remote_port"',
    "requested_server_name": '"$tls_sni"',
}
LOG = "{" + ",".join(f'"{key}":{value}' for key, value in FIELDS.items()) + "}"


def start(folder: Path, backend: int, processes: Processes, protocol: str) -> Running:
    """Two processes of one worker thread; `protocol` is h2, the only one it can on both hops."""
    assert protocol == "h2"
    out, inner = free_ports(2)
    backends = "\n".join(_backend(i, inner) for i in range(SERVICES))
    hops = (
        ("nghttpx-out.conf", {"OUT": out, "BACKENDS": backends, "LOG": LOG}),
        ("nghttpx-in.conf", {"IN": inner, "BACKEND": backend, "LOG": LOG}),
    )
    program, errors = binary("nghttpx"), folder / "nghttpx.err"
    pids = []
    for template, values in hops:
        config = render(template, folder, **values)
        pids.append(processes.start([program, f"--conf={config}"], errors, PROXY_CPU))
    until(lambda: listening(out) and listening(inner), "nghttpx listens", errors)
    logs = (folder / "nghttpx-out.log", folder / "nghttpx-in.log")
    return Running(
        "nghttpx",
        first_line([program, "--version"]),
        out,
        tuple(pids),
        inner,
        logs,
        alpn=("h2",),
        judges_principals=False,
    )


def _backend(i: int, port: int) -> str:
    """A pattern for each service; nghttpx insists on one that takes everything."""
    pattern = f"{HOST}/:/" if i == 0 else f"svc{i}/"
    return f"backend=127.0.0.1,{port};{pattern};proto=h2;tls;sni=svc0"
