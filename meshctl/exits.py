"""What every exit status of meshctl means; scripts and playbooks rely on these numbers."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Each member's ``meaning`` is what ``docs/meshctl.md`` says of it."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Exit:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done, and all is as wished"
    CHECK_FAILED = 1, "`check` found a failure, or a step of `demo` failed"
    USAGE = 2, "the command line is wrong"
    BAD_FILES = 3, "the files have problems; nothing was sent, nothing changed"
    NO_CONTEXT = 4, "no operator context, or it cannot be used"
    UNREACHABLE = 5, "the policy server does not answer, or is not the expected one"
    REFUSED = 6, "the policy server refused; nothing changed"
    NOT_FOUND = 7, "no such resource, host or revision"
    NOT_LIVE = 8, "`apply --wait`: applied, but a host refused it or did not acknowledge in time"
    INTERRUPTED = 130, "Ctrl-C"


def as_markdown() -> str:
    """The table of ``docs/meshctl.md``."""
    rows = (f"| {code.value} | {code.meaning} |" for code in Exit)
    return "\n".join(("| status | meaning |", "|---|---|", *rows))
