"""``python -m bookinfo SERVICE [--version V] --listen ADDRESS:PORT …``: run one service."""

from __future__ import annotations

import argparse

from bookinfo.client import Client
from bookinfo.details import details
from bookinfo.productpage import Backends, productpage
from bookinfo.ratings import ratings
from bookinfo.reviews import COLOURS, reviews
from bookinfo.web import App, Identity, serve

SERVICES = ("productpage", "details", "reviews", "ratings")


def parser() -> argparse.ArgumentParser:
    known = argparse.ArgumentParser(prog="bookinfo", description="Run one Bookinfo service.")
    known.add_argument("service", choices=SERVICES)
    known.add_argument("--version", default="v1", choices=sorted(COLOURS))
    known.add_argument("--listen", default="127.0.0.1:9080", metavar="ADDRESS:PORT")
    known.add_argument("--host", default="", help="name of this host, shown on the page")
    known.add_argument("--proxy", default="", metavar="ADDRESS:PORT", help="HTTP proxy for calls")
    known.add_argument("--details", default="http://details:9081", metavar="URL")
    known.add_argument("--reviews", default="http://reviews:9082", metavar="URL")
    known.add_argument("--ratings", default="http://ratings:9083", metavar="URL")
    return known


def build(options: argparse.Namespace) -> App:
    """The application that the options ask for."""
    me = Identity(options.service, options.version, options.host)
    proxy = options.proxy
    match options.service:
        case "productpage":
            calls = Backends(Client(options.details, proxy).get, Client(options.reviews, proxy).get)
            return productpage(me, calls)
        case "reviews":
            return reviews(me, Client(options.ratings, proxy).get)
        case "ratings":
            return ratings(me)
    return details(me)


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    address, _, port = options.listen.rpartition(":")
    serve(build(options), address.strip("[]"), int(port))


if __name__ == "__main__":
    main()
