"""productpage: the page a person opens, and the same facts as JSON.

Who the user is: the ``end-user`` header of the request, else ``?user=``, else the
cookie that signing in sets.  It goes to details and reviews as ``end-user``, which
is what a VirtualService matches on.
"""

from __future__ import annotations

from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

from bookinfo.client import Answer, Fetch, forwarded
from bookinfo.page import render
from bookinfo.web import App, Identity, Reply, Request, error, json_reply

PRODUCT = "1"
_COOKIE = "user"
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-")


@dataclass(frozen=True, slots=True)
class Backends:
    details: Fetch
    reviews: Fetch


def _clean(user: str) -> str:
    """A user name fit for a header and a cookie, at most 64 characters."""
    return "".join(c for c in user.strip()[:64] if c in _ALLOWED)


def user_of(request: Request) -> str:
    """The end user of a request; "" when nobody signed in."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(request.headers.get("cookie", ""))
    except CookieError:
        cookies = SimpleCookie()
    cookie = cookies[_COOKIE].value if _COOKIE in cookies else ""
    named = request.headers.get("end-user") or request.query.get("user") or cookie
    return _clean(named)


def _onward(request: Request) -> dict[str, str]:
    headers = forwarded(request.headers)
    headers.pop("end-user", None)
    user = user_of(request)
    return {**headers, "end-user": user} if user else headers


def _login(request: Request) -> Reply:
    form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
    cookie = f"{_COOKIE}={_clean(form.get('user', ''))}; Path=/; HttpOnly; SameSite=Lax"
    return Reply(303, b"", "text/plain", (("location", "/productpage"), ("set-cookie", cookie)))


def _logout() -> Reply:
    cookie = f"{_COOKIE}=; Path=/; Max-Age=0"
    return Reply(303, b"", "text/plain", (("location", "/productpage"), ("set-cookie", cookie)))


def _passed_on(answer: Answer, name: str) -> Reply:
    if answer.ok:
        return json_reply(answer.value)
    return error(answer.status or 503, f"{name} is currently unavailable")


def productpage(me: Identity, backends: Backends) -> App:
    """``/productpage`` (also ``/``), ``/login``, ``/logout``, ``/api/v1/products/1[/reviews]``."""

    def page(request: Request) -> Reply:
        headers = _onward(request)
        body = render(
            me,
            user_of(request),
            backends.details(f"/details/{PRODUCT}", headers),
            backends.reviews(f"/reviews/{PRODUCT}", headers),
            request.headers.get("x-request-id", ""),
        )
        return Reply(200, body, "text/html; charset=utf-8")

    def app(request: Request) -> Reply:
        match request.method, request.path:
            case "POST", "/login":
                return _login(request)
            case _, "/" | "/productpage":
                return page(request)
            case _, "/logout":
                return _logout()
            case _, "/health":
                return json_reply({"status": "productpage is healthy"})
            case _, "/api/v1/products/1":
                return _passed_on(backends.details("/details/1", _onward(request)), "details")
            case _, "/api/v1/products/1/reviews":
                return _passed_on(backends.reviews("/reviews/1", _onward(request)), "reviews")
        return error(404, "open /productpage, or ask /api/v1/products/1/reviews")

    return app
