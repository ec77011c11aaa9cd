"""Names and addresses as fields take them: DNS names, hosts, IPs, labels."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from meshkit.model.decode import MapOf, Spot
from meshkit.model.scalars import String

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")

_LABEL_REMEDY = "use a-z, 0-9 and -, at most 63 characters, starting and ending with a-z or 0-9"
_NAME_REMEDY = "use labels of a-z, 0-9 and - joined by dots, at most 253 characters"


def is_label(text: str) -> bool:
    """A DNS-1123 label."""
    return _LABEL.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """A DNS-1123 subdomain: labels joined by dots."""
    return len(text) <= 253 and all(map(is_label, text.split(".")))


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_host(text: str, *, wildcard: bool) -> bool:
    """A DNS name; with ``wildcard`` also ``*`` and ``*.suffix``."""
    if not wildcard:
        return is_name(text)
    return text == "*" or is_name(text.removeprefix("*."))


def label(text: str, spot: Spot) -> Any:
    if is_label(text):
        return text
    return spot.error(f'"{text[:70]}" is not a DNS label', _LABEL_REMEDY)


def name(text: str, spot: Spot) -> Any:
    if is_name(text):
        return text
    return spot.error(f'"{text[:70]}" is not a DNS name', _NAME_REMEDY)


def host(text: str, spot: Spot) -> Any:
    """A service's host: short, with namespace or full; lower-cased as DNS is."""
    lower = text.lower()
    if is_ip(lower):
        return spot.error(f'"{text}" is an IP address, not a host', "name a host of the mesh")
    if "*" in lower:
        return spot.error(f'"{text[:70]}" holds a wildcard', "name one host")
    if is_name(lower):
        return lower
    return spot.error(f'"{text[:70]}" is not a host name', _NAME_REMEDY)


def wildcard_host(text: str, spot: Spot) -> Any:
    """A host, ``*.suffix`` or ``*``; lower-cased."""
    lower = text.lower()
    if is_host(lower, wildcard=True):
        return lower
    if "*" in lower:
        remedy = 'write "*." and a domain, such as *.example.org'
        return spot.error(f'"{text[:70]}": a wildcard stands for the first label only', remedy)
    return spot.error(f'"{text[:70]}" is not a host name', _NAME_REMEDY)


def ip(text: str, spot: Spot) -> Any:
    if is_ip(text):
        return text
    return spot.error(f'"{text[:70]}" is not an IP address', "write an address such as 10.0.0.5")


def label_key(text: str, spot: Spot) -> str | None:
    if _LABEL_KEY.fullmatch(text):
        return text
    spot.error(f'"{text[:70]}" is not a label key', "use [prefix/]name of letters, digits, -_.")
    return None


def label_value(text: str, spot: Spot) -> Any:
    if _LABEL_VALUE.fullmatch(text):
        return text
    remedy = "use letters, digits and -_. , at most 63, starting and ending with one"
    return spot.error(f'"{text[:70]}" is not a label value', remedy)


def covers(pattern: str, other: str) -> bool:
    """Whether a host pattern matches whatever ``other`` (host or pattern) matches."""
    if pattern in ("*", other):
        return True
    return pattern.startswith("*.") and other.endswith(pattern[1:])


LABEL = String("a DNS label", label)
NAME = String("a DNS name", name)
HOST = String("a host name", host)
WILDCARD_HOST = String("a host name or *.suffix", wildcard_host)
IP = String("an IP address", ip)
LABELS = MapOf(String("a label value", label_value, empty=True), label_key)
