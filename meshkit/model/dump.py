"""Plain values as YAML text, in the order and form that people write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from meshkit.model.values import resolve


class _Dumper(yaml.SafeDumper):
    """Nested lists indented, no anchors, texts of several lines as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    if style is None and not isinstance(resolve(value), str):
        style = "'"  # plain, our own reader would take it for a number, as `0o17`
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any) -> str:
    """One document.  ``value``: dicts, lists, strings, numbers, booleans, None."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def to_yaml_stream(documents: Iterable[Mapping[str, Any]]) -> str:
    """Several documents, separated by ``---``: what ``meshctl apply -f -`` reads."""
    return "---\n".join(map(to_yaml, documents))
