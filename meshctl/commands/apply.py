"""``meshctl apply`` and ``meshctl delete``: files are judged here before the server is asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.kinds import kind_of
from meshctl.output import Format, colour, emit, format_option
from meshctl.problems import refused_lines
from meshctl.rollout import wait_until_live
from meshctl.state import State, pass_state
from meshkit.model.load import Loaded, load_files
from meshkit.model.problems import errors

SUFFIXES = (".yaml", ".yml", ".json")
MARKS = {"created": "ok", "configured": "warn", "unchanged": "quiet", "deleted": "bad"}

files_option = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="YAML or JSON file, a folder of them (not its subfolders), or - for standard input.",
)


def _members(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not found:
        raise Failure(
            Exit.BAD_FILES, f"{path} holds no {', '.join(SUFFIXES)} file", "name another folder"
        )
    return found


def _read(path: Path) -> tuple[str, str]:
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8 text"
        raise Failure(
            Exit.BAD_FILES, f"cannot read {path}: {why}", "check the name and its mode"
        ) from None


def read_sources(files: Sequence[str]) -> list[tuple[str, str]]:
    """(source, text) of every file named, folders expanded, ``-`` once."""
    if not files:
        raise click.UsageError("name what to read: -f FILE, -f DIR or -f -")
    sources: dict[str, str] = {}
    for name in files:
        if name == "-":
            sources["<stdin>"] = sys.stdin.read()
            continue
        sources.update(map(_read, _members(Path(name))))
    return list(sources.items())


def load_sources(sources: Sequence[tuple[str, str]]) -> Loaded:
    """Parse and validate; warnings go to stderr.  Raises Failure with every problem."""
    loaded = load_files(sources)
    wrong = errors(loaded.problems)
    lines = [str(p) for p in sorted(loaded.problems, key=lambda p: p.position)]
    if wrong:
        many = "problems" if len(wrong) > 1 else "problem"
        raise Failure(Exit.BAD_FILES, f"{len(wrong)} {many}; nothing was applied", problems=lines)
    for line in lines:
        click.echo(line, err=True)
    if not loaded.resources:
        raise Failure(Exit.BAD_FILES, "the files hold no resource", "check that they are not empty")
    return loaded


def _show(output: Format, answer: dict[str, Any], dry_run: bool) -> None:
    changes = answer.get("changes", [])
    if output != "table":
        fields = {"revision": answer.get("revision", 0), "dryRun": dry_run, "changes": changes}
        return emit(output, "Applied", fields, ())
    suffix = " (dry run)" if dry_run else ""
    for change in changes:
        click.echo(f"{change['key']} {colour(change['change'], MARKS[change['change']])}{suffix}")
    if not dry_run:
        click.echo(f"revision {answer['revision']}")
    return None


@click.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Judge and compare; change nothing.")
@click.option("--wait", is_flag=True, help="Return when every connected host runs it.")
@click.option(
    "--timeout", default=30.0, show_default=True, metavar="SECONDS", help="How long --wait waits."
)
@click.option("-m", "--message", default="", help="Why; kept with the revision.")
@click.option(
    "--expect-revision",
    type=int,
    metavar="N",
    help="Refuse if the mesh is at another revision (somebody else changed it).",
)
@format_option
@pass_state
def apply(
    state: State,
    files: Sequence[str],
    dry_run: bool,
    wait: bool,
    timeout: float,
    message: str,
    expect_revision: int | None,
    output: Format,
) -> None:
    """Make the mesh as the files say; all of them are one revision."""
    sources = read_sources(files)
    load_sources(sources)
    body: dict[str, Any] = {
        "documents": [{"source": source, "text": text} for source, text in sources],
        "dryRun": dry_run,
        "message": message,
    }
    if expect_revision is not None:
        body["expectedRevision"] = expect_revision
    answer = state.api.post("/v1/apply", body)
    for line in refused_lines(answer.get("problems", ())):
        click.echo(line, err=True)
    _show(output, answer, dry_run)
    if wait and not dry_run:
        _wait(state, answer["revision"], timeout)


def _wait(state: State, revision: int, timeout: float) -> None:
    hosts = wait_until_live(state, revision, timeout)
    click.echo(f"revision {revision} is live on {hosts} host{'s' * (hosts != 1)}", err=True)


def _keys(
    kind: str | None, names: Sequence[str], namespace: str, files: Sequence[str]
) -> list[str]:
    if files and kind:
        raise click.UsageError("name the resources by KIND NAME or by -f, not by both")
    if files:
        loaded = load_sources(read_sources(files))
        return [resource.meta.key for resource in loaded.resources]
    if not kind or not names:
        raise click.UsageError("name what to delete: KIND NAME…, or -f FILE")
    if not kind_of(kind):
        raise click.UsageError("delete one kind at a time, by name")
    return [f"{kind_of(kind)}/{namespace}/{name}" for name in names]


@click.command()
@click.argument("kind", required=False)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-n", "--namespace", default="default", show_default=True)
@files_option
@click.option("--wait", is_flag=True, help="Return when every connected host runs without it.")
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS")
@format_option
@pass_state
def delete(
    state: State,
    kind: str | None,
    names: Sequence[str],
    namespace: str,
    files: Sequence[str],
    wait: bool,
    timeout: float,
    output: Format,
) -> None:
    """Delete resources by KIND NAME…, or those that files name."""
    keys = _keys(kind, names, namespace, files)
    answer = state.api.post("/v1/delete", {"keys": keys})
    answer.setdefault("changes", [{"key": key, "change": "deleted"} for key in keys])
    _show(output, answer, False)
    if wait:
        _wait(state, answer["revision"], timeout)
