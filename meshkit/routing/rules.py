"""DestinationRules: which one acts on a host, for which client (istio-semantics 2).

⚠ The client's namespace is asked first, then the service's, then the root; the
first that has any match wins outright, with no merging across namespaces.  Within
one namespace an exact host beats the longest wildcard, and rules for the same
host merge: their subsets are united (the older keeps a name that both use) and
the first policy given on top wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshkit.model.resources import Balancer, DestinationRule, Subset, TLSMode, TrafficPolicy
from meshkit.names import qualify
from meshkit.routing.age import by_age
from meshkit.routing.names import most_specific

_NO_POLICY = TrafficPolicy()

MAX_REMEMBERED = 50_000
"""Look-ups kept while the rules stay: services come and go for months."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The merged rules of one host in one namespace."""

    policy: TrafficPolicy
    subsets: Mapping[str, Subset]

    def balancer(self, subset: str) -> Balancer:
        """⚠ A subset's policy acts only where a route names it; it overrides by block."""
        own = self._own(subset).load_balancer
        return own or self.policy.load_balancer or "LEAST_REQUEST"

    def tls(self, subset: str) -> TLSMode | None:
        """None: nothing was said, mTLS is automatic."""
        return self._own(subset).tls or self.policy.tls

    def _own(self, subset: str) -> TrafficPolicy:
        return self.subsets[subset].policy if subset else _NO_POLICY


NO_RULE = Rule(_NO_POLICY, {})


class RuleIndex:
    """Every merged rule by namespace and host.

    ``before`` lends its `Rule` objects where they are equal, so that an unchanged
    rule stays the same object and what was compiled from it stays valid.
    """

    def __init__(
        self,
        rules: Iterable[DestinationRule],
        domain: str,
        root_namespace: str,
        before: RuleIndex | None = None,
    ) -> None:
        self._domain = domain
        self._root = root_namespace
        self._known: dict[tuple[str, str, str], Rule] = {}
        self.tables = _tables(rules, domain)
        for namespace, table in self.tables.items():
            old = before.tables.get(namespace, {}) if before is not None else {}
            for host, rule in table.items():
                if old.get(host) == rule:
                    table[host] = old[host]

    def serves(self, domain: str, root_namespace: str) -> bool:
        """It was built for this mesh."""
        return (self._domain, self._root) == (domain, root_namespace)

    def find(self, client: str, service: str, host: str) -> Rule:
        """The rule for ``host`` of namespace ``service``, seen from ``client``'s."""
        key = (client, service, host)
        found = self._known.get(key)
        if found is None:
            if len(self._known) > MAX_REMEMBERED:
                self._known.clear()
            found = self._known[key] = self._find(key)
        return found

    def _find(self, key: tuple[str, str, str]) -> Rule:
        client, service, host = key
        for namespace in (client, service, self._root):
            rule = most_specific(self.tables.get(namespace, {}), host)
            if rule is not None:
                return rule
        return NO_RULE


def _tables(rules: Iterable[DestinationRule], domain: str) -> dict[str, dict[str, Rule]]:
    tables: dict[str, dict[str, Rule]] = {}
    for item in by_age(rules):
        namespace = item.meta.namespace
        table = tables.setdefault(namespace, {})
        host = qualify(item.host, namespace, domain).lower()
        table[host] = _merge(table.get(host, NO_RULE), item)
    return tables


def _merge(older: Rule, item: DestinationRule) -> Rule:
    subsets = dict(older.subsets)
    for subset in item.subsets:
        subsets.setdefault(subset.name, subset)
    return Rule(item.policy if older.policy == _NO_POLICY else older.policy, subsets)
