"""The command tree as a document: ``python -m meshctl.tree > docs/cli.md``, ``--check FILE``.

A test compares it with the file, so that no command or option changes unseen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from meshctl.cli import cli

HEADER = (
    "# Commands of meshctl\n\nMade by `python -m meshctl.tree`; what they mean is in meshctl.md.\n"
)


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _walk(command.commands[name], f"{path} {name}")


def _argument(argument: click.Argument) -> str:
    name = (argument.metavar or argument.human_readable_name).strip("[].").upper()
    many = "…" if argument.nargs == -1 else ""
    return f"{name}{many}" if argument.required else f"[{name}{many}]"


def _default(option: click.Option) -> str:
    value = option.default
    if option.is_flag or not isinstance(value, str | int | float | Path) or value == "":
        return ""
    return f"; default `{value}`"


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    kind = "" if option.is_flag else f" {option.make_metavar(click.Context(cli))}"
    marks = ("; required" if option.required else "") + ("; repeatable" if option.multiple else "")
    help_text = (option.help or "").rstrip(".")
    return f"- {names}{kind}: {help_text}{_default(option)}{marks}".replace(": ;", ":")


def _section(path: str, command: click.Command) -> str:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    options = [_option(p) for p in command.params if isinstance(p, click.Option)]
    usage = " ".join([path, *arguments])
    summary = command.get_short_help_str(limit=200)
    return "\n".join([f"## {usage}", "", summary, "", *options]).rstrip() + "\n"


def tree() -> str:
    """The whole document, sorted by command."""
    return HEADER + "\n" + "\n".join(_section(*pair) for pair in _walk(cli, "meshctl"))


def main(arguments: list[str] | None = None) -> int:
    known = argparse.ArgumentParser(prog="meshctl.tree")
    known.add_argument("--check", type=Path, metavar="FILE")
    options = known.parse_args(arguments)
    if options.check is None:
        sys.stdout.write(tree())
        return 0
    if options.check.exists() and options.check.read_text(encoding="utf-8") == tree():
        return 0
    print(f"{options.check} is not what the commands are; run: make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
