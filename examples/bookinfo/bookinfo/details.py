"""details: what is known of the book."""

from __future__ import annotations

from bookinfo.web import App, Identity, Reply, Request, error, json_reply

BOOK = {
    "title": "The Comedy of Errors",
    "author": "William Shakespeare",
    "year": 1595,
    "type": "paperback",
    "pages": 200,
    "publisher": "PublisherA",
    "language": "English",
    "isbn_10": "1234567890",
    "isbn_13": "123-1234567890",
}


def details(me: Identity) -> App:
    """``GET /details/ID`` and ``GET /health``."""

    def app(request: Request) -> Reply:
        if request.path == "/health":
            return json_reply({"status": "details is healthy"})
        product = request.path.removeprefix("/details/")
        if product == request.path or not product.isdecimal():
            return error(404, "ask for /details/ID with a numeric ID")
        return json_reply({"id": int(product), **BOOK, "served_by": me.as_json()})

    return app
