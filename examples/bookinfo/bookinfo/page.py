"""The page of productpage: facts from two answers into one HTML template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from bookinfo.client import Answer
from bookinfo.web import Identity

_FACTS = (
    ("Type", "type"),
    ("Pages", "pages"),
    ("Publisher", "publisher"),
    ("Language", "language"),
    ("ISBN-10", "isbn_10"),
    ("ISBN-13", "isbn_13"),
)


@cache
def _template() -> Template:
    return Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))


def _fields(answer: Answer) -> Mapping[str, Any]:
    return answer.value if answer.ok and isinstance(answer.value, dict) else {}


def _tag(who: Any) -> str:
    """``reviews v2 on c``; "" when an answer does not say who served it."""
    if not isinstance(who, Mapping):
        return ""
    text = f"{who.get('service', '')} {who.get('version', '')}"
    if who.get("host"):
        text += f" on {who['host']}"
    return f'<span class="tag">{escape(text)}</span>'


def _missing(name: str, answer: Answer) -> str:
    why = f"it answered {answer.status}" if answer.status else "nobody answered"
    return f'<p class="missing">{name} is currently unavailable: {why}.</p>'


def _details(answer: Answer) -> str:
    book = _fields(answer)
    if not book:
        return _missing("details", answer)
    rows = (
        f"<dt>{label}</dt><dd>{escape(str(book[key]))}</dd>" for label, key in _FACTS if key in book
    )
    return f"<dl>{''.join(rows)}</dl>"


def _stars(rating: Any) -> str:
    if not isinstance(rating, Mapping):
        return ""
    if "stars" not in rating:
        return f'<p class="missing">{escape(str(rating.get("error", "")))}</p>'
    count = max(0, min(5, int(rating["stars"])))
    colour = "red" if rating.get("color") == "red" else "black"
    return (
        f'<p class="stars {colour}" title="{count} of 5 stars">'
        f"{'★' * count}<i>{'★' * (5 - count)}</i></p>"
    )


def _review(row: Mapping[str, Any]) -> str:
    return (
        f"<blockquote><p>{escape(str(row.get('text', '')))}</p>{_stars(row.get('rating'))}"
        f"<footer>{escape(str(row.get('reviewer', '')))}</footer></blockquote>"
    )


def _reviews(answer: Answer) -> str:
    rows = _fields(answer).get("reviews")
    return "".join(map(_review, rows)) if rows else _missing("reviews", answer)


def _account(user: str) -> str:
    if user:
        return (
            f'<form action="/logout"><span>Signed in as <b>{escape(user)}</b></span>'
            "<button>Sign out</button></form>"
        )
    return (
        '<form method="post" action="/login"><input name="user" placeholder="test-user" '
        'aria-label="User" autocomplete="off"><button>Sign in</button></form>'
    )


def _path(steps: Iterable[Any]) -> str:
    return '<span class="arrow">→</span>'.join(tag for tag in map(_tag, steps) if tag)


def render(
    me: Identity, user: str, details: Answer, reviews: Answer, request_id: str = ""
) -> bytes:
    """The whole page, UTF-8.  A part whose service failed says so in its place."""
    book, reviewed = _fields(details), _fields(reviews)
    by = ", ".join(str(book[key]) for key in ("author", "year") if key in book)
    chain = (me.as_json(), reviewed.get("served_by"), reviewed.get("ratings_served_by"))
    page = _template().substitute(
        title=escape(str(book.get("title", "The Comedy of Errors"))),
        byline=escape(by),
        account=_account(user),
        details=_details(details),
        details_by=_tag(book.get("served_by")),
        reviews=_reviews(reviews),
        reviews_by=_tag(reviewed.get("served_by")),
        path=_path(chain),
        request_id=f"Request {escape(request_id)}." if request_id else "",
    )
    return page.encode()
