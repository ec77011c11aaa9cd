"""ratings: stars of each reviewer, and a switch that makes a share of answers fail."""

from __future__ import annotations

import threading

from bookinfo.web import App, Identity, Reply, Request, error, json_reply

STARS = {"Reviewer1": 5, "Reviewer2": 4}


class FailSwitch:
    """Fails ``percent`` of the calls, evenly spread, so that a run can be repeated."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._percent = 0
        self._debt = 0

    @property
    def percent(self) -> int:
        return self._percent

    def set(self, percent: int) -> None:
        with self._lock:
            self._percent, self._debt = percent, 0

    def fails(self) -> bool:
        with self._lock:
            self._debt += self._percent
            if self._debt < 100:
                return False
            self._debt -= 100
            return True


def _switch(request: Request, switch: FailSwitch) -> Reply:
    if request.method == "POST":
        percent = request.query.get("percent", "")
        if not percent.isdecimal() or int(percent) > 100:
            return error(400, "say which share fails: POST /fail?percent=30")
        switch.set(int(percent))
    return json_reply({"percent": switch.percent})


def ratings(me: Identity, switch: FailSwitch | None = None) -> App:
    """``GET /ratings/ID``, ``GET|POST /fail?percent=N`` and ``GET /health``."""
    failing = switch or FailSwitch()

    def app(request: Request) -> Reply:
        if request.path == "/health":
            return json_reply({"status": "ratings is healthy"})
        if request.path == "/fail":
            return _switch(request, failing)
        product = request.path.removeprefix("/ratings/")
        if product == request.path or not product.isdecimal():
            return error(404, "ask for /ratings/ID with a numeric ID")
        if failing.fails():
            return error(503, "ratings was told to fail; POST /fail?percent=0 mends it")
        return json_reply({"id": int(product), "ratings": STARS, "served_by": me.as_json()})

    return app
