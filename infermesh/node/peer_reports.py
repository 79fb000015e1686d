"""What a peer's state stream says, handed to the control loop. One per followed peer."""

from __future__ import annotations

from collections.abc import Callable

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import NodeState
from infermesh.core.model.state import GpuState, ModelState
from infermesh.observe.metrics import Metrics
from infermesh.planes.control.loop import Message, NodeHeard


class PeerReports:
    def __init__(self, post: Callable[[Message], None], metrics: Metrics) -> None:
        self._post = post
        self._metrics = metrics

    def model_state(self, state: ModelState) -> None:
        self._metrics.deltas_received.child(node=state.node).value += 1
        self._post(state)

    def gpu_state(self, state: GpuState) -> None:
        self._metrics.deltas_received.child(node=state.node).value += 1
        self._post(state)

    def alive(self, node: NodeId, rtt_s: float, *, new_stream: bool) -> None:
        self._post(NodeHeard(node, NodeState.ALIVE, "", rtt_s, new_stream))

    def suspect(self, node: NodeId, reason: str) -> None:
        self._post(NodeHeard(node, NodeState.SUSPECT, reason))

    def dead(self, node: NodeId, reason: str) -> None:
        self._post(NodeHeard(node, NodeState.DEAD, reason))

    def refused(self, node: NodeId, reason: str) -> None:
        label = "wrong_node" if reason == "other_node" else reason
        self._metrics.deltas_dropped.child(reason=label).value += 1
