"""Nodes of the mesh as one router sees them: the port that membership plugs into.

Today the records come from static addresses in the config and from the liveness of each peer's state
stream; later from gossip. Nothing above this file knows which.
"""

from __future__ import annotations

import enum

import msgspec

from infermesh.core.model.names import NodeId


class Role(enum.StrEnum):
    ROUTER = "router"
    GPU = "gpu"
    EDGE = "edge"


class NodeState(enum.StrEnum):
    JOINING = "joining"  # Known, never heard from.
    ALIVE = "alive"
    SUSPECT = "suspect"  # Late; still used when nothing better is there.
    DEAD = "dead"
    LEFT = "left"


class Address(msgspec.Struct, frozen=True):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `since` is the monotonic time at which `state` began, in seconds."""

    node: NodeId
    mesh_address: Address | None  # None: this very node, reached without the network.
    roles: frozenset[Role]
    zone: str
    state: NodeState
    since: float
    rtt_s: float = 0.0  # Smoothed round trip to it; 0.0 until measured.
    reason: str = ""  # Why it is not alive, in words for an operator.
