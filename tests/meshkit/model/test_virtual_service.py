"""VirtualService: what runs, and the traps of istio-semantics 1."""

from __future__ import annotations

import pytest

from meshkit.model.load import load_text
from meshkit.model.problems import Severity
from meshkit.model.resources import (
    HeaderOperations,
    HTTPMatch,
    HTTPRoute,
    L4Match,
    Retries,
    StringMatch,
    VirtualService,
)

ROUTE = "route: [{destination: {host: reviews}}]"


def text(spec: str) -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: reviews, namespace: prod}}\nspec: {{{spec}}}\n"
    )


def service(spec: str) -> VirtualService:
    loaded = load_text(text(spec), "f.yaml")
    assert loaded.problems == []
    (found,) = loaded.resources
    assert isinstance(found, VirtualService)
    return found


def rule(fields: str) -> HTTPRoute:
    return service(f"hosts: [reviews], http: [{{{fields}}}]").http[0]


def match(fields: str) -> HTTPMatch:
    return rule(f"match: [{{{fields}}}], {ROUTE}").match[0]


def problems(spec: str) -> list[str]:
    loaded = load_text(text(spec), "f.yaml")
    assert not loaded.resources
    return [str(problem) for problem in loaded.problems]


def warnings(spec: str) -> list[str]:
    loaded = load_text(text(spec), "f.yaml")
    assert len(loaded.resources) == 1
    assert {problem.severity for problem in loaded.problems} <= {Severity.WARNING}
    return [str(problem) for problem in loaded.problems]


def test_gateways_default_to_the_mesh() -> None:
    assert service(f"hosts: [a], http: [{{{ROUTE}}}]").gateways == ("mesh",)
    assert service(f"hosts: [a], gateways: [], http: [{{{ROUTE}}}]").gateways == ("mesh",)


def test_trap_2_listing_a_gateway_drops_the_mesh() -> None:
    found = service(f"hosts: [a], gateways: [edge, infra/other], http: [{{{ROUTE}}}]")
    assert found.gateways == ("prod/edge", "infra/other")


def test_a_match_has_every_field() -> None:
    found = match(
        "name: n, uri: {prefix: /x}, ignoreUriCase: true, method: {exact: GET}, "
        "authority: {regex: 'a.*'}, headers: {End-User: {exact: me}, x: {}}, "
        "withoutHeaders: {y: {prefix: z}}, queryParams: {q: {exact: ''}}"
    )
    assert found == HTTPMatch(
        name="n",
        uri=StringMatch("prefix", "/x"),
        ignore_uri_case=True,
        method=StringMatch("exact", "GET"),
        authority=StringMatch("regex", "a.*"),
        headers=(("end-user", StringMatch("exact", "me")), ("x", StringMatch("present"))),
        without_headers=(("y", StringMatch("prefix", "z")),),
        query_params=(("q", StringMatch("exact", "")),),
        position=found.position,
    )


def test_trap_9_empty_retries_disable_and_absent_ones_do_not() -> None:
    assert rule(f"{ROUTE}, retries: {{}}").retries == Retries(0)
    assert rule(f"{ROUTE}, retries: {{attempts: 0}}").retries == Retries(0)
    assert rule(ROUTE).retries is None
    assert rule(f"{ROUTE}, retries: null").retries is None


def test_retries_keep_what_is_given() -> None:
    found = rule(f'{ROUTE}, retries: {{attempts: 3, perTryTimeout: 2s, retryOn: "5xx, 503"}}')
    assert found.retries == Retries(3, 2.0, ("5xx", "503"))


@pytest.mark.parametrize("name", ["cancelled", "deadline-exceeded", "unavailable", "reset"])
def test_retry_policies_of_http_and_grpc(name: str) -> None:
    found = rule(f"{ROUTE}, retries: {{attempts: 1, retryOn: {name}}}").retries
    assert found is not None
    assert found.retry_on == (name,)


def test_trap_15_and_16_weights_are_kept_as_written() -> None:
    two = rule("route: [{destination: {host: a, subset: v1}, weight: 3}, {destination: {host: a}}]")
    assert [each.weight for each in two.route] == [3, 0]
    assert rule(ROUTE).route[0].weight == 0


def test_header_operations() -> None:
    found = rule(
        f"{ROUTE}, headers: {{request: {{set: {{X-A: '1'}}, add: {{x-b: 100%%}}, remove: [X-C]}},"
        " response: {set: {server: us}}}"
    )
    assert found.headers.request == HeaderOperations((("x-a", "1"),), (("x-b", "100%"),), ("x-c",))
    assert found.headers.response.set == (("server", "us"),)


def test_timeout_in_seconds() -> None:
    assert rule(f"{ROUTE}, timeout: 1m30s").timeout == 90.0
    assert rule(ROUTE).timeout is None


