"""Which kinds there are: those that run, and those that are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from meshkit.model.decode import Message
from meshkit.model.destination_rule import DESTINATION_RULE
from meshkit.model.gateway import GATEWAY
from meshkit.model.peer_authentication import PEER_AUTHENTICATION
from meshkit.model.service_entry import SERVICE_ENTRY, WORKLOAD_ENTRY
from meshkit.model.virtual_service import VIRTUAL_SERVICE

NETWORKING = "networking.istio.io"
SECURITY = "security.istio.io"
_ALL_NETWORKING = ("v1", "v1beta1", "v1alpha3")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind that runs.  The versions of a group mean the same."""

    name: str
    group: str
    versions: tuple[str, ...]
    spec: Message

    @property
    def api_versions(self) -> tuple[str, ...]:
        return tuple(f"{self.group}/{version}" for version in self.versions)


@dataclass(frozen=True, slots=True)
class Refused:
    """A known kind that does not run: ``ever`` False means never; ``instead``: what to do."""

    instead: str
    ever: bool = True


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("VirtualService", NETWORKING, _ALL_NETWORKING, VIRTUAL_SERVICE),
        Kind("DestinationRule", NETWORKING, _ALL_NETWORKING, DESTINATION_RULE),
        Kind("Gateway", NETWORKING, _ALL_NETWORKING, GATEWAY),
        Kind("ServiceEntry", NETWORKING, _ALL_NETWORKING, SERVICE_ENTRY),
        Kind("WorkloadEntry", NETWORKING, _ALL_NETWORKING, WORKLOAD_ENTRY),
        Kind("PeerAuthentication", SECURITY, ("v1", "v1beta1"), PEER_AUTHENTICATION),
    )
}

_NO_ENVOY = "there is no Envoy here"
_GATEWAY_API = "write a VirtualService instead"

REFUSED: Mapping[tuple[str, str], Refused] = {
    (NETWORKING, "EnvoyFilter"): Refused(
        f"{_NO_ENVOY}: use the fields of VirtualService and DestinationRule", ever=False
    ),
    (NETWORKING, "ProxyConfig"): Refused(
        f"{_NO_ENVOY}: set workers and limits in /etc/meshd/meshd.yaml", ever=False
    ),
    ("extensions.istio.io", "WasmPlugin"): Refused(
        f"{_NO_ENVOY}: do it in the application, or in a service in front of it", ever=False
    ),
    ("extensions.istio.io", "ExtensionFilter"): Refused(
        f"{_NO_ENVOY}: do it in the application, or in a service in front of it", ever=False
    ),
    ("install.istio.io", "IstioOperator"): Refused(
        "the mesh is configured by meshd.yaml and mesh-ca.yaml", ever=False
    ),
    (NETWORKING, "Sidecar"): Refused("every service may reach every other"),
    (NETWORKING, "WorkloadGroup"): Refused("write WorkloadEntries, or run meshd on the hosts"),
    (SECURITY, "AuthorizationPolicy"): Refused("use PeerAuthentication to require mTLS"),
    (SECURITY, "RequestAuthentication"): Refused("check tokens in the application"),
    ("telemetry.istio.io", "Telemetry"): Refused(
        "metrics are always on; set accessLog in /etc/meshd/meshd.yaml"
    ),
    ("gateway.networking.k8s.io", "Gateway"): Refused(
        "write a Gateway of networking.istio.io/v1 instead"
    ),
    **{
        ("gateway.networking.k8s.io", name): Refused(_GATEWAY_API)
        for name in ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute")
    },
    **{
        ("gateway.networking.k8s.io", name): Refused("write a Gateway of networking.istio.io/v1")
        for name in (
            "GatewayClass",
            "ListenerSet",
            "XListenerSet",
            "ReferenceGrant",
            "BackendTLSPolicy",
            "BackendTrafficPolicy",
            "XBackendTrafficPolicy",
        )
    },
    ("", "Service"): Refused("declare the service in /etc/meshd/services.d on its host"),
    ("", "ServiceAccount"): Refused("grant accounts with meshctl token create --account"),
    ("apps", "Deployment"): Refused("declare the service in /etc/meshd/services.d on its host"),
    ("networking.k8s.io", "Ingress"): Refused("write a Gateway and a VirtualService"),
}
"""(group, kind) → why; the core group is ""."""


def known_kinds() -> dict[str, tuple[str, ...]]:
    """The kinds that run, with every apiVersion they are accepted under."""
    return {name: kind.api_versions for name, kind in KINDS.items()}
