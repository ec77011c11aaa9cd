"""reviews: v1 has no stars, v2 black ones, v3 red ones; the stars come from ratings."""

from __future__ import annotations

from typing import Any

from bookinfo.client import Fetch, forwarded
from bookinfo.web import App, Identity, Reply, Request, error, json_reply

COLOURS = {"v1": None, "v2": "black", "v3": "red"}

TEXTS = {
    "Reviewer1": (
        "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"
    ),
    "Reviewer2": (
        "Absolutely fun and entertaining. The play lacks thematic depth when compared "
        "to other plays by Shakespeare."
    ),
}


def _rating(stars: Any, colour: str) -> dict[str, Any]:
    if not isinstance(stars, int):
        return {"error": "Ratings service is currently unavailable"}
    return {"stars": stars, "color": colour}


def _rated(
    product: str, colour: str, fetch: Fetch, headers: dict[str, str]
) -> tuple[list[dict[str, Any]], Any]:
    """The reviews with their stars, and who served the ratings."""
    answer = fetch(f"/ratings/{product}", headers)
    body = answer.value if answer.ok and isinstance(answer.value, dict) else {}
    stars = body.get("ratings", {})
    rows = [
        {"reviewer": who, "text": text, "rating": _rating(stars.get(who), colour)}
        for who, text in TEXTS.items()
    ]
    return rows, body.get("served_by")


def reviews(me: Identity, ratings: Fetch | None = None) -> App:
    """``GET /reviews/ID`` and ``GET /health``; ``ratings`` is not asked by v1."""
    colour = COLOURS.get(me.version)

    def app(request: Request) -> Reply:
        if request.path == "/health":
            return json_reply({"status": "reviews is healthy"})
        product = request.path.removeprefix("/reviews/")
        if product == request.path or not product.isdecimal():
            return error(404, "ask for /reviews/ID with a numeric ID")
        body: dict[str, Any] = {"id": product, "served_by": me.as_json()}
        if colour is None or ratings is None:
            rows = [{"reviewer": who, "text": text} for who, text in TEXTS.items()]
            return json_reply({**body, "reviews": rows})
        rated, by = _rated(product, colour, ratings, forwarded(request.headers))
        return json_reply({**body, "reviews": rated, "ratings_served_by": by})

    return app