def with_rule(fields: str) -> str:
    return f"hosts: [reviews], http: [{{{fields}}}]"


def with_match(fields: str) -> str:
    return with_rule(f"match: [{{{fields}}}], {ROUTE}")


def with_headers(fields: str) -> str:
    return with_rule(f"{ROUTE}, headers: {{{fields}}}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (f"http: [{{{ROUTE}}}]", "delegate) is not supported yet"),
        (f"hosts: [], http: [{{{ROUTE}}}]", "delegate) is not supported yet"),
        ("hosts: [a]", "has no rules"),
        ("hosts: [a], http: [{}]", "no route"),
        ("hosts: [a], http: [{route: []}]", "must not be empty"),
        (f'hosts: ["*"], http: [{{{ROUTE}}}]', '"*" alone is not allowed in the mesh'),
        (f"hosts: [10.0.0.1], http: [{{{ROUTE}}}]", "needs a gateway"),
        (f"hosts: [a, a], http: [{{{ROUTE}}}]", "given twice"),
        (f'hosts: ["*.x.y", a.x.y], http: [{{{ROUTE}}}]', "overlap"),
        (f'hosts: ["a.*"], http: [{{{ROUTE}}}]', "first label only"),
        (f"hosts: [a], gateways: [a/b/c], http: [{{{ROUTE}}}]", "not a gateway"),
        (f"hosts: [a], exportTo: [.], http: [{{{ROUTE}}}]", "not supported yet"),
        ("hosts: [a], tcp: [{}]", "route: is required"),
        ("hosts: [a], tls: [{route: [{destination: {host: a}}]}]", "match: is required"),
        ("hosts: [a], tls: [{match: [{port: 443}]}]", "sniHosts: is required"),
        ("hosts: [a], tls: [{match: [{sniHosts: []}]}]", "must not be empty"),
        ("hosts: [a], tls: [{match: [{sniHosts: ['a.*']}]}]", "for the first label only"),
        ("hosts: [a], tls: [{match: [{sniHosts: [10.0.0.1/8]}]}]", "not a host name"),
        ("hosts: [a], tcp: [{match: [{gateways: [a/b/c]}]}]", "is not a gateway"),
        (
            "hosts: [a], tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]",
            "all the weights are 0",
        ),
        *(
            (
                f"hosts: [a], {kind}: [{{match: [{{{sni}{field}}}]}}]",
                f'"{field.partition(":")[0]}" is not supported yet',
            )
            for kind, sni in (("tls", "sniHosts: [a], "), ("tcp", ""))
            for field in (
                "destinationSubnets: [10.0.0.0/8]",
                "sourceLabels: {a: b}",
                "sourceNamespace: x",
            )
        ),
        ("hosts: [a], http: [{redirect: {uri: /x}}]", '"redirect" is not supported yet'),
        ("hosts: [a], http: [{directResponse: {status: 200}}]", "not supported yet"),
        ("hosts: [a], http: [{delegate: {name: x}}]", "not supported yet"),
        (with_rule(f"{ROUTE}, fault: {{}}"), '"fault" is not supported yet'),
        (with_rule(f"{ROUTE}, mirror: {{host: a}}"), '"mirror" is not supported yet'),
        (with_rule(f"{ROUTE}, rewrite: {{uri: /}}"), '"rewrite" is not supported yet'),
        (with_rule(f"{ROUTE}, corsPolicy: {{}}"), '"corsPolicy" is not supported yet'),
        (with_rule(f"{ROUTE}, redirect: {{}}"), "has both route and redirect"),
        (with_rule(f"{ROUTE}, timeout: 0s"), "leave the field out"),
        (with_rule(f"{ROUTE}, retries: {{perTryTimeout: 1s}}"), "switches retries off"),
        (with_rule(f"{ROUTE}, retries: {{attempts: 0, retryOn: 5xx}}"), "switches retries off"),
        (with_rule(f"{ROUTE}, retries: {{attempts: 1, retryOn: 5xxx}}"), 'did you mean "5xx"'),
        (with_rule(f"{ROUTE}, retries: {{attempts: 1, retryOn: '600'}}"), "from 100 to 599"),
        (with_rule(f"{ROUTE}, retries: {{attempts: 1, backoff: 1s}}"), "not supported yet"),
        (with_rule(f"{ROUTE}, retries: {{attempts: -1}}"), "outside 0.."),
        (with_rule("route: [{destination: {}}]"), "destination.host: is required"),
        (with_rule("route: [{destination: {host: a, port: 80}}]"), "PortSelector"),
        (with_rule("route: [{destination: {host: a}, weight: -1}]"), "outside 0.."),
        (
            with_rule("route: [{destination: {host: a}}, {destination: {host: b}, weight: 0}]"),
            "all the weights are 0",
        ),
        (with_match("uri: {regex: '(?=x)'}"), "not an RE2"),
        (with_match("method: {prefix: ''}"), "must not be empty"),
        (with_match("sourceLabels: {a: b}"), '"sourceLabels" is not supported yet'),
        (with_match("port: 80"), '"port" is not supported yet'),
        (with_match("gateways: [x]"), '"gateways" is not supported yet'),
        (with_match("headers: {'@request.auth.claims.x': {exact: a}}"), "JWT claims"),
        (with_match("headers: {host: {exact: a}}"), "match authority: instead"),
        (with_match("headers: {connection: {exact: a}}"), "not supported yet"),
        (with_match("headers: {'a b': {exact: a}}"), "not a header name"),
        (with_match("headers: {A: {}, a: {}}"), "given twice"),
        (with_headers("request: {set: {Host: a}}"), "authority rewrite) is not supported yet"),
        (with_headers("request: {add: {':authority': a}}"), "authority rewrite"),
        (with_headers("request: {set: {content-length: '1'}}"), "belongs to one connection"),
        (with_headers("request: {set: {x: '%REQ(y)%'}}"), "variable"),
        (with_headers("request: {set: {x: 50%}}"), "write %%"),
        (with_headers("response: {remove: ['a b']}"), "not a header name"),
        (with_headers('request: {set: {x: "a\\r\\nb"}}'), "control characters"),
    ],
)
def test_refused_with_reason(spec: str, said: str) -> None:
    found = problems(spec)
    assert any(said in problem for problem in found), found
    assert all(problem.startswith("f.yaml:") for problem in found)


