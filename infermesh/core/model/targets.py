"""The immutable view that request tasks read: which targets serve which model, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.nodes import NodeRecord
from infermesh.core.model.state import GpuState, ModelState


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one node, as last heard. `unavailable` is empty when it may be chosen."""

    key: TargetKey
    node: NodeId
    model: ModelName
    state: ModelState
    received_at: float  # Monotonic seconds on this node when `state` arrived; the signal's age counts from here.
    rtt_s: float = 0.0
    zone: str = ""
    suspect: bool = False  # Chosen only when nothing better is there.
    unavailable: str = ""  # Why it must not be chosen: "node dead", "stale", "ejected 3.1 s", "loading", ...


class RoutingView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the data plane may know, at one moment. Replaced whole, never changed."""

    version: int
    built_at: float
    nodes: Mapping[NodeId, NodeRecord]
    eligible: Mapping[ModelName, tuple[Target, ...]]  # Sorted by key; a known model may map to ().
    targets: Mapping[TargetKey, Target]  # Every target ever heard of and not yet forgotten.
    gpus: tuple[GpuState, ...] = ()


EMPTY_VIEW = RoutingView(version=0, built_at=0.0, nodes={}, eligible={}, targets={})
