"""Which route takes a request: the worker's side, on bytes.

Rules are tried in order and the first that matches wins (istio-semantics 1.2).
Within a rule the match blocks OR and the fields of a block AND, so each block
becomes one *line* of a flat table: ``(prefix, exact, rest, route)``.  The two
path tests run in line, because nearly all rules have one and a call costs as
much as the test; ``rest`` is a predicate over everything else, or None.

What a request must be taken apart for (header table, query, host) is found out
when the table is built, so that a table of path rules never looks at headers.

Traps that the tests hold: a prefix is a raw string prefix; a regular expression
matches the whole value (RE2); the path is compared without its query; a header
that is missing satisfies ``withoutHeaders`` because it counts as empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from meshkit.model.resources import HTTPMatch, StringMatch
from meshkit.snapshot.types import Route

Headers = Sequence[tuple[bytes, bytes]]
Table = Mapping[bytes, bytes]
Test = Callable[[bytes], bool]
Rest = Callable[[bytes, bytes, bytes, Table, Table], bool]
"""(method, path, host, headers, query) → bool"""
Line = tuple[bytes, bytes | None, Rest | None, Route]

IGNORED_HEADERS = frozenset(("uri", "scheme", "method", "authority"))
"""HTTPMatchRequest.headers ignores these keys: they have fields of their own."""

_NOTHING: Table = {}


class RegexError(ValueError):
    """A pattern that RE2 does not take; validated long before, so a defect upstream."""


class CompiledRoutes:
    """The table of one port.  ``always`` is set where the first rule takes everything."""

    __slots__ = ("always", "lines", "needs_headers", "needs_host", "needs_query")

    def __init__(self, routes: Sequence[Route]) -> None:
        self.lines: tuple[Line, ...] = tuple(line for route in routes for line in _lines(route))
        self.always = _unconditional(routes[0]) if routes else None
        blocks = [block for route in routes for block in route.match]
        self.needs_headers = any(b.headers or b.without_headers for b in blocks)
        self.needs_query = any(b.query_params for b in blocks)
        self.needs_host = any(b.authority or _names_host(b) for b in blocks)


def compile_routes(routes: Sequence[Route]) -> CompiledRoutes:
    """The routes of one port, in order, ready for `select`.  Raises RegexError."""
    return CompiledRoutes(routes)


def select(
    compiled: CompiledRoutes, method: bytes, path: bytes, authority: bytes, headers: Headers
) -> Route | None:
    """The first route that matches, None for no route (404 NR).

    ``path`` in canonical form with its query; header names in lower case.
    """
    if compiled.always is not None:
        return compiled.always
    path, _, query = path.partition(b"?")
    table = _table(headers) if compiled.needs_headers else _NOTHING
    parameters = _parameters(query) if compiled.needs_query else _NOTHING
    host = _host(authority) if compiled.needs_host else b""
    for prefix, exact, rest, route in compiled.lines:
        if (
            path.startswith(prefix)
            and (exact is None or path == exact)
            and (rest is None or rest(method, path, host, table, parameters))
        ):
            return route
    return None


# -- the request, taken apart -------------------------------------------------


def _table(headers: Headers) -> Table:
    """Name → value; repeated headers joined by commas (RFC 9110 section 5.3)."""
    table = dict(headers)
    if len(table) == len(headers):
        return table
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        joined[name] = joined[name] + b"," + value if name in joined else value
    return joined


def _parameters(query: bytes) -> Table:
    """Name → first value, not decoded, as Envoy compares them; ``?key`` has b""."""
    table: dict[bytes, bytes] = {}
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        table.setdefault(name, value)
    return table


def _host(authority: bytes) -> bytes:
    """Lower case, no port, no final dot: none of them may change a verdict."""
    lower = authority.lower()
    host, colon, port = lower.rpartition(b":")
    return (host if colon and (port.isdigit() or not port) else lower).rstrip(b".")


# -- rules into lines ---------------------------------------------------------


def _unconditional(route: Route) -> Route | None:
    lines = list(_lines(route))
    return route if lines and lines[0][:3] == (b"", None, None) else None


def _lines(route: Route) -> Iterator[Line]:
    if not route.match:
        yield b"", None, None, route
    for block in route.match:
        prefix, exact = _path(block)
        yield prefix, exact, _all(list(_conditions(block))), route


def _path(block: HTTPMatch) -> tuple[bytes, bytes | None]:
    """The path test that runs in line: every path starts with b""."""
    if block.uri is None or block.ignore_uri_case or block.uri.kind == "regex":
        return b"", None
    value = block.uri.value.encode()
    return value, value if block.uri.kind == "exact" else None


def _all(conditions: list[Rest]) -> Rest | None:
    if not conditions:
        return None
    if len(conditions) == 1:
        return conditions[0]
    if len(conditions) == 2:
        one, two = conditions
        return lambda m, p, a, h, q: one(m, p, a, h, q) and two(m, p, a, h, q)
    return lambda m, p, a, h, q: all(test(m, p, a, h, q) for test in conditions)


def _conditions(block: HTTPMatch) -> Iterator[Rest]:
    if block.method is not None:
        yield _on_method(_test(block.method))
    if block.uri is not None and block.uri.kind == "regex":
        yield _on_path(_test(block.uri))
    elif block.uri is not None and block.ignore_uri_case:
        yield _on_path_lower(_test(_lower(block.uri)))
    if block.authority is not None:
        yield _on_host(_test(_lower(block.authority)))
    for name, match in block.headers:
        if name not in IGNORED_HEADERS:
            yield _on_header(name, match)
    for name, match in block.query_params:
        yield _on_parameter(name.encode(), match)
    for name, match in block.without_headers:
        if name not in IGNORED_HEADERS:
            yield _without_header(name, match)


def _on_method(test: Test) -> Rest:
    return lambda method, path, host, headers, query: test(method)


def _on_path(test: Test) -> Rest:
    return lambda method, path, host, headers, query: test(path)


def _on_path_lower(test: Test) -> Rest:
    return lambda method, path, host, headers, query: test(path.lower())


def _on_host(test: Test) -> Rest:
    return lambda method, path, host, headers, query: test(host)


def _on_header(name: str, match: StringMatch) -> Rest:
    if _is_host(name):
        return _on_host(_test(_lower(match)))
    key, value = name.encode(), match.value.encode()
    if match.kind == "present":
        return lambda method, path, host, headers, query: key in headers
    if match.kind == "exact":
        return lambda method, path, host, headers, query: headers.get(key) == value
    test = _test(match)
    return lambda method, path, host, headers, query: key in headers and test(headers[key])


def _on_parameter(key: bytes, match: StringMatch) -> Rest:
    test = _test(match)
    return lambda method, path, host, headers, query: key in query and test(query[key])


def _without_header(name: str, match: StringMatch) -> Rest:
    key, test = name.encode(), _test(match)
    if _is_host(name):
        lower = _test(_lower(match))
        return lambda method, path, host, headers, query: not lower(host)
    if match.kind == "present":
        return lambda method, path, host, headers, query: key not in headers
    return lambda method, path, host, headers, query: not test(headers.get(key, b""))


def _is_host(name: str) -> bool:
    """Host is no ordinary field here: it is the authority (RFC 9112 section 3.2)."""
    return name in ("host", ":authority")


def _names_host(block: HTTPMatch) -> bool:
    return any(_is_host(name) for name, _ in (*block.headers, *block.without_headers))


# -- one value ----------------------------------------------------------------


def _lower(match: StringMatch) -> StringMatch:
    return match if match.kind == "regex" else StringMatch(match.kind, match.value.lower())


def _test(match: StringMatch) -> Test:
    value = match.value.encode()
    if match.kind == "exact":
        return value.__eq__
    if match.kind == "prefix":
        return lambda text: text.startswith(value)
    if match.kind == "regex" and match.value != ".*":
        return full_match(match.value)
    return lambda text: True


def full_match(pattern: str) -> Test:
    """RE2 on the whole value.  Raises RegexError."""
    import re2  # here, because few tables have a pattern and the library has its price

    options = re2.Options()
    options.log_errors = False
    try:
        matcher = re2.compile(pattern.encode(), options).fullmatch
    except re2.error as error:
        raise RegexError(f"{pattern!r:.80}: {error}") from error
    return lambda text: matcher(text) is not None
