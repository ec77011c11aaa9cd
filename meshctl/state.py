"""What every command shares: the operator's context, the server, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import click

from meshctl import context


class Api(Protocol):
    """The policy server as commands see it; `meshctl.api.PolicyApi`, or a test's stand-in.

    Each call returns the JSON object or raises `meshctl.errors.Failure`.
    """

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]: ...

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def delete(self, path: str) -> dict[str, Any]: ...


def _connect(operator: context.Operator) -> Api:
    # Imported here: `--help`, `version` and completion need neither trio nor TLS.
    from meshctl.api import PolicyApi

    return PolicyApi(operator)


@dataclass
class State:
    """``context_dir`` is ``--context``, or None.  The functions are replaced in tests."""

    context_dir: str | None = None
    connect: Callable[[context.Operator], Api] = _connect
    find: Callable[[str | None], context.Operator] = context.find
    now: Callable[[], float] = field(default=time.time)
    sleep: Callable[[float], None] = field(default=time.sleep)

    @cached_property
    def operator(self) -> context.Operator:
        return self.find(self.context_dir)

    @cached_property
    def api(self) -> Api:
        return self.connect(self.operator)


pass_state = click.make_pass_decorator(State, ensure=True)
