"""An apt source for an older release of the same archive, copied from the machine's own.

Both formats that apt reads are understood (sources.list(5)): one line a source,
and deb822 stanzas.  Everything but the suite stays as it is, so mirrors,
snapshot dates, proxies and keyrings of the machine keep working.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

APT = Path("/etc/apt")
_LINE = re.compile(r"^deb\s+(?P<options>\[[^]]*]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<rest>.+)$")


@dataclass(frozen=True, slots=True)
class Source:
    """Text for one file of sources.list.d; ``suffix`` says its format to apt."""

    suffix: str
    text: str


def main_suites(codename: str) -> frozenset[str]:
    """How the release's main suite may be spelled; never -updates or -security."""
    return frozenset({codename, "stable", "oldstable"})


def from_lines(text: str, codename: str, wanted: str) -> str:
    """The one-line sources of ``text`` for the main suite, with ``wanted`` instead."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match and match["suite"] in main_suites(codename):
            options = match["options"] or ""
            found.append(f"deb {options}{match['uri']} {wanted} {match['rest']}\n")
    return "".join(found)


def from_deb822(text: str, codename: str, wanted: str) -> str:
    """The stanzas of ``text`` that have the main suite, with ``wanted`` instead."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        copied = _copied_stanza(stanza, codename, wanted)
        if copied:
            found.append(copied)
    return "\n".join(found)


def _copied_stanza(stanza: str, codename: str, wanted: str) -> str:
    lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
    fields = {line.partition(":")[0].lower(): line.partition(":")[2] for line in lines}
    suites = frozenset(fields.get("suites", "").split())
    off = fields.get("enabled", "yes").strip().lower() in ("no", "false", "0")
    if off or "deb" not in fields.get("types", "").split() or not suites & main_suites(codename):
        return ""
    replaced = {"suites": f"Suites: {wanted}", "types": "Types: deb"}
    return "".join(f"{replaced.get(line.partition(':')[0].lower(), line)}\n" for line in lines)


def read(files: Iterable[tuple[str, str]], codename: str, wanted: str) -> Source | None:
    """The first source among (file name, text) that carries the main suite."""
    for name, text in files:
        copy = from_deb822 if name.endswith(".sources") else from_lines
        copied = copy(text, codename, wanted)
        if copied:
            return Source(Path(name).suffix, copied)
    return None


def machine_files(apt: Path = APT) -> list[tuple[str, str]]:
    """The machine's apt sources as (file name, text), in apt's own order."""
    parts = apt / "sources.list.d"
    files = [apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]
    return [(file.name, file.read_text()) for file in files if file.is_file()]
