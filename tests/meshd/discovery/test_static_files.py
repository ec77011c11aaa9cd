from __future__ import annotations

import pytest

from meshd.discovery.base import Instance
from meshd.discovery.static_files import answers, parse
from meshkit.names import ServiceName

REVIEWS = ServiceName("shop", "reviews")
WHOLE = """\
name: reviews
namespace: shop
instances:
- host: vm1
  instance: v1
  address: 10.0.0.1
  port: 9080
  portName: http
  meshPort: 15443
  labels: {version: v1}
  weight: 3
- {host: vm2, address: 10.0.0.2, port: 9080}
- {host: vm2, address: 10.0.0.2, port: 5432, protocol: tcp}
- {host: vm3, address: 10.0.0.3, port: 9080, healthy: false}
"""


def test_a_whole_document() -> None:
    listed, problems = parse(WHOLE, "a.yaml")
    assert problems == []
    answer = answers(listed)[REVIEWS]
    assert answer.healthy == (
        Instance(
            REVIEWS, "v1", "vm1", "10.0.0.1", 9080, "HTTP", 15443, "http", {"version": "v1"}, 3
        ),
        Instance(REVIEWS, "main", "vm2", "10.0.0.2", 9080, "HTTP"),
        Instance(REVIEWS, "main", "vm2", "10.0.0.2", 5432, "TCP"),
    )
    assert answer.failing == {("vm3", "main", 9080)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("name: reviews\n", "instances"),
        ("name: reviews\ninstances: [{host: vm1, port: 1}]\n", "address"),
        ("name: reviews\ninstances: []\nweigth: 3\n", "weigth"),
        ("name: [\n", "a.yaml:"),
        (
            "name: r\ninstances:\n- {host: a, address: 10.0.0.1, port: 1}\n"
            "- {host: a, address: 10.0.0.2, port: 1}\n",
            "twice",
        ),
    ],
)
def test_mistakes_are_said_with_their_place(text: str, said: str) -> None:
    _, problems = parse(text, "a.yaml")
    assert problems
    assert said in str(problems[0])
    assert str(problems[0]).startswith("a.yaml:")
