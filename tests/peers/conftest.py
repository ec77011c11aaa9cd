"""One mesh and one node process for all the peers: services are added as tests need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.mesh import PeerMesh, peer_mesh
from tests.peers.node_process import Node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    process = Node()
    yield process
    process.close()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerMesh]:
    with peer_mesh(tmp_path_factory.mktemp("peers")) as found:
        yield found
