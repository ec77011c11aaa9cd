"""The names under which people ask for a kind of resource."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshkit.model.load import known_kinds

SHORT = {
    "vs": "VirtualService",
    "dr": "DestinationRule",
    "gw": "Gateway",
    "se": "ServiceEntry",
    "we": "WorkloadEntry",
    "pa": "PeerAuthentication",
}


def _forms(kinds: Iterable[str]) -> dict[str, str]:
    forms = {short: kind for short, kind in SHORT.items() if kind in set(kinds)}
    for kind in kinds:
        lower = kind.lower()
        plural = lower[:-1] + "ies" if lower.endswith("y") else lower + "s"
        forms |= {lower: kind, plural: kind}
    return forms


def kind_of(word: str) -> str:
    """``vs``, ``virtualservice``, ``VirtualServices`` → ``VirtualService``; "" for ``all``."""
    if word == "all":
        return ""
    forms = _forms(known_kinds())
    if word.lower() in forms:
        return forms[word.lower()]
    near = difflib.get_close_matches(word.lower(), forms, 1)
    hint = f"did you mean {forms[near[0]]}? " if near else ""
    raise Failure(
        Exit.USAGE, f"no kind is called {word!r}", f"{hint}known: all, {', '.join(known_kinds())}"
    )
