"""One mesh for each test module: starting one takes about five seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.mesh import Mesh, mesh, reviews_mesh


@pytest.fixture(scope="module", params=["embedded"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    """Shop on host a calls reviews v1 on b and v2 on c; parameter: the discovery."""
    with mesh(tmp_path_factory.mktemp("mesh"), consul=request.param == "consul") as found:
        reviews_mesh(found)
        yield found
