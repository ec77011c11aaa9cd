"""``meshctl get`` and ``meshctl history``: what is applied, and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.kinds import kind_of
from meshctl.output import Format, Table, age, emit, format_option
from meshctl.state import State, pass_state
from meshctl.view import seconds_of
from meshkit.model.dump import to_yaml_stream

manifests_option = click.option(
    "--manifests", is_flag=True, help="Print the resources as they were applied, for `apply -f -`."
)


def when(value: Any) -> str:
    """UTC to the second."""
    return datetime.fromtimestamp(seconds_of(value), UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def manifest(resource: Mapping[str, Any]) -> dict[str, Any]:
    """What the operator wrote: the resource without the server's own fields."""
    return {k: resource[k] for k in ("apiVersion", "kind", "metadata", "spec") if k in resource}


def _resource_table(resources: Sequence[Mapping[str, Any]], now: float) -> Table:
    rows = [
        (
            r["kind"],
            r["metadata"].get("namespace", "default"),
            r["metadata"]["name"],
            r.get("revision", 0),
            r.get("author", ""),
            age(now - seconds_of(r.get("time"))),
        )
        for r in resources
    ]
    columns = ("kind", "namespace", "name", "revision", "author", "age")
    return Table(columns, rows, empty="no such resource is applied")


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("-A", "--all-namespaces", is_flag=True)
@manifests_option
@format_option
@pass_state
def get(
    state: State,
    kind: str,
    name: str | None,
    namespace: str,
    all_namespaces: bool,
    manifests: bool,
    output: Format,
) -> None:
    """Show resources: KIND is vs, dr, gw, se, we, pa, a full name, or all."""
    wanted = {
        "kind": kind_of(kind),
        "namespace": "" if all_namespaces else namespace,
        "name": name or "",
    }
    query = {key: value for key, value in wanted.items() if value}
    resources = state.api.get("/v1/resources", query).get("resources", [])
    if name and not resources:
        where = "any namespace" if all_namespaces else f"namespace {namespace}"
        raise Failure(
            Exit.NOT_FOUND, f"no {kind} {name} in {where}", f"`meshctl get {kind} -A` shows all"
        )
    if manifests:
        return click.echo(to_yaml_stream(map(manifest, resources)), nl=False)
    table = _resource_table(resources, state.now())
    return emit(output, "ResourceList", {"items": resources}, [table])


def _history_table(revisions: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            r["revision"],
            when(r.get("time")),
            r.get("author", ""),
            len(r.get("changes", ())),
            r.get("message", ""),
        )
        for r in revisions
    ]
    return Table(
        ("revision", "time", "author", "changes", "message"), rows, empty="no revision yet"
    )


def _revision_tables(revision: Mapping[str, Any]) -> list[Table]:
    rows = [(change["key"], change["change"]) for change in revision.get("changes", ())]
    return [_history_table([revision]), Table(("resource", "change"), rows)]


@click.command()
@click.argument("revision", required=False, type=click.IntRange(min=1))
@click.option("--limit", default=20, show_default=True, help="How many of the latest.")
@manifests_option
@format_option
@pass_state
def history(
    state: State, revision: int | None, limit: int, manifests: bool, output: Format
) -> None:
    """List revisions, or show what one of them changed.

    To go back to how things stood at revision N:

    \b
        meshctl history N --manifests | meshctl apply -f -

    Resources that were created after N stay until they are deleted.
    """
    if revision is None:
        if manifests:
            raise click.UsageError("say of which revision: meshctl history N --manifests")
        known = state.api.get("/v1/history", {"limit": limit}).get("revisions", [])
        return emit(output, "RevisionList", {"items": known}, [_history_table(known)])
    one = state.api.get(f"/v1/history/{revision}")
    if manifests:
        return click.echo(to_yaml_stream(map(manifest, one.get("resources", ()))), nl=False)
    emit(output, "Revision", one, _revision_tables(one))
    if output == "table":
        click.echo(
            f"\nback to this: meshctl history {revision} --manifests | meshctl apply -f -", err=True
        )
    return None
