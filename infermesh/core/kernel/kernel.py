"""One node's decisions about the mesh: membership, fusion and outliers joined into the view that requests read.

Pure. It measures no liveness and moves no bytes; it is told states and outcomes, and answers with a `RoutingView`.
A target may be chosen when its node is alive (or suspect: then flagged, for when nothing better is there), its
state is fresh, its engine is ready, and it is not ejected. Any other target stays in the view with the reason.

Duties of the caller, which owns the kernel alone (in the daemon: `planes/control/loop`):
- tell everything in the order in which it happened, then `on_wake` once `wake_at` has passed, and `view` after;
- `on_stream_start` when a state stream of a node begins, before the first state out of it;
- take `view` as often as requests need it and no oftener: a clean one costs nothing, a changed one about the
  changed targets plus a copy of the tables, and everything told in between shares that cost;
- drain `take_events` into the log. The buffer holds `events_max`; past it the oldest are dropped and counted.

States of unknown nodes, and repeated, late or impossible node states, are ignored on purpose: the ways by which
news arrive race each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import assert_never

from infermesh.core.fusion import Forgotten, Fusion, FusionEffect, Report, Stale
from infermesh.core.kernel import events
from infermesh.core.kernel.availability import target_of, why_node_out, why_out
from infermesh.core.kernel.events import KernelEvent
from infermesh.core.kernel.kernel_config import KernelConfig
from infermesh.core.kernel.members import Members
from infermesh.core.model.names import ModelName, NodeId, TargetKey, target_key
from infermesh.core.model.nodes import NodeRecord, NodeState
from infermesh.core.model.outcome import Outcome
from infermesh.core.model.state import GpuState, ModelState
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView, Target
from infermesh.core.routing.outlier import Ejected, OutlierEffect, Outliers, Readmitted, Spared


class Kernel:
    def __init__(self, config: KernelConfig, me: NodeId, nodes: Sequence[NodeRecord]) -> None:
        """`nodes` holds a record of every node that is known, this very one (`me`) among them."""
        config.validate()
        self._config = config
        self._members = Members(me, nodes)
        self._fusion = Fusion(config.fusion)
        self._outliers = Outliers(config.outliers)
        self._events: deque[KernelEvent] = deque(maxlen=config.events_max)
        self.events_dropped = 0
        self.ignored_unknown = 0  # Reports of nodes that are not known, or have left.
        # What could be chosen, were nothing ejected; and all targets, for the order inside a view.
        self._pools: dict[ModelName, set[TargetKey]] = {}
        self._keys: dict[ModelName, list[TargetKey]] = {}
        # What the next view must renew. A dict serves as a set that remembers its order.
        self._view = EMPTY_VIEW
        self._dirty: dict[TargetKey, None] = {}
        self._nodes_dirty = True
        self._gpus_shown_at = -math.inf
        self._gpus_dirty = False

    # What the world tells.

    def on_stream_start(self, node: NodeId, now: float) -> None:
        self._fusion.on_stream_start(node, now)

    def on_model_state(self, state: ModelState, now: float) -> bool:
        """Whether it was taken over; see `drops` for those that were not."""
        record = self._members.get(state.node)
        if record is None or record.state is NodeState.LEFT:
            self.ignored_unknown += 1
            return False
        report = self._fusion.report(target_key(state.node, state.model, state.replica))
        if report is None:
            return self._on_first_state(state, now)
        before, silent_s, was_fresh = report.state, now - report.received_at, report.fresh
        if not self._fusion.on_model_state(state, now):
            return False
        key = report.key
        self._dirty[key] = None
        if was_fresh and before.lifecycle is state.lifecycle and before.incarnation == state.incarnation:
            return True
        if not was_fresh:
            self._note(events.TargetFresh(at=now, target=key, silent_s=silent_s))
        if before.lifecycle is not state.lifecycle:
            self._note(events.TargetLifecycle(at=now, target=key, before=before.lifecycle, lifecycle=state.lifecycle))
        if before.incarnation != state.incarnation:
            self._note(events.EngineRestarted(at=now, target=key, incarnation=state.incarnation))
            self._obey_outliers(self._outliers.on_restart(key, now), now)
        self._reassess(report, now)
        return True

    def on_gpu_state(self, state: GpuState, now: float) -> bool:
        """Whether it was taken over."""
        record = self._members.get(state.node)
        if record is None or record.state is NodeState.LEFT:
            self.ignored_unknown += 1
            return False
        if not self._fusion.on_gpu_state(state, now):
            return False
        self._gpus_dirty = True
        return True

    def on_node_record(self, record: NodeRecord, now: float) -> None:
        """A node is new, or its address, roles or zone changed; its state is told by `on_node_state`."""
        self._members.put(record)
        self._renew_node(record.node)

    def on_node_state(
        self, node: NodeId, state: NodeState, now: float, reason: str = "", rtt_s: float | None = None
    ) -> None:
        change = self._members.tell(node, state, now, reason=reason, rtt_s=rtt_s)
        if change is None:
            return
        before, after = change
        self._renew_node(node)
        if before.state is after.state:
            return
        self._gpus_dirty = True  # Readings of a node that is not there are not shown.
        match after.state:
            case NodeState.ALIVE:
                self._on_alive(before, after, now)
            case NodeState.SUSPECT:
                self._note(events.NodeSuspect(at=now, node=node, reason=reason))
            case NodeState.DEAD:
                lost = sum(self._in_pool(report) for report in self._fusion.reports_of(node))
                self._note(events.NodeDead(at=now, node=node, reason=reason, targets=lost))
                # Its targets are stale for the same reason: one event says it all.
                self._fusion.on_node_gone(node, now)
                self._reassess_node(node, now)
            case NodeState.LEFT:
                forgotten = self._fusion.forget_node(node)
                self._note(events.NodeLeft(at=now, node=node, targets=len(forgotten)))
                self._obey_fusion(forgotten, now)
            case NodeState.JOINING:
                pass  # Nobody becomes joining: the table of members has no such way.
            case _:
                assert_never(after.state)

    def on_outcome(self, outcome: Outcome, now: float) -> None:
        effects = self._outliers.on_outcome(
            outcome.target, outcome.verdict, now, dispatched_at=now - outcome.total_s, count=outcome.count
        )
        if effects:
            self._obey_outliers(effects, now)

    @property
    def wake_at(self) -> float:
        gpus_at = self._gpus_shown_at + self._config.gpus_every_s if self._gpus_dirty else math.inf
        return min(self._fusion.wake_at, self._outliers.wake_at, gpus_at)

    def on_wake(self, now: float) -> None:
        gpus_before = self._fusion.gpu_count
        self._obey_fusion(self._fusion.on_wake(now), now)
        self._gpus_dirty |= self._fusion.gpu_count != gpus_before
        self._obey_outliers(self._outliers.on_wake(now), now)

    # What the world asks.

    def view(self, now: float) -> RoutingView:
        """The same object while nothing changed; its tables are shared with earlier views where they did not."""
        show_gpus = self._gpus_dirty and now >= self._gpus_shown_at + self._config.gpus_every_s
        if self._dirty or self._nodes_dirty or show_gpus:
            self._view = self._build(now, show_gpus=show_gpus)
        return self._view

    def take_events(self) -> list[KernelEvent]:
        taken = list(self._events)
        self._events.clear()
        return taken

    @property
    def drops(self) -> dict[str, int]:
        """Reports that were not taken over, by reason; for a metric."""
        return {str(reason): count for reason, count in sorted(self._fusion.drops.items())}

    @property
    def last_fault(self) -> str:
        """What was wrong with the last invalid report."""
        return self._fusion.last_fault

    # Inside: what follows from the news.

    def _on_first_state(self, state: ModelState, now: float) -> bool:
        if not self._fusion.on_model_state(state, now):
            return False
        key = target_key(state.node, state.model, state.replica)
        report = self._fusion.report(key)
        assert report is not None
        insort(self._keys.setdefault(state.model, []), key)
        self._dirty[key] = None
        self._note(events.TargetKnown(at=now, target=key, runtime=state.runtime, lifecycle=state.lifecycle))
        self._reassess(report, now)
        return True

    def _on_alive(self, before: NodeRecord, after: NodeRecord, now: float) -> None:
        heard_first = before.state is NodeState.JOINING
        self._note(events.NodeAlive(at=now, node=after.node, away_s=0.0 if heard_first else now - before.since))
        if before.state is not NodeState.SUSPECT:
            # It may be another run of the node. What requests met on the dead one is not held against it for long.
            self._fusion.on_stream_start(after.node, now)
            for report in self._fusion.reports_of(after.node):
                self._obey_outliers(self._outliers.on_restart(report.key, now), now)
            self._reassess_node(after.node, now)

    def _obey_fusion(self, effects: Iterable[FusionEffect], now: float) -> None:
        for effect in effects:
            match effect:
                case Stale(key, age_s):
                    self._note(events.TargetStale(at=now, target=key, age_s=age_s))
                    report = self._fusion.report(key)
                    assert report is not None
                    self._dirty[key] = None
                    self._reassess(report, now)
                case Forgotten(key, _, model):
                    self._note(events.TargetForgotten(at=now, target=key))
                    self._forget(key, model, now)
                case _:
                    assert_never(effect)

    def _obey_outliers(self, effects: Iterable[OutlierEffect], now: float) -> None:
        for effect in effects:
            self._dirty[effect.target] = None
            match effect:
                case Ejected(key, for_s, because):
                    self._note(events.TargetEjected(at=now, target=key, for_s=for_s, reason=because))
                case Spared(key, because):
                    self._note(events.TargetSpared(at=now, target=key, reason=because))
                case Readmitted(key, early):
                    self._note(events.TargetReadmitted(at=now, target=key, early=early))
                case _:
                    assert_never(effect)

    def _forget(self, key: TargetKey, model: ModelName, now: float) -> None:
        keys = self._keys[model]
        del keys[bisect_left(keys, key)]
        if not keys:
            del self._keys[model]
        self._dirty[key] = None
        self._leave_pool(key, model, now)
        self._outliers.forget(key)

    def _reassess_node(self, node: NodeId, now: float) -> None:
        for report in list(self._fusion.reports_of(node)):
            self._dirty[report.key] = None
            self._reassess(report, now)

    def _reassess(self, report: Report, now: float) -> None:
        """Whether it could be chosen may have changed: the outliers count their share of those that could."""
        model = report.state.model
        if bool(why_out(self._record_of(report), report, now)) != self._in_pool(report):
            return
        if self._in_pool(report):
            self._leave_pool(report.key, model, now)
        else:
            pool = self._pools.setdefault(model, set())
            pool.add(report.key)
            self._obey_outliers(self._outliers.on_pool(model, pool, now), now)

    def _leave_pool(self, key: TargetKey, model: ModelName, now: float) -> None:
        pool = self._pools.get(model, set())
        if key not in pool:
            return
        pool.remove(key)
        self._obey_outliers(self._outliers.on_pool(model, pool, now), now)
        if not pool:
            del self._pools[model]

    def _in_pool(self, report: Report) -> bool:
        return report.key in self._pools.get(report.state.model, ())

    def _renew_node(self, node: NodeId) -> None:
        self._nodes_dirty = True
        for report in self._fusion.reports_of(node):
            self._dirty[report.key] = None

    def _note(self, event: KernelEvent) -> None:
        if len(self._events) == self._config.events_max:
            self.events_dropped += 1
        self._events.append(event)

    # Inside: the view.

    def _build(self, now: float, *, show_gpus: bool) -> RoutingView:
        old = self._view
        targets, eligible = old.targets, old.eligible
        if self._dirty:
            targets = dict(targets)
            eligible = dict(eligible)
            for model in self._renew_targets(targets, now):
                keys = self._keys.get(model)
                if keys is None:
                    eligible.pop(model, None)
                else:
                    found = [targets[key] for key in keys]
                    eligible[model] = tuple([target for target in found if not target.unavailable])
            self._dirty.clear()
        nodes = self._members.all() if self._nodes_dirty else old.nodes
        self._nodes_dirty = False
        gpus = old.gpus
        if show_gpus:
            gpus = tuple(gpu for gpu in self._fusion.gpus() if not why_node_out(self._members.get(gpu.node)))
            self._gpus_shown_at, self._gpus_dirty = now, False
        return RoutingView(
            version=old.version + 1, built_at=now, nodes=nodes, eligible=eligible, targets=targets, gpus=gpus
        )

    def _renew_targets(self, targets: dict[TargetKey, Target], now: float) -> dict[ModelName, None]:
        """Bring the dirty ones up to date, and return their models."""
        models: dict[ModelName, None] = {}
        for key in self._dirty:
            report = self._fusion.report(key)
            if report is None:
                gone = targets.pop(key, None)
                if gone is not None:
                    models[gone.model] = None
                continue
            until = self._outliers.ejected_until(key)
            targets[key] = target_of(self._record_of(report), report, now, ejected_until=until)
            models[report.state.model] = None
        return models

    def _record_of(self, report: Report) -> NodeRecord:
        record = self._members.get(report.state.node)
        assert record is not None, "states of unknown nodes are not taken in"
        return record
