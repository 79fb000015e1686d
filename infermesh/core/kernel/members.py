"""The nodes of the mesh and their states: the port that membership plugs into.

Today the records are the static peers of the config, and their states are told from the liveness of each peer's
state stream. Gossip will replace both: it adds and changes records by `put`, tells states by `tell`, and nothing
above this file changes, since everything above reads `NodeRecord`s only.

Not a failure detector: it measures no silence. It keeps what was told, and refuses what cannot follow.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import NodeRecord, NodeState

_JOINING, _ALIVE, _SUSPECT, _DEAD, _LEFT = NodeState

# (what it is, what is told) -> what it becomes. Late news do not turn a life back: only a sign of life revives,
# and a node that is not known to live cannot be suspected.
_NEXT = {
    (_JOINING, _JOINING): _JOINING,
    (_JOINING, _ALIVE): _ALIVE,
    (_JOINING, _SUSPECT): _JOINING,
    (_JOINING, _DEAD): _DEAD,
    (_JOINING, _LEFT): _LEFT,
    (_ALIVE, _JOINING): _ALIVE,
    (_ALIVE, _ALIVE): _ALIVE,
    (_ALIVE, _SUSPECT): _SUSPECT,
    (_ALIVE, _DEAD): _DEAD,
    (_ALIVE, _LEFT): _LEFT,
    (_SUSPECT, _JOINING): _SUSPECT,
    (_SUSPECT, _ALIVE): _ALIVE,
    (_SUSPECT, _SUSPECT): _SUSPECT,
    (_SUSPECT, _DEAD): _DEAD,
    (_SUSPECT, _LEFT): _LEFT,
    (_DEAD, _JOINING): _DEAD,
    (_DEAD, _ALIVE): _ALIVE,
    (_DEAD, _SUSPECT): _DEAD,
    (_DEAD, _DEAD): _DEAD,
    (_DEAD, _LEFT): _LEFT,
    (_LEFT, _JOINING): _LEFT,
    (_LEFT, _ALIVE): _ALIVE,
    (_LEFT, _SUSPECT): _LEFT,
    (_LEFT, _DEAD): _LEFT,
    (_LEFT, _LEFT): _LEFT,
}

# Round trips wander all the time; a change below both bounds is no reason for a new view of the whole mesh.
_RTT_CHANGE_SHARE = 0.1
_RTT_CHANGE_S = 0.0001


class Members:
    def __init__(self, me: NodeId, records: Iterable[NodeRecord]) -> None:
        self._me = me
        self._records: dict[NodeId, NodeRecord] = {}
        for record in records:
            if record.node in self._records:
                raise ValueError(f"node {record.node} is listed twice; give each peer an id of its own")
            self._records[record.node] = record
        if me not in self._records:
            raise ValueError(f"the nodes lack this very node, {me}; add its own record to them")
        # We run: nobody has to tell us, and nobody can tell us otherwise.
        self._records[me] = msgspec.structs.replace(self._records[me], state=_ALIVE, reason="", rtt_s=0.0)

    def get(self, node: NodeId) -> NodeRecord | None:
        return self._records.get(node)

    def all(self) -> dict[NodeId, NodeRecord]:
        """A copy, by node id."""
        return {node: self._records[node] for node in sorted(self._records)}

    def put(self, record: NodeRecord) -> None:
        """Add a node, or replace what is known of it but its state, which only `tell` changes."""
        held = self._records.get(record.node)
        if held is not None:
            record = msgspec.structs.replace(
                record, state=held.state, since=held.since, reason=held.reason, rtt_s=held.rtt_s
            )
        self._records[record.node] = record

    def tell(
        self, node: NodeId, state: NodeState, now: float, *, reason: str, rtt_s: float | None
    ) -> tuple[NodeRecord, NodeRecord] | None:
        """(before, after) when the record changed; None when it did not, or when the node is unknown."""
        before = self._records.get(node)
        if before is None or node == self._me:
            return None
        after_state = _NEXT[before.state, state]
        if after_state is not state:
            return None
        after = before
        if after_state is not before.state:
            after = msgspec.structs.replace(after, state=after_state, since=now)
        if reason != after.reason:
            after = msgspec.structs.replace(after, reason=reason)
        if rtt_s is not None and _rtt_changed(after.rtt_s, rtt_s):
            after = msgspec.structs.replace(after, rtt_s=rtt_s)
        if after is before:
            return None
        self._records[node] = after
        return before, after


def _rtt_changed(before_s: float, after_s: float) -> bool:
    change_s = abs(after_s - before_s)
    return change_s > _RTT_CHANGE_S and change_s > _RTT_CHANGE_SHARE * before_s
