"""What the kernel noticed, for logs and event streams: one frozen value for each fact, under its log name.

Not effects: nobody has to obey them. `name` is the `event` field of the log line; the other fields are its fields.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from infermesh.core.model.names import NodeId, TargetKey
from infermesh.core.model.state import Lifecycle


class NodeAlive(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "node_alive"
    at: float
    node: NodeId
    away_s: float  # How long it was suspect or dead; 0.0 when it is heard for the first time.


class NodeSuspect(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "node_suspect"
    at: float
    node: NodeId
    reason: str


class NodeDead(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "node_dead"
    at: float
    node: NodeId
    reason: str
    targets: int  # So many went out of choice with it.


class NodeLeft(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "node_left"
    at: float
    node: NodeId
    targets: int


class TargetKnown(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_known"
    at: float
    target: TargetKey
    runtime: str
    lifecycle: Lifecycle


class TargetLifecycle(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_lifecycle"
    at: float
    target: TargetKey
    before: Lifecycle
    lifecycle: Lifecycle


class EngineRestarted(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "engine_restarted"
    at: float
    target: TargetKey
    incarnation: int


class TargetStale(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_stale"
    at: float
    target: TargetKey
    age_s: float


class TargetFresh(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_fresh"
    at: float
    target: TargetKey
    silent_s: float


class TargetForgotten(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_forgotten"
    at: float
    target: TargetKey


class TargetEjected(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_ejected"
    at: float
    target: TargetKey
    for_s: float
    reason: str


class TargetSpared(msgspec.Struct, frozen=True, kw_only=True):
    """It should be ejected, but too many targets of its model are."""

    name: ClassVar[str] = "target_spared"
    at: float
    target: TargetKey
    reason: str


class TargetReadmitted(msgspec.Struct, frozen=True, kw_only=True):
    name: ClassVar[str] = "target_readmitted"
    at: float
    target: TargetKey
    early: bool  # Before its time: it was needed, or it was started anew.


KernelEvent = (
    NodeAlive
    | NodeSuspect
    | NodeDead
    | NodeLeft
    | TargetKnown
    | TargetLifecycle
    | EngineRestarted
    | TargetStale
    | TargetFresh
    | TargetForgotten
    | TargetEjected
    | TargetSpared
    | TargetReadmitted
)
