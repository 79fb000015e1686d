"""Whether a target may be chosen, and if not, why: the one place that knows the reasons and their order.

The reasons are for operators and freeze at the moment when a view is built: an age in them is the age then. The
target's `received_at` tells the age now.
"""

from __future__ import annotations

from infermesh.core.fusion import Report
from infermesh.core.model.nodes import NodeRecord, NodeState
from infermesh.core.model.state import Lifecycle
from infermesh.core.model.targets import Target

_WHY_NOT_READY = {
    Lifecycle.UNKNOWN: "lifecycle unknown",
    Lifecycle.LOADING: "loading",
    Lifecycle.FAILED: "failed",
    Lifecycle.READY: "",
}
_WHY_NOT_THERE = {
    NodeState.JOINING: "node joining",
    NodeState.ALIVE: "",
    NodeState.SUSPECT: "",
    NodeState.DEAD: "node dead",
    NodeState.LEFT: "node left",
}


def why_node_out(record: NodeRecord | None) -> str:
    """Why nothing on the node may be chosen; empty when it may. None: the node is not known any more."""
    return _WHY_NOT_THERE[NodeState.LEFT if record is None else record.state]


def why_out(record: NodeRecord, report: Report, now: float) -> str:
    """Why the target may not be chosen, ejections aside; empty when it may."""
    why = _WHY_NOT_THERE[record.state]
    if why:
        return why
    if not report.fresh:
        return f"stale {now - report.received_at:.1f} s"
    return _WHY_NOT_READY[report.state.lifecycle]


def target_of(record: NodeRecord, report: Report, now: float, *, ejected_until: float | None) -> Target:
    """The target as a view shows it."""
    why = why_out(record, report, now)
    if not why and ejected_until is not None:
        why = f"ejected {max(0.0, ejected_until - now):.1f} s"
    state = report.state
    return Target(
        key=report.key,
        node=state.node,
        model=state.model,
        state=state,
        received_at=report.received_at,
        rtt_s=record.rtt_s,
        zone=record.zone,
        suspect=record.state is NodeState.SUSPECT,
        unavailable=why,
    )