@pytest.mark.parametrize("key", ["uri", "scheme", "method", "authority"])
def test_header_keys_that_istio_ignores_warn(key: str) -> None:
    found = warnings(with_match(f"headers: {{{key}: {{exact: a}}}}"))
    assert "it is ignored here" in found[0]


@pytest.mark.parametrize("name", ["Host", ":path", "authority"])
def test_removing_host_or_a_pseudo_header_warns(name: str) -> None:
    found = warnings(with_headers(f"request: {{remove: ['{name}']}}"))
    assert "has no effect" in found[0]


def test_ignore_uri_case_of_a_regex_warns() -> None:
    assert "no effect" in warnings(with_match("uri: {regex: a}, ignoreUriCase: true"))[0]


def test_one_mistake_is_one_problem() -> None:
    assert len(problems(with_rule("route: [{destination: {hots: a}}]"))) == 1
    assert len(problems(with_rule("rout: [{destination: {host: a}}]"))) == 1
    assert len(problems(with_match("uri: {prefx: /}"))) == 1


def test_all_problems_at_once_in_the_order_of_the_text() -> None:
    loaded = load_text(
        text(f"hosts: [10.0.0.1], http: [{{timeout: 5,\n retires: {{}},\n {ROUTE}}}]"),
        "f.yaml",
    )
    assert [problem.position.line for problem in loaded.problems] == [4, 4, 5]
    assert "retries" in loaded.problems[2].remedy


def test_star_is_allowed_at_a_gateway() -> None:
    assert service(f'hosts: ["*"], gateways: [g], http: [{{{ROUTE}}}]').hosts == ("*",)


def test_tls_and_tcp_rules() -> None:
    found = service(
        "hosts: ['*.Example.org', db], gateways: [mesh, edge], "
        "tls: [{match: [{sniHosts: [A.example.org, '*.b.example.org'], port: 443,"
        " gateways: [edge, mesh]}],"
        " route: [{destination: {host: db, subset: v1, port: {number: 1}}, weight: 3},"
        " {destination: {host: b}, weight: 1}]}], "
        "tcp: [{match: [{port: 5432}, {}], route: [{destination: {host: db}}]}]"
    )
    (tls,), (tcp,) = found.tls, found.tcp
    (match,) = tls.match
    assert (match.sni_hosts, match.port) == (("a.example.org", "*.b.example.org"), 443)
    assert match.gateways == ("prod/edge", "mesh"), "a bare name is of the rule's namespace"
    first, second = tls.route
    assert (first.host, first.subset, first.port, first.weight) == ("db", "v1", 1, 3)
    assert (second.host, second.weight) == ("b", 1)
    assert [m.port for m in tcp.match] == [5432, None]
    assert found.http == ()
    assert tls.position.line == tcp.position.line == 4


@pytest.mark.parametrize(
    ("match", "applies"),
    [
        (L4Match(), True),
        (L4Match(port=80), True),
        (L4Match(port=81), False),
        (L4Match(gateways=("mesh",)), True),
        (L4Match(gateways=("a/b", "mesh")), True),
        (L4Match(gateways=("a/b",)), False),
        (L4Match(port=81, gateways=("mesh",)), False),
    ],
)
def test_all_fields_of_a_match_must_hold(match: L4Match, applies: bool) -> None:
    assert match.applies("mesh", 80) is applies
