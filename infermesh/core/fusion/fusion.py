"""Keeps the newest state of every model and GPU, drops what is old or twice told, and knows how old each is.

Pure. It does not know nodes' liveness, failures or routing; `core.kernel` puts those together.

**Newest** is by (incarnation, sequence): a higher engine incarnation wins, and inside one incarnation the higher
sequence. Everything else is dropped and counted by its reason in `drops`.

**A reporting meshd that restarts** begins its sequence anew, and its idea of incarnations may move too (its clock
was stepped). It is recognised in two ways, so that a node can never talk to a deaf ear for long:
- `on_stream_start(node)`: a state stream is ordered, so whatever comes first on a new one supersedes all that the
  old one brought. The floor is open for the next report of each of the node's models and GPUs. A report equal in
  incarnation and sequence to the one held is the same sample again (same run, new connection), and stays dropped:
  a reconnect must not make an old sample look young.
- an older (incarnation, sequence) that was *sampled later* (`source_time`) than the one held: in one run both
  grow together, so this is another run. Reordered deltas of one run are older in both and stay out.

**Age** counts from the moment of receipt, on this node's clock: clocks of two machines are never compared. A
state goes from fresh to stale when nothing was heard of it for `stale_after_s`, and is forgotten after
`forget_after_s`; `on_node_gone` makes the node's states stale at once. The table `_NEXT` is the whole life.

Memory is bounded: `models_per_node_max`, `gpus_per_node_max`, and as many nodes as the caller knows. Duties of the
caller: pass states of known nodes only, from the stream of that very node; `on_wake` once `wake_at` has passed.
A sampler that reports at least every `stale_after_s / 2` keeps a healthy state fresh.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from infermesh.core.fusion.validity import gpu_state_fault, model_state_fault
from infermesh.core.model.names import ModelName, NodeId, TargetKey, target_key
from infermesh.core.model.state import GpuState, ModelState


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """`stale_after_s` takes a target out of choice, `forget_after_s` out of every list; the second is longer."""

    stale_after_s: float = 2.0
    forget_after_s: float = 300.0
    models_per_node_max: int = 1024  # Counting each runtime of a node on its own.
    gpus_per_node_max: int = 256

    def validate(self) -> None:
        """Raise ValueError that names the setting, its value, and what is allowed."""
        if not 0.0 < self.stale_after_s < float("inf"):
            raise ValueError(f"routing.stale_after_s is {self.stale_after_s}: it must be a finite number above 0")
        if not self.stale_after_s < self.forget_after_s < float("inf"):
            raise ValueError(
                f"routing.forget_after_s is {self.forget_after_s}: it must be a finite number above "
                f"routing.stale_after_s ({self.stale_after_s})"
            )
        for name, count in (
            ("models_per_node_max", self.models_per_node_max),
            ("gpus_per_node_max", self.gpus_per_node_max),
        ):
            if count < 1:
                raise ValueError(f"fusion.{name} is {count}: it must be 1 or more")


class Drop(enum.StrEnum):
    """Why a report was not taken over."""

    DUPLICATE = "duplicate"
    OLD_SEQUENCE = "old_sequence"
    OLD_INCARNATION = "old_incarnation"
    TABLE_FULL = "table_full"
    INVALID = "invalid"


class Freshness(enum.Enum):
    FRESH = "fresh"
    STALE = "stale"
    FORGOTTEN = "forgotten"


class _Event(enum.Enum):
    REPORTED = "reported"
    SILENT = "silent"
    SILENT_LONG = "silent long"
    NODE_GONE = "node gone"


_NEXT = {
    (Freshness.FRESH, _Event.REPORTED): Freshness.FRESH,
    (Freshness.FRESH, _Event.SILENT): Freshness.STALE,
    (Freshness.FRESH, _Event.NODE_GONE): Freshness.STALE,
    (Freshness.STALE, _Event.REPORTED): Freshness.FRESH,
    (Freshness.STALE, _Event.NODE_GONE): Freshness.STALE,
    (Freshness.STALE, _Event.SILENT_LONG): Freshness.FORGOTTEN,
}


class Stale(msgspec.Struct, frozen=True):
    key: TargetKey
    age_s: float


class Forgotten(msgspec.Struct, frozen=True):
    key: TargetKey
    node: NodeId
    model: ModelName


FusionEffect = Stale | Forgotten


class Report:
    """The newest state of one target. Read it; only `Fusion` writes it."""

    __slots__ = ("due", "floor_open", "freshness", "key", "received_at", "state")

    def __init__(self, key: TargetKey, state: ModelState, received_at: float) -> None:
        self.due = received_at  # The time of its one valid entry among the due ones.
        self.key = key
        self.state = state
        self.received_at = received_at
        self.freshness = Freshness.FRESH
        self.floor_open = False

    @property
    def fresh(self) -> bool:
        return self.freshness is Freshness.FRESH


class _GpuReport:
    __slots__ = ("floor_open", "received_at", "state")

    def __init__(self, state: GpuState, received_at: float) -> None:
        self.state = state
        self.received_at = received_at
        self.floor_open = False


class Fusion:
    def __init__(self, config: FusionConfig) -> None:
        config.validate()
        self._config = config
        self._reports: dict[TargetKey, Report] = {}
        self._by_node: dict[NodeId, dict[TargetKey, Report]] = {}
        self._gpus: dict[NodeId, dict[str, _GpuReport]] = {}
        # One valid entry for each target, at the time when it *may* be due: a report in between does not move
        # it, the entry does so itself when its time comes. So a delta costs no heap operation.
        self._due: list[tuple[float, TargetKey]] = []
        self._gpus_due = math.inf
        self.drops: Counter[Drop] = Counter()
        self.last_fault = ""  # Of the last INVALID report, for a log line.

    # What the world tells.

    def on_model_state(self, state: ModelState, now: float) -> bool:
        """Whether it was taken over as the newest."""
        key = target_key(state.node, state.model, state.replica)
        report = self._reports.get(key)
        if report is None:
            return self._first_report(key, state, now)
        fault = model_state_fault(state)
        if fault:
            return self._drop(Drop.INVALID, fault)
        drop = _why_drop(report, state)
        if drop is not None:
            return self._drop(drop)
        report.state = state
        report.received_at = now
        report.floor_open = False
        if report.freshness is not Freshness.FRESH:
            report.freshness = _NEXT[report.freshness, _Event.REPORTED]
            # Its entry waits for the time of forgetting; becoming stale comes before.
            self._enter(report, now + self._config.stale_after_s)
        return True

    def on_gpu_state(self, state: GpuState, now: float) -> bool:
        """Whether it was taken over as the newest. GPUs are forgotten, and never stale: their age shows."""
        gpus = self._gpus.setdefault(state.node, {})
        report = gpus.get(state.gpu_uuid)
        fault = gpu_state_fault(state)
        if fault:
            return self._drop(Drop.INVALID, fault)
        if report is None:
            if len(gpus) >= self._config.gpus_per_node_max:
                return self._drop(Drop.TABLE_FULL)
            gpus[state.gpu_uuid] = _GpuReport(state, now)
            self._gpus_due = min(self._gpus_due, now + self._config.forget_after_s)
            return True
        held = report.state
        if state.sequence == held.sequence:
            return self._drop(Drop.DUPLICATE)
        if state.sequence < held.sequence and not report.floor_open and state.source_time <= held.source_time:
            return self._drop(Drop.OLD_SEQUENCE)
        report.state = state
        report.received_at = now
        report.floor_open = False
        return True

    def on_stream_start(self, node: NodeId, now: float) -> None:
        """A new state stream of that node begins; see the module for what that means."""
        for report in self._by_node.get(node, {}).values():
            report.floor_open = True
        for gpu in self._gpus.get(node, {}).values():
            gpu.floor_open = True

    def on_node_gone(self, node: NodeId, now: float) -> list[FusionEffect]:
        """The node is dead: nothing it said holds any more, whatever its age. Its next stream may start anew."""
        self.on_stream_start(node, now)
        effects: list[FusionEffect] = []
        for report in self._by_node.get(node, {}).values():
            if report.fresh:
                effects.append(Stale(report.key, now - report.received_at))
            report.freshness = _NEXT[report.freshness, _Event.NODE_GONE]
        return effects

    def forget_node(self, node: NodeId) -> list[FusionEffect]:
        """The node left the mesh: nothing of it is kept."""
        self._gpus.pop(node, None)
        return [self._forget(report) for report in list(self._by_node.get(node, {}).values())]

    @property
    def wake_at(self) -> float:
        """May be early: then `on_wake` finds nothing to tell, and asks for a later one."""
        return min(self._due[0][0], self._gpus_due) if self._due else self._gpus_due

    def on_wake(self, now: float) -> list[FusionEffect]:
        effects: list[FusionEffect] = []
        while self._due and self._due[0][0] <= now:
            due, key = heapq.heappop(self._due)
            report = self._reports.get(key)
            # An entry of another time is left over: its target was forgotten, or became fresh again.
            if report is not None and report.due == due:
                effects += self._age(report, now)
        if self._gpus_due <= now:
            self._age_gpus(now)
        return effects

    # What the world may ask.

    def report(self, key: TargetKey) -> Report | None:
        return self._reports.get(key)

    def reports_of(self, node: NodeId) -> Iterator[Report]:
        return iter(self._by_node.get(node, {}).values())

    def gpus(self) -> tuple[GpuState, ...]:
        """All GPUs heard of and not forgotten, by node and uuid."""
        return tuple(self._gpus[node][uuid].state for node in sorted(self._gpus) for uuid in sorted(self._gpus[node]))

    @property
    def gpu_count(self) -> int:
        return sum(map(len, self._gpus.values()))

    def __len__(self) -> int:
        return len(self._reports)

    # Inside.

    def _first_report(self, key: TargetKey, state: ModelState, now: float) -> bool:
        fault = model_state_fault(state)
        if fault:
            return self._drop(Drop.INVALID, fault)
        siblings = self._by_node.setdefault(state.node, {})
        if len(siblings) >= self._config.models_per_node_max:
            return self._drop(Drop.TABLE_FULL)
        report = self._reports[key] = siblings[key] = Report(key, state, now)
        self._enter(report, now + self._config.stale_after_s)
        return True

    def _age(self, report: Report, now: float) -> list[FusionEffect]:
        """The entry of this report has come due: tell what it became, and enter its next time."""
        stale_at = report.received_at + self._config.stale_after_s
        forget_at = report.received_at + self._config.forget_after_s
        if now >= forget_at:
            if report.fresh:  # Nobody woke us in between.
                report.freshness = _NEXT[report.freshness, _Event.SILENT]
            report.freshness = _NEXT[report.freshness, _Event.SILENT_LONG]
            return [self._forget(report)]
        if not report.fresh:
            self._enter(report, forget_at)
            return []
        if now < stale_at:
            self._enter(report, stale_at)
            return []
        report.freshness = _NEXT[report.freshness, _Event.SILENT]
        self._enter(report, forget_at)
        return [Stale(report.key, now - report.received_at)]

    def _enter(self, report: Report, due: float) -> None:
        report.due = due
        heapq.heappush(self._due, (due, report.key))
        if len(self._due) > 4 * len(self._reports) + 64:  # Left-over entries of flapping targets.
            self._due = [(each.due, key) for key, each in self._reports.items()]
            heapq.heapify(self._due)

    def _forget(self, report: Report) -> Forgotten:
        state = report.state
        del self._reports[report.key]
        siblings = self._by_node[state.node]
        del siblings[report.key]
        if not siblings:
            del self._by_node[state.node]
        return Forgotten(report.key, state.node, state.model)

    def _age_gpus(self, now: float) -> None:
        self._gpus_due = math.inf
        for node in list(self._gpus):
            gpus = self._gpus[node]
            for uuid in list(gpus):
                forget_at = gpus[uuid].received_at + self._config.forget_after_s
                if forget_at <= now:
                    del gpus[uuid]
                else:
                    self._gpus_due = min(self._gpus_due, forget_at)
            if not gpus:
                del self._gpus[node]

    def _drop(self, reason: Drop, fault: str = "") -> bool:
        self.drops[reason] += 1
        if fault:
            self.last_fault = fault
        return False


def _why_drop(report: Report, state: ModelState) -> Drop | None:
    held = report.state
    if state.incarnation == held.incarnation:
        if state.sequence > held.sequence:
            return None
        if state.sequence == held.sequence:
            return Drop.DUPLICATE
        older = Drop.OLD_SEQUENCE
    elif state.incarnation > held.incarnation:
        return None
    else:
        older = Drop.OLD_INCARNATION
    return None if report.floor_open or state.source_time > held.source_time else older
