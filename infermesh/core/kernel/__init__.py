"""The kernel: one node's decisions about the mesh, composed out of pure parts, for the daemon and the simulator."""

from __future__ import annotations

from infermesh.core.kernel.events import (
    EngineRestarted,
    KernelEvent,
    NodeAlive,
    NodeDead,
    NodeLeft,
    NodeSuspect,
    TargetEjected,
    TargetForgotten,
    TargetFresh,
    TargetKnown,
    TargetLifecycle,
    TargetReadmitted,
    TargetSpared,
    TargetStale,
)
from infermesh.core.kernel.kernel import Kernel
from infermesh.core.kernel.kernel_config import KernelConfig

__all__ = [
    "EngineRestarted",
    "Kernel",
    "KernelConfig",
    "KernelEvent",
    "NodeAlive",
    "NodeDead",
    "NodeLeft",
    "NodeSuspect",
    "TargetEjected",
    "TargetForgotten",
    "TargetFresh",
    "TargetKnown",
    "TargetLifecycle",
    "TargetReadmitted",
    "TargetSpared",
    "TargetStale",
]
