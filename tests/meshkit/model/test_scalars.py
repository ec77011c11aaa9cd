"""Single values: durations, numbers, regexes, enumerations, names."""

from __future__ import annotations

import pytest

from meshkit.model import dns, scalars
from meshkit.model.decode import INVALID, FieldType, Spot
from meshkit.model.report import Report, near
from meshkit.model.resources import StringMatch
from meshkit.model.string_match import HEADER_MATCH, QUERY_MATCH, STRING_MATCH, URI_MATCH
from meshkit.model.yaml_reader import read


def decode(type_: FieldType, text: str) -> tuple[object, list[str]]:
    report = Report()
    (holder,) = read(f"v: {text}\n", "f", report)
    assert isinstance(holder.data, dict)
    value = type_.decode(Spot(holder.data["v"], "v", report))
    return value, [str(problem) for problem in report.problems()]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5s", 1.5),
        ("100ms", 0.1),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("0.5h", 1800.0),
        (".5s", 0.5),
        ("1000us", 0.001),
        ("1s500ms", 1.5),
        ('"2s"', 2.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert decode(scalars.DURATION, text) == (seconds, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10", "write 10s"),
        ('"10"', "expected a duration"),
        ("1d", "expected a duration"),
        ("-1s", "expected a duration"),
        ("1s 2s", "expected a duration"),
        ("1us", "shorter than 1ms"),
        ("0s", "leave the field out"),
        ("1.0001s", "finer than a millisecond"),
        ("[1s]", "got a list"),
        ("999999999h", "hundred years"),
        ("٣s", "expected a duration"),
    ],
)
def test_durations_refused(text: str, said: str) -> None:
    value, problems = decode(scalars.DURATION, text)
    assert value is INVALID
    assert said in problems[0]


@pytest.mark.parametrize(
    ("type_", "text", "said"),
    [
        (scalars.PORT, "0", "outside 1..65535"),
        (scalars.PORT, "65536", "outside 1..65535"),
        (scalars.PORT, '"80"', "without quotes"),
        (scalars.PORT, "true", "expected a port"),
        (scalars.PORT, "080", "ambiguous"),
        (scalars.PORT, "1.0", "expected a port"),
        (scalars.BOOL, "yes", "write true or false"),
        (scalars.BOOL, "on", "write true or false"),
        (scalars.STRING, "1.0", 'quote it: "1.0"'),
        (scalars.STRING, "true", 'quote it: "true"'),
        (scalars.STRING, '""', "must not be empty"),
        (scalars.STRING, '"a\\nb"', "control characters"),
        (scalars.REGEX, '"(?=a)"', "not an RE2 expression"),
        (scalars.REGEX, "'(a)\\1'", "not an RE2 expression"),
        (scalars.REGEX, "a" * 1025, "more than 1024"),
        (scalars.enum("A", "BEE", later="C"), "C", "not supported yet"),
        (scalars.enum("A", "BEE", later="C"), "bee", 'did you mean "BEE"'),
        (dns.LABEL, "a_b", "not a DNS label"),
        (dns.LABEL, "a" * 64, "not a DNS label"),
        (dns.NAME, "a..b", "not a DNS name"),
        (dns.HOST, "10.0.0.1", "IP address"),
        (dns.HOST, '"*.x"', "wildcard"),
        (dns.WILDCARD_HOST, "a.*.b", "first label only"),
        (dns.WILDCARD_HOST, '"*x.b"', "first label only"),
        (dns.IP, "fe80::1%eth0", "not an IP"),
        (dns.LABELS, "{version: 1.0}", 'quote it: "1.0"'),
        (dns.LABELS, '{"-a": b}', "not a label key"),
    ],
)
def test_refused(type_: FieldType, text: str, said: str) -> None:
    _, problems = decode(type_, text)
    assert said in problems[0]


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (scalars.REGEX, '"a(b|c)*"', "a(b|c)*"),
        (scalars.REGEX, "a" * 1024, "a" * 1024),
        (dns.HOST, "Reviews", "reviews"),
        (dns.HOST, "a.b.c", "a.b.c"),
        (dns.WILDCARD_HOST, '"*"', "*"),
        (dns.WILDCARD_HOST, '"*.Example.org"', "*.example.org"),
        (
            dns.LABELS,
            '{app.kubernetes.io/name: x, e: ""}',
            {"app.kubernetes.io/name": "x", "e": ""},
        ),
        (URI_MATCH, "{prefix: ''}", StringMatch("prefix", "")),
        (STRING_MATCH, "{exact: GET}", StringMatch("exact", "GET")),
        (HEADER_MATCH, "{}", StringMatch("present")),
        (HEADER_MATCH, "", StringMatch("present")),
        (HEADER_MATCH, '{regex: "*"}', StringMatch("present")),
        (HEADER_MATCH, "{exact: ''}", StringMatch("exact", "")),
        (QUERY_MATCH, "{}", StringMatch("present")),
        (QUERY_MATCH, "{exact: ''}", StringMatch("exact", "")),
    ],
)
def test_accepted(type_: FieldType, text: str, value: object) -> None:
    assert decode(type_, text) == (value, [])


@pytest.mark.parametrize(
    ("type_", "text", "said"),
    [
        (STRING_MATCH, "{prefix: ''}", "must not be empty"),
        (STRING_MATCH, "{exact: a, prefix: b}", "has 2 forms"),
        (STRING_MATCH, "{}", "has 0 forms"),
        (URI_MATCH, "{}", "has 0 forms"),
        (URI_MATCH, "/x", "expected a mapping (StringMatch)"),
        (URI_MATCH, '{regex: "*"}', "not an RE2"),
        (URI_MATCH, "{regx: x}", 'did you mean "regex"'),
        (QUERY_MATCH, '{regex: "*"}', "not an RE2"),
    ],
)
def test_string_matches_refused(type_: FieldType, text: str, said: str) -> None:
    value, problems = decode(type_, text)
    assert value is INVALID
    assert said in problems[0]


def test_near_misses_ignore_case_and_separators() -> None:
    assert near("per_try_timeout", ["perTryTimeout", "attempts"]) == "perTryTimeout"
    assert near("Retries", ["retries"]) == "retries"
    assert near("zzz", ["retries"]) is None
