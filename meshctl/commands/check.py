"""``meshctl check``: everything that must hold, and what to do about what does not."""

from __future__ import annotations

from collections.abc import Sequence

import click

from meshctl.checks import Finding, Group, Outcome, judge, judge_context
from meshctl.errors import Failure
from meshctl.exits import Exit
from meshctl.output import Format, colour, emit, format_option
from meshctl.state import State, pass_state
from meshctl.view import parse

MARKS = {Outcome.OK: ("✓", "ok"), Outcome.WARN: ("!", "warn"), Outcome.BAD: ("✗", "bad")}


def _collect(state: State) -> list[Group]:
    """Every group that can be judged: without a server, only those before it."""
    try:
        operator = state.operator
    except Failure as fault:
        bad = Finding(Outcome.BAD, fault.message, fault.remedy)
        return [Group("Operator", (bad,))]
    first = Group("Operator", tuple(judge_context(operator, state.now())))
    try:
        status = parse(state.api.get("/v1/status"))
        resources = state.api.get("/v1/resources").get("resources", [])
    except Failure as fault:
        bad = Finding(Outcome.BAD, fault.message, fault.remedy)
        return [first, Group("Policy server", (bad,))]
    return [first, *judge(status, resources, state.now())]


def _print(groups: Sequence[Group]) -> None:
    for number, group in enumerate(groups):
        click.echo(("\n" if number else "") + group.title)
        for finding in group.findings:
            mark, meaning = MARKS[finding.outcome]
            click.echo(f"  {colour(mark, meaning)} {finding.text}")
            if finding.outcome is not Outcome.OK:
                click.echo(f"      {colour('next: ' + finding.remedy, 'quiet')}")


@click.command()
@format_option
@pass_state
def check(state: State, output: Format) -> None:
    """Check the mesh; exits 1 when anything fails (warnings do not)."""
    groups = _collect(state)
    findings = [finding for group in groups for finding in group.findings]
    bad = sum(finding.outcome is Outcome.BAD for finding in findings)
    if output == "table":
        _print(groups)
        click.echo(f"\n{len(findings)} checks, {bad} failed")
    else:
        emit(output, "Check", {"ok": not bad, "groups": [g.as_json() for g in groups]}, ())
    raise SystemExit(int(Exit.CHECK_FAILED if bad else Exit.OK))
