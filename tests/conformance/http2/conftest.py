"""The ports under test: those of running meshd processes, and one of a server that we did not write.

The latter (nghttpd, where it is installed) keeps the suite honest: what it and we fail alike is likely the test's
fault. What it does otherwise is in `reference.OTHERWISE`, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import RawPeer
from tests.conformance.http2.reference import OTHERWISE, nghttpd
from tests.conformance.nodes import PORTS, Nodes


@pytest.fixture(scope="session", params=[*PORTS, pytest.param("nghttpd", marks=pytest.mark.interop)])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    if request.param == "nghttpd":
        with nghttpd(tmp_path_factory.mktemp("nghttpd")) as found:
            yield found
        return
    nodes: Nodes = request.getfixturevalue("nodes")  # Not as a parameter: the other server needs none.
    yield nodes.port(request.param)


@pytest.fixture(autouse=True)
def _otherwise(request: pytest.FixtureRequest, port: Port) -> None:
    name = request.node.name
    reason = OTHERWISE.get(name.partition("[")[0]) or OTHERWISE.get(name)
    if port.name == "nghttpd" and reason:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture
async def stranger(port: Port) -> AsyncIterator[RawPeer]:
    """A connected peer that has said nothing yet."""
    async with port.peer() as found:
        yield found


@pytest.fixture
async def peer(stranger: RawPeer) -> RawPeer:
    """A connected peer after both prefaces."""
    await stranger.greet()
    return stranger
