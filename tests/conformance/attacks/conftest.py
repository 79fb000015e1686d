"""Each attack on each port that strangers or other nodes can reach."""

from __future__ import annotations

import pytest

from tests.conformance.attacks.victim import Victim
from tests.conformance.nodes import PORTS, Nodes


@pytest.fixture(params=PORTS)
def victim(request: pytest.FixtureRequest, nodes: Nodes) -> Victim:
    daemon = nodes.fleet.gpus[0] if request.param == "mesh-mtls" else nodes.fleet.router
    return Victim(daemon, nodes.port(request.param))
