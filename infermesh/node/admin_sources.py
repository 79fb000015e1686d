"""What the admin port of this node can tell, gathered from the parts that know it. Reads, never changes."""

from __future__ import annotations

from collections.abc import Callable

import trio

from infermesh.core.kernel import KernelEvent, TargetEjected
from infermesh.core.model.names import ModelName, TargetKey
from infermesh.core.model.nodes import NodeState
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.targets import RoutingView
from infermesh.core.routing.router import Router
from infermesh.net.listener import Listener
from infermesh.net.reactor import Reactor
from infermesh.node.config import NodeConfig
from infermesh.node.telemetry import Telemetry
from infermesh.observe.families import Labels
from infermesh.observe.metrics import Metrics
from infermesh.planes.control.loop import ControlLoop
from infermesh.planes.data.explain import Json, record_value, score_value
from infermesh.planes.data.pools import Pools


class NodeSources:
    def __init__(
        self,
        config: NodeConfig,
        control: ControlLoop,
        telemetry: Telemetry,
        router: Router,
        *,
        pools: Pools,
        reactor: Reactor,
    ) -> None:
        self._config = config
        self._control = control
        self._telemetry = telemetry
        self._router = router
        self._pools = pools
        self._reactor = reactor
        self.listeners: dict[str, Listener] = {}
        self.queue_len: Callable[[ModelName], int] | None = None  # Of a router's admission.
        self.subscribers: Callable[[], int] | None = None  # Of this node's state.
        self.stopping = False

    @property
    def me(self) -> str:
        return self._config.node.id

    @property
    def metrics(self) -> Metrics:
        """With everything that is read off rather than counted brought up to date."""
        metrics = self._telemetry.metrics
        for port, listener in self.listeners.items():
            metrics.connections.child(port=port).value = listener.connections
        for node, (used, idle) in self._pools.counts().items():
            metrics.upstream_connections.child(node=node, phase="open").value = used
            metrics.upstream_connections.child(node=node, phase="idle").value = idle
        if self.queue_len is not None:
            waiting: dict[Labels, float] = {(model,): self.queue_len(model) for model in self._control.view.eligible}
            metrics.admission_queue_depth.replace(waiting)
        if self.subscribers is not None:
            metrics.state_subscribers.child().value = self.subscribers()
        metrics.reactor_batches.child().value = self._reactor.batches
        metrics.reactor_events.child().value = self._reactor.events
        metrics.mailbox_dropped.child().value = self._control.dropped
        for reason, count in self._control.drops.items():
            metrics.deltas_dropped.child(reason=reason).value = count
        return metrics

    def view(self) -> RoutingView:
        return self._control.view

    def inflight(self, key: TargetKey) -> int:
        return self._router.inflight(key)

    def score(self, model: str, prompt_tokens: int, output_tokens: int) -> Json | None:
        """Every candidate as it would be scored now; None for a model that nobody serves."""
        view = self._control.view
        if model not in view.eligible:
            return None
        facts = RequestFacts(
            model=ModelName(model),
            prompt_bytes=prompt_tokens * 4,
            output_tokens_max=output_tokens,
            stream=True,
            blocks=(),
        )
        return score_value(view, model, self._router.score_all(facts, trio.current_time()))

    def explain(self, request_id: str) -> Json | None:
        record = self._telemetry.ledger.find(request_id)
        if record is None:
            return None
        return record_value(record, self._control.view, self._unix_offset_s())

    def requests(self, limit: int) -> list[Json]:
        """The last requests, newest first."""
        offset = self._unix_offset_s()
        view = self._control.view
        return [record_value(record, view, offset) for record in self._telemetry.ledger.recent(limit)]

    def ready(self) -> tuple[bool, list[str]]:
        """Whether this node can do its work, and what is missing."""
        if self.stopping:
            return False, ["the node is stopping"]
        view = self._control.view
        missing: list[str] = []
        if self._config.routes and not any(view.eligible.values()):
            heard = [record for record in view.nodes.values() if record.state is NodeState.ALIVE]
            missing.append(f"no model can be served yet: {len(heard)} of {len(view.nodes)} nodes are alive")
        if self._config.fronts_runtimes and not any(target.node == self.me for target in view.targets.values()):
            missing.append("no runtime of this node has answered yet")
        return not missing, missing

    def count_event(self, event: KernelEvent) -> None:
        """Kernel events that are metrics as well."""
        if isinstance(event, TargetEjected):
            target = self._control.view.targets.get(event.target)
            if target is not None:
                ejections = self._telemetry.metrics.target_ejections
                ejections.child(model=target.model, node=target.node, reason=event.reason).value += 1

    def _unix_offset_s(self) -> float:
        return self._telemetry.tracer.unix_offset_s(trio.current_time())
