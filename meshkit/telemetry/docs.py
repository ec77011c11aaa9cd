"""docs/metrics.md from the table of metrics.

    python -m meshkit.telemetry.docs                        print it
    python -m meshkit.telemetry.docs --check docs/metrics.md    exit 1 if it differs

meshkit opens no files elsewhere; this module is a tool and not imported by any.
"""

from __future__ import annotations

import sys
from pathlib import Path

from meshkit.telemetry.accesslog import GRPC_KEYS, KEYS
from meshkit.telemetry.flags import FILES, OUTCOMES
from meshkit.telemetry.metrics import (
    DURATION_BOUNDS,
    ISTIO_LABELS,
    ISTIO_STREAM_LABELS,
    METRICS,
    SIZE_BOUNDS,
    Metric,
)

_HEAD = """\
# Metrics and access log

Generated from `meshkit/telemetry/metrics.py`; edit that and run
`python -m meshkit.telemetry.docs > docs/metrics.md`.

meshd and mesh-gateway answer `GET /metrics` (Prometheus text) on the address
`metrics:` of their configuration. Counters are kept in shared memory, one file a
worker: they survive a worker's crash, and are the sum over the host's workers.
"""


def render() -> str:
    """The whole page."""
    istio = [m for m in METRICS.values() if m.name.startswith("istio_")]
    own = [m for m in METRICS.values() if not m.name.startswith("istio_")]
    bounds = ", ".join(f"{bound:g}" for bound in DURATION_BOUNDS)
    sizes = ", ".join(str(bound) for bound in SIZE_BOUNDS)
    labels = "\n".join(f"- `{label}`" for label in ISTIO_LABELS)
    fewer = [f"`{label}`" for label in ISTIO_LABELS if label not in ISTIO_STREAM_LABELS]
    keys = "\n".join(f"- `{key}`" for key in KEYS)
    return f"""{_HEAD}
## Requests, named as Istio names them

{_rows(istio, labels=False)}
Histogram bounds (inclusive) of durations: {bounds}, +Inf; of bytes: {sizes}, +Inf.

Labels of all of them (missing values are `unknown`):

{labels}

Connections, their bytes and messages have no {" and no ".join(fewer)}. Bytes and messages are
counted while their connection or stream lives, every few seconds, with response_flags `-`;
closed connections with the flags they ended with. `request_protocol` is `http`, `grpc` or `tcp`.

## The daemons themselves

{_rows(own, labels=True)}
## Access log

One JSON object a line, for each request and each TCP connection; missing values are `"-"`.
A connection's line comes at its end; it has no method, path, protocol, authority and request id,
and response_code 0. Lines of gRPC requests end with {", ".join(f"`{key}`" for key in GRPC_KEYS)}.
Keys, in order:

{keys}

## Response flags and details

How requests and connections end; statuses are what the client is told (0: what the upstream
said, or nothing), gRPC callers get the grpc-status that stands for them. A refused message has the
rule it broke as its details.

{_outcomes()}"""


def _outcomes() -> str:
    head = "| of | flag | details | status | meaning | shown by |\n|---|---|---|---|---|---|\n"
    rows = (
        f"| {row.of} | `{row.flag}` | {_code(row.details)} | {row.status} | {row.meaning} | "
        f"[{row.test}](../{FILES[row.file]}) |\n"
        for row in OUTCOMES
    )
    return head + "".join(rows)


def _code(text: str) -> str:
    return f"`{text}`" if text else "–"


def _rows(metrics: list[Metric], labels: bool) -> str:
    head = "| name | type | labels | meaning |\n|---|---|---|---|\n"
    if not labels:
        head = "| name | type | meaning |\n|---|---|---|\n"
    return head + "".join(_row(metric, labels) for metric in metrics)


def _row(metric: Metric, labels: bool) -> str:
    names = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    middle = f" {names} |" if labels else ""
    return f"| `{metric.name}` | {metric.type} |{middle} {metric.help} |\n"


def main(arguments: list[str]) -> int:
    """Exit status: 0 printed or equal, 1 the file differs, 2 wrong usage."""
    if not arguments:
        sys.stdout.write(render())
        return 0
    if len(arguments) != 2 or arguments[0] != "--check":
        sys.stderr.write("usage: python -m meshkit.telemetry.docs [--check FILE]\n")
        return 2
    path = Path(arguments[1])
    if path.is_file() and path.read_text(encoding="utf-8") == render():
        return 0
    sys.stderr.write(f"{path} is out of date: python -m meshkit.telemetry.docs > {path}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
