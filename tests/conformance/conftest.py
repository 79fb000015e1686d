"""The nodes that all suites here share: started once, asked much, never hurt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.nodes import Nodes, running_nodes


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("nodes")) as found:
        yield found
