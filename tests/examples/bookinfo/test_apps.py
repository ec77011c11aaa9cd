from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from bookinfo.client import Answer, forwarded
from bookinfo.details import details
from bookinfo.productpage import Backends, productpage, user_of
from bookinfo.ratings import FailSwitch, ratings
from bookinfo.reviews import reviews
from bookinfo.web import App, Identity, Reply, Request, request_of


class Recorder:
    """Another service: answers with ``app``, and remembers what it was asked."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.calls: list[tuple[str, dict[str, str]]] = []

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        self.calls.append((path, dict(headers)))
        reply = self.app(Request("GET", path, {}, headers))
        return Answer(reply.status, json.loads(reply.body))


def nobody(path: str, headers: Mapping[str, str]) -> Answer:
    return Answer(0, None)


def who(service: str, version: str = "v1") -> Identity:
    return Identity(service, version, "b")


def get(app: App, target: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app(request_of("GET", target, named, b""))


def body(reply: Reply) -> Any:
    return json.loads(reply.body)


def test_details_of_a_product() -> None:
    answer = body(get(details(who("details")), "/details/1"))
    assert answer["title"] == "The Comedy of Errors"
    assert answer["served_by"] == {"service": "details", "version": "v1", "host": "b"}


@pytest.mark.parametrize("app", [details(who("details")), ratings(who("ratings"))])
def test_a_path_that_is_none_says_which_is(app: App) -> None:
    reply = get(app, "/details/one")
    assert reply.status == 404
    assert "with a numeric ID" in body(reply)["error"]


def test_reviews_v1_has_no_stars_and_asks_nobody() -> None:
    stars = Recorder(ratings(who("ratings")))
    answer = body(get(reviews(who("reviews", "v1"), stars.get), "/reviews/1"))
    assert [row.keys() & {"rating"} for row in answer["reviews"]] == [set(), set()]
    assert stars.calls == []


@pytest.mark.parametrize(("version", "colour"), [("v2", "black"), ("v3", "red")])
def test_reviews_with_stars(version: str, colour: str) -> None:
    stars = Recorder(ratings(who("ratings")))
    answer = body(get(reviews(who("reviews", version), stars.get), "/reviews/1", end_user="x"))
    assert [row["rating"] for row in answer["reviews"]] == [
        {"stars": 5, "color": colour},
        {"stars": 4, "color": colour},
    ]
    assert answer["ratings_served_by"]["service"] == "ratings"
    assert stars.calls == [("/ratings/1", {"end-user": "x"})]


def test_reviews_without_ratings_say_so_and_still_answer() -> None:
    reply = get(reviews(who("reviews", "v2"), nobody), "/reviews/1")
    assert reply.status == 200
    assert "unavailable" in body(reply)["reviews"][0]["rating"]["error"]


@pytest.mark.parametrize("percent", [0, 1, 30, 50, 100])
def test_the_share_that_fails_is_exact(percent: int) -> None:
    switch = FailSwitch()
    switch.set(percent)
    assert sum(switch.fails() for _ in range(1000)) == percent * 10


def test_the_fail_switch_over_http() -> None:
    app = ratings(who("ratings"))
    assert body(app(Request("POST", "/fail", {"percent": "100"}))) == {"percent": 100}
    assert get(app, "/ratings/1").status == 503
    assert body(app(Request("POST", "/fail", {"percent": "0"}))) == {"percent": 0}
    assert get(app, "/ratings/1").status == 200


@pytest.mark.parametrize("percent", ["", "-1", "101", "many", "1_0"])
def test_a_wrong_share_changes_nothing(percent: str) -> None:
    app = ratings(who("ratings"))
    assert app(Request("POST", "/fail", {"percent": percent})).status == 400
    assert body(get(app, "/fail")) == {"percent": 0}


@pytest.mark.parametrize(
    ("target", "headers", "user"),
    [
        ("/productpage", {}, ""),
        ("/productpage", {"end-user": "test-user"}, "test-user"),
        ("/productpage?user=ann", {}, "ann"),
        ("/productpage", {"cookie": "other=1; user=ann"}, "ann"),
        ("/productpage?user=bob", {"cookie": "user=ann"}, "bob"),
        ("/productpage?user=bob", {"end-user": "ann"}, "ann"),
        ("/productpage?user=a%0d%0ax:%20y", {}, "axy"),
        ("/productpage", {"cookie": "bad cookie;;=; user"}, ""),
    ],
)
def test_who_the_user_is(target: str, headers: dict[str, str], user: str) -> None:
    assert user_of(request_of("GET", target, headers, b"")) == user


def page(version: str = "v2") -> tuple[App, Recorder, Recorder]:
    book = Recorder(details(who("details")))
    stars = Recorder(ratings(who("ratings")))
    review = Recorder(reviews(who("reviews", version), stars.get))
    return productpage(who("productpage"), Backends(book.get, review.get)), book, review


def test_the_page_shows_the_book_the_stars_and_who_served() -> None:
    app, _, _ = page("v3")
    html = get(app, "/productpage", x_request_id="r-1").body.decode()
    assert "<h1>The Comedy of Errors</h1>" in html
    assert 'class="stars red" title="5 of 5 stars"' in html
    assert "reviews v3 on b" in html and "ratings v1 on b" in html
    assert "Request r-1." in html


def test_the_page_passes_on_the_user_and_the_trace() -> None:
    app, book, review = page()
    get(app, "/productpage?user=test-user", traceparent="00-a-b-01", x_request_id="r", accept="*/*")
    expected = {"end-user": "test-user", "traceparent": "00-a-b-01", "x-request-id": "r"}
    assert book.calls == [("/details/1", expected)]
    assert review.calls == [("/reviews/1", expected)]


def test_the_page_escapes_what_others_say() -> None:
    app, _, _ = page()
    assert b"<script>alert" not in get(app, "/", x_request_id="<script>alert(1)</script>").body


def test_the_page_of_a_broken_backend_says_which() -> None:
    app = productpage(
        who("productpage"), Backends(nobody, lambda p, h: Answer(503, {"error": "x"}))
    )
    reply = get(app, "/productpage")
    assert reply.status == 200
    assert "details is currently unavailable: nobody answered" in reply.body.decode()
    assert "reviews is currently unavailable: it answered 503" in reply.body.decode()


def test_the_api_passes_on_the_status() -> None:
    app = productpage(who("productpage"), Backends(nobody, lambda p, h: Answer(502, None)))
    assert get(app, "/api/v1/products/1").status == 503
    assert get(app, "/api/v1/products/1/reviews").status == 502


def test_sign_in_and_out() -> None:
    app, _, _ = page()
    reply = app(Request("POST", "/login", {}, {}, b"user=test-user"))
    assert reply.status == 303
    assert dict(reply.headers)["set-cookie"].startswith("user=test-user; Path=/; HttpOnly")
    out = dict(get(app, "/logout").headers)
    assert "Max-Age=0" in out["set-cookie"]


def test_only_the_named_headers_are_passed_on() -> None:
    assert forwarded({"cookie": "a", "b3": "1", "host": "x"}) == {"b3": "1"}
