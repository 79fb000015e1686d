"""Which target a request goes to, whether it may go at all, and what happens when targets are slow or fail.

Pure cores, each owned by one router process; see the modules for the duties of their caller.
"""

from __future__ import annotations

from infermesh.core.routing.load import Lease
from infermesh.core.routing.plan import Candidate, Plan, Prediction
from infermesh.core.routing.prefix import blocks_of
from infermesh.core.routing.router import Router
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig

__all__ = [
    "POLICY_NAMES",
    "Candidate",
    "Lease",
    "Plan",
    "Prediction",
    "Router",
    "RoutingConfig",
    "blocks_of",
]
