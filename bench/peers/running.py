"""What every peer gives the benchmark once it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.processes import children

HOST = "svc0"
"""The service that is called: the `Host` of every request."""


@dataclass(frozen=True, slots=True)
class Running:
    """Two hops of one proxy, ready to be called at 127.0.0.1:`port`.

    `daemons` are the processes that were started, the outbound hop's first; what
    they start counts too.
    `agents`: those of them that carry no traffic (control of the hop), which
    count as well and are also reported by themselves.  `inbound`, `sni` and
    `alpn` say where the inbound hop's mTLS port is and how it is spoken to.
    """

    name: str
    version: str
    port: int
    daemons: tuple[int, ...]
    inbound: int
    logs: tuple[Path, ...]
    """The access log of each hop; one file where both hops share it."""
    agents: tuple[int, ...] = ()
    sni: str = HOST
    alpn: tuple[str, ...] = ("http/1.1",)
    leaf: str = "client"
    """The caller's certificate (bench/certs.py); "" where it has one of its own making."""
    judges_principals: bool = True
    """Whether the inbound hop can tell callers of the right root apart."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def pids(self) -> list[int]:
        """Every process of both hops, as of now."""
        return [pid for daemon in self.daemons for pid in children(daemon)]

    def outbound_pids(self) -> list[int]:
        """The processes of the outbound hop, as of now."""
        return children(self.daemons[0])
