"""A fleet on virtual time: routers that run the real `Router`, nodes that run the real `Engine`, one heap.

One seed gives one byte-identical report, on any machine. What is modelled: half a round trip each way, states
sampled in turn and late, load hints on answers, slow windows, crashes and restarts, clients that go away.
What is not: admission, retries and hedges (other cores), bytes on the wire, and the router's own CPU.

`simulate` raises `ConservationError` instead of reporting figures that do not add up.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from infermesh.core.model.names import NodeId, TargetKey, target_key
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.state import LoadHint, ModelState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.core.routing.load import Lease
from infermesh.core.routing.router import Router
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.sim.checks import check_run
from infermesh.sim.ledger import Ledger, Passage, Status
from infermesh.sim.node import NodeSpec, SimNode
from infermesh.sim.workload import MODEL, SimRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowWindow:
    """From `begin_s` to `end_s` every step of a node takes `factor` times as long."""

    node: str
    begin_s: float
    end_s: float
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """At `at_s` a node loses all it had; it is back, empty, after `down_s`."""

    node: str
    at_s: float
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """`state_delay_s` comes on top of half the round trip; a crash is noticed after `notice_s`."""

    nodes: tuple[NodeSpec, ...]
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    routers: int = 1
    seed: int = 0
    state_every_s: float = 0.5
    state_delay_s: float = 0.02
    hints: bool = True
    patience_s: float = math.inf  # A client without a first byte leaves after this.
    inflight_max: int = 0  # Per router; one more is rejected. 0: no bound.
    notice_s: float = 1.5
    faults: tuple[SlowWindow | Crash, ...] = ()

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("a fleet needs at least one node")
        if len({node.name for node in self.nodes}) != len(self.nodes):
            raise ValueError("two nodes of the fleet have one name")
        if self.routers < 1:
            raise ValueError(f"routers is {self.routers}; a fleet needs at least one")
        known = {node.name for node in self.nodes}
        for fault in self.faults:
            if fault.node not in known:
                raise ValueError(f"a fault names node {fault.node!r}; the fleet has {sorted(known)}")


def simulate(config: FleetConfig, workload: Sequence[SimRequest]) -> Ledger:
    """Run the whole workload, then let the fleet drain; what happened, checked."""
    fleet = _Fleet(config)
    fleet.run(workload)
    ledger = fleet.ledger
    check_run(ledger, fleet.nodes, fleet.leftovers())
    return ledger


class _Face:
    """One router and the view it was last given."""

    def __init__(self, index: int, config: FleetConfig) -> None:
        self.index = index
        # Derived from the seed alone, and different for each router.
        self.router = Router(config.routing, random.Random(config.seed * 1_000_003 + index))
        self.targets: dict[TargetKey, Target] = {}
        self.version = 0


class _Fleet:
    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self.nodes = {NodeId(spec.name): SimNode(spec) for spec in config.nodes}
        self.ledger = Ledger(config.nodes)
        self._faces = [_Face(index, config) for index in range(config.routers)]
        self._rng = random.Random(config.seed)
        self._heap: list[tuple[float, int, tuple[object, ...]]] = []
        self._order = itertools.count()
        self._leases: dict[int, tuple[_Face, Lease]] = {}
        self._begun: dict[NodeId, dict[int, Passage]] = {name: {} for name in self.nodes}
        self._due: dict[NodeId, float] = dict.fromkeys(self.nodes, math.inf)
        self._to_come = 0
        self._now = 0.0

    # -- the heap -----------------------------------------------------------------------------------------

    def run(self, workload: Sequence[SimRequest]) -> None:
        self._to_come = len(workload)
        for request in workload:
            self._at(request.arrival_s, self._arrive, request)
        for index, node in enumerate(self.nodes.values()):
            self._introduce(node)
            # Nodes sample in turn, not all at once.
            first_s = self.config.state_every_s * (index + 1) / len(self.nodes)
            self._at(first_s, self._sample, node)
        for fault in self.config.faults:
            match fault:
                case SlowWindow():
                    self._at(fault.begin_s, self._slow, fault.node, fault.factor)
                    self._at(fault.end_s, self._slow, fault.node, 1.0)
                case Crash():
                    self._at(fault.at_s, self._crash, fault)
                case unknown:
                    assert_never(unknown)
        while self._heap:
            at, _, (action, *arguments) = heapq.heappop(self._heap)
            assert at >= self._now
            self._now = at
            assert callable(action)
            action(*arguments)
        self.ledger.close(self._now)
        for name, node in self.nodes.items():
            self.ledger.busy_s[name] = node.busy_s
            self.ledger.preemptions += node.engine.counters.preemptions

    def _at(self, at: float, action: object, *arguments: object) -> None:
        heapq.heappush(self._heap, (at, next(self._order), (action, *arguments)))

    def _busy(self) -> bool:
        return bool(self._to_come or self._leases)

    # -- requests -----------------------------------------------------------------------------------------

    def _arrive(self, request: SimRequest) -> None:
        self._to_come -= 1
        now, ledger = self._now, self.ledger
        face = self._faces[self._rng.randrange(len(self._faces))]
        passage = ledger.arrive(request, face.index, now)
        limit = self.config.inflight_max
        if limit and sum(1 for other, _ in self._leases.values() if other is face) >= limit:
            ledger.end(passage, Status.REJECTED, now)
            return
        plan = face.router.plan(request.facts, now)
        if not plan.candidates:
            ledger.end(passage, Status.REJECTED, now)
            return
        candidate = plan.candidates[0]
        node = self.nodes[candidate.target.node]
        if not node.engine.fits(request.prompt_tokens, request.output_tokens):
            ledger.end(passage, Status.REJECTED, now)  # The runtime's answer to it is a 400.
            return
        lease = face.router.dispatched(candidate, request.facts, now)
        self._leases[request.number] = (face, lease)
        ledger.dispatch(passage, node.name, lease.prediction)
        self._at(now + node.spec.rtt_s / 2, self._reach_node, node, node.incarnation, passage)
        if self.config.patience_s < math.inf:
            self._at(now + self.config.patience_s, self._lose_patience, node, passage)

    def _reach_node(self, node: SimNode, incarnation: int, passage: Passage) -> None:
        if passage.status is not Status.OPEN:
            return
        if not node.up or node.incarnation != incarnation:
            self._at(self._now + node.spec.rtt_s / 2, self._fail, passage, Verdict.CONNECT_FAILED)
            return
        self._begun[node.name][passage.request.number] = passage
        node.submit(passage.request, self._now)
        self._await_step(node)

    def _end_step(self, node: SimNode) -> None:
        now = self._now
        if now != self._due[node.name] or now != node.ends_at:
            return  # The run was cut, and another end is on the heap.
        self._due[node.name] = math.inf
        ended = node.end_step(now)
        back_at = now + node.spec.rtt_s / 2
        begun = self._begun[node.name]
        hint = node.hint() if self.config.hints else None
        for number, cached_tokens in ended.first:
            # None: aborted during its last step, which it ended all the same.
            if (passage := begun.get(number)) is not None:
                passage.cached_tokens = cached_tokens
                self._at(back_at, self._first_byte, passage, hint)
        for number in ended.finished:
            if (passage := begun.pop(number, None)) is not None:
                self._at(back_at, self._finish, passage)
        self._await_step(node)

    def _first_byte(self, passage: Passage, hint: LoadHint | None) -> None:
        if passage.status is Status.OPEN:
            face, lease = self._leases[passage.request.number]
            face.router.first_byte(lease, self._now, hint)
            passage.first_byte_s = self._now

    def _finish(self, passage: Passage) -> None:
        if passage.status is Status.OPEN:
            request = passage.request
            self._release(passage, Verdict.OK, request.output_tokens, request.prompt_tokens)
            self.ledger.end(passage, Status.COMPLETED, self._now)

    def _fail(self, passage: Passage, verdict: Verdict) -> None:
        if passage.status is Status.OPEN:
            self._release(passage, verdict)
            self.ledger.end(passage, Status.FAILED, self._now)

    def _lose_patience(self, node: SimNode, passage: Passage) -> None:
        if passage.status is Status.OPEN and not passage.first_byte_s:
            self._release(passage, Verdict.CANCELLED)
            self.ledger.end(passage, Status.CANCELLED, self._now)
            self._at(self._now + node.spec.rtt_s / 2, self._abort, node, passage)

    def _abort(self, node: SimNode, passage: Passage) -> None:
        if self._begun[node.name].pop(passage.request.number, None) is not None:
            node.abort(passage.request.number, self._now)
            self._await_step(node)

    def _release(self, passage: Passage, verdict: Verdict, output_tokens: int = 0, prompt_tokens: int = 0) -> None:
        face, lease = self._leases.pop(passage.request.number)
        face.router.finished(lease, self._now, verdict, output_tokens, prompt_tokens)

    def _await_step(self, node: SimNode) -> None:
        if node.ends_at != self._due[node.name]:
            self._due[node.name] = node.ends_at
            if node.ends_at < math.inf:
                self._at(node.ends_at, self._end_step, node)

    # -- signals ------------------------------------------------------------------------------------------

    def _introduce(self, node: SimNode) -> None:
        """Every router knows the fleet when it begins, as from its config and a first state."""
        state = node.sample(self._now)
        for face in self._faces:
            self._take_state(face, node, state)

    def _sample(self, node: SimNode) -> None:
        if node.up:
            state = node.sample(self._now)
            self._await_step(node)
            for face in self._faces:
                late_s = self.config.state_delay_s + node.spec.rtt_s / 2
                self._at(self._now + late_s, self._take_state, face, node, state)
        if self._busy():
            self._at(self._now + self.config.state_every_s, self._sample, node)

    def _take_state(self, face: _Face, node: SimNode, state: ModelState) -> None:
        key = target_key(node.name, MODEL)
        face.targets[key] = Target(
            key=key,
            node=node.name,
            model=MODEL,
            state=state,
            received_at=self._now,
            rtt_s=node.spec.rtt_s,
        )
        self._show(face)

    def _show(self, face: _Face) -> None:
        face.version += 1
        targets = dict(face.targets)
        eligible = tuple(target for _, target in sorted(targets.items()) if not target.unavailable)
        view = RoutingView(
            version=face.version, built_at=self._now, nodes={}, eligible={MODEL: eligible}, targets=targets
        )
        face.router.install(view, self._now)

    # -- faults -------------------------------------------------------------------------------------------

    def _slow(self, name: NodeId, factor: float) -> None:
        self.nodes[name].slowdown = factor  # The step under way keeps its length.

    def _crash(self, fault: Crash) -> None:
        name = NodeId(fault.node)
        node = self.nodes[name]
        node.crash()
        self._due[name] = math.inf
        for passage in self._begun[name].values():
            self._at(self._now + node.spec.rtt_s / 2, self._fail, passage, Verdict.BROKEN)
        self._begun[name].clear()
        self._at(self._now + self.config.notice_s, self._notice, node, node.incarnation)
        self._at(self._now + fault.down_s, self._restart, node)

    def _notice(self, node: SimNode, incarnation: int) -> None:
        if node.up and node.incarnation != incarnation:
            return  # Back before anybody noticed.
        key = target_key(node.name, MODEL)
        for face in self._faces:
            target = face.targets[key]
            face.targets[key] = Target(
                key=key,
                node=target.node,
                model=target.model,
                state=target.state,
                received_at=target.received_at,
                rtt_s=target.rtt_s,
                unavailable="node dead",
            )
            self._show(face)

    def _restart(self, node: SimNode) -> None:
        node.restart(self._now)

    def leftovers(self) -> int:
        """Attempts that some router still counts after the drain."""
        return len(self._leases) + sum(
            face.router.inflight(target_key(name, MODEL)) for face in self._faces for name in self.nodes
        )
