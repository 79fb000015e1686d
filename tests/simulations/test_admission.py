"""Admission in seeded worlds, with a checker that keeps its own book; and the checker against planted bugs.

Each world has its own slots (which change, down to none), sizes of requests, tenants, deadlines, clients that
leave while they wait or run, and drivers that report an end twice or wake the core late.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import Priority
from infermesh.core.routing.admission import Admission, AdmissionConfig, Arrival, _Lane
from infermesh.core.routing.arrival import Waiter
from infermesh.core.routing.effects import AdmissionEffect, Admit, RefusalReason, Refuse
from infermesh.core.routing.queue import WaitingLine

MODEL = ModelName("m")
CONFIG = AdmissionConfig(queue_len_max=24, queue_wait_max_s=12.0, aging_after_s=2.0, aging_every=4)
SEEDS = range(40)
EVENTS = 250

Make = Callable[[AdmissionConfig, random.Random], Admission]


@dataclass
class _Book:
    """What an outsider knows: every rule of the module docstring, checked from effects alone."""

    config: AdmissionConfig
    limit: int = 0
    waiting: dict[int, tuple[Arrival, float]] = field(default_factory=dict)  # In order of arrival.
    running: dict[int, Arrival] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    arriving: Arrival | None = None
    nominal: int = 1  # Slots of this world, while all is well.
    sizes_s: float = 1.0  # Mean service time.
    late_s: float = 0.0  # How late this world's driver calls `on_wake`.
    since_guard: int = 0  # Admissions out of turn need so many in turn between them.
    passed_over: dict[int, int] = field(default_factory=dict)  # Of the oldest, while overdue.

    def obey(self, effects: list[AdmissionEffect], now: float) -> None:
        for effect in effects:
            assert effect.ticket not in self.settled, "a ticket was settled twice, or after it had left"
            self.settled.add(effect.ticket)
            match effect:
                case Admit(ticket):
                    self._admitted(ticket, now)
                case Refuse(ticket, reason, retry_after_s):
                    self._refused(ticket, reason, retry_after_s, now)

    def _admitted(self, ticket: int, now: float) -> None:
        assert len(self.running) < self.limit, "more were admitted than there are slots"
        if self.arriving is not None and self.arriving.ticket == ticket:
            assert not self.waiting, "a newcomer overtook the queue"
            self.running[ticket] = self.arriving
            return
        arrival, arrived_at = self.waiting[ticket]
        self._check_turn(arrival, arrived_at, now)
        del self.waiting[ticket]
        self.running[ticket] = arrival
        assert now + arrival.predicted_ttft_ms / 1000.0 <= arrival.deadline + 1e-9, "admitted too late"
        assert now - arrived_at <= self.config.queue_wait_max_s + 1e-9, "waited longer than allowed"

    def _check_turn(self, arrival: Arrival, arrived_at: float, now: float) -> None:
        self.since_guard += 1
        oldest, (_, oldest_at) = next(iter(self.waiting.items()))
        overdue = now - oldest_at >= self.config.aging_after_s
        if any(other.priority < arrival.priority for other, _ in self.waiting.values()):
            assert arrival.ticket == oldest and overdue, "a lower class went before a higher one"
            assert self.since_guard >= self.config.aging_every, "the guard spoke too often"
            self.since_guard = 0
        if overdue and arrival.ticket != oldest:
            self.passed_over[oldest] = self.passed_over.get(oldest, 0) + 1
            assert self.passed_over[oldest] < self.config.aging_every, "the oldest was starved"
        # A newcomer of the same tenant and class may pass only with an earlier start.
        for other, since in self.waiting.values():
            if (other.tenant, other.priority) != (arrival.tenant, arrival.priority):
                continue
            if other.ticket == arrival.ticket or (arrival.ticket == oldest and overdue):
                continue
            assert _start_by(arrival, arrived_at) <= _start_by(other, since) + 1e-9, "not the earliest start first"

    def _refused(self, ticket: int, reason: str, retry_after_s: float, now: float) -> None:
        assert self.config.retry_after_min_s <= retry_after_s <= self.config.retry_after_max_s
        assert (reason == RefusalReason.NO_CAPACITY) <= (self.limit == 0), "slots, yet no capacity"
        if self.arriving is not None and self.arriving.ticket == ticket:
            assert reason in ("deadline", "queue_full", "no_capacity")
            return
        arrival, arrived_at = self.waiting.pop(ticket)
        if self.arriving is not None:
            assert reason == RefusalReason.SHED, "an arrival may only shed"
            lower = arrival.priority > self.arriving.priority
            smaller = arrival.priority == self.arriving.priority and arrival.tenant != self.arriving.tenant
            assert lower or smaller, "shed for one that is not more urgent"
            lowest = max(other.priority for other, _ in [*self.waiting.values(), (arrival, now)])
            assert arrival.priority == lowest, "not the lowest class was shed"
        elif reason == RefusalReason.EXPIRED:
            assert now >= _start_by(arrival, arrived_at) - 1e-9, "expired before its time"

    def compare(self, core: Admission, now: float) -> None:
        assert core.queue_len(MODEL) == len(self.waiting), "waiters lost or invented"
        assert core.inflight(MODEL) == len(self.running), "slots leaked"
        assert len(self.waiting) <= self.config.queue_len_max, "the queue outgrew its limit"
        assert not self.waiting or len(self.running) >= self.limit, "a slot idles while someone waits"
        assert core.wake_at > now - self.late_s - 1e-9 or not self.waiting, "time passed and nobody woke the core"
        for arrival, arrived_at in self.waiting.values():
            assert core.wake_at <= _start_by(arrival, arrived_at) + 1e-6, "an expiry would be missed"


def _start_by(arrival: Arrival, arrived_at: float) -> float:
    slack_s = arrival.deadline - arrived_at - arrival.predicted_ttft_ms / 1000.0
    return arrived_at + min(slack_s, CONFIG.queue_wait_max_s)


def simulate(seed: int, make: Make) -> None:
    world = random.Random(seed)
    core = make(CONFIG, random.Random(seed + 1))
    nominal = world.randint(1, 8)
    book = _Book(CONFIG, late_s=world.choice([0.0, 0.2]))
    ends: list[tuple[float, int]] = []
    load, sizes_s = world.choice([0.7, 1.2, 3.0]), world.choice([0.2, 1.0, 4.0])
    book.nominal, book.sizes_s = nominal, sizes_s
    now, ticket, next_at = 0.0, 0, 0.0
    book.limit = nominal
    book.obey(core.set_capacity(MODEL, nominal, now), now)
    while ticket < EVENTS or ends or book.waiting:
        if ticket >= EVENTS:
            next_at = math.inf
        wake_at = core.wake_at + book.late_s
        due = min(next_at, ends[0][0] if ends else math.inf, wake_at)
        assert due < math.inf, "the world stands still and somebody waits"
        now = max(now, due)
        if wake_at <= now:
            book.obey(core.on_wake(now), now)
            assert core.wake_at > now, "a wake that settled nothing"
        elif ends and ends[0][0] <= now:
            _, ended = heapq.heappop(ends)
            book.running.pop(ended, None)
            book.obey(core.on_departure(ended, now), now)
            if world.random() < 0.1:
                book.obey(core.on_departure(ended, now), now)
        else:
            ticket += 1
            next_at = now + world.expovariate(load * nominal / sizes_s)
            _one_event(world, core, book, ticket, now)
        for running in book.running:
            if all(running != number for _, number in ends):
                heapq.heappush(ends, (now + world.expovariate(1.0 / sizes_s), running))
        book.compare(core, now)
    assert core.wake_at == math.inf, "nobody waits, yet a wake is asked for"
    assert core.inflight(MODEL) == 0


def _one_event(world: random.Random, core: Admission, book: _Book, ticket: int, now: float) -> None:
    nominal, sizes_s = book.nominal, book.sizes_s
    chance = world.random()
    if chance < 0.03:
        book.limit = world.choice([0, 1, nominal, nominal, 2 * nominal])
        book.obey(core.set_capacity(MODEL, book.limit, now), now)
    elif chance < 0.10 and (book.waiting or book.running):
        gone = world.choice([*book.waiting, *book.running])
        book.waiting.pop(gone, None)
        book.running.pop(gone, None)
        book.settled.add(gone)
        book.obey(core.on_gone(gone, now), now)
    else:
        arrival = Arrival(
            ticket=ticket,
            model=MODEL,
            priority=world.choice(list(Priority)),
            tenant=world.choice("aab"),
            deadline=now + world.expovariate(0.3) if world.random() < 0.5 else math.inf,
            predicted_ttft_ms=world.choice([0.0, 50.0]),
            work_ms=1000.0 * sizes_s * world.choice([0.5, 1.0, 1.5]),
        )
        book.arriving = arrival
        effect = core.on_arrival(arrival, now)
        if effect is None or effect.ticket != ticket:
            book.waiting[ticket] = (arrival, now)
        book.obey([] if effect is None else [effect], now)
        book.arriving = None


@pytest.mark.slow
def test_in_every_world_each_ticket_is_settled_once_in_order_and_within_capacity() -> None:
    for seed in SEEDS:
        simulate(seed, Admission)


class _NoticesNoDeparture(Admission):
    def on_departure(self, ticket: int, now: float) -> list[AdmissionEffect]:
        super().on_departure(ticket, now)
        return []


class _AdmitsOneTooMany(Admission):
    def set_capacity(self, model: ModelName, slots: int, now: float) -> list[AdmissionEffect]:
        return super().set_capacity(model, slots + (1 if slots else 0), now)


class _LeaksASlotWhenARunnerGoes(Admission):
    def on_gone(self, ticket: int, now: float) -> list[AdmissionEffect]:
        self._leave(ticket)
        return []


class _KeepsTheGone(Admission):
    def _leave(self, ticket: int) -> None:
        pass


class _ForgetsToExpire(Admission):
    def on_wake(self, now: float) -> list[AdmissionEffect]:
        return []


class _ExpiresWithoutAWord(Admission):
    def on_wake(self, now: float) -> list[AdmissionEffect]:
        super().on_wake(now)
        return []


class _ShedsWithoutAWord(Admission):
    def on_arrival(self, arrival: Arrival, now: float) -> AdmissionEffect | None:
        effect = super().on_arrival(arrival, now)
        return effect if effect is None or effect.ticket == arrival.ticket else None


class _SaysItTwice(Admission):
    def on_departure(self, ticket: int, now: float) -> list[AdmissionEffect]:
        effects = super().on_departure(ticket, now)
        return [*effects, *effects[:1]]


class _WastesASlotOnTheLate(Admission):
    """Gives a free slot to a waiter whose time has passed; shows only where the driver wakes it late."""

    _departing = False

    def on_departure(self, ticket: int, now: float) -> list[AdmissionEffect]:
        self._departing = True
        effects = super().on_departure(ticket, now)
        self._departing = False
        return effects

    def _expire(self, lane: _Lane, now: float) -> list[AdmissionEffect]:
        return [] if self._departing else super()._expire(lane, now)


class _IgnoresTheOutage(Admission):
    def set_capacity(self, model: ModelName, slots: int, now: float) -> list[AdmissionEffect]:
        return super().set_capacity(model, max(slots, 1), now)


BUGS: list[type[Admission]] = [
    _NoticesNoDeparture,
    _AdmitsOneTooMany,
    _LeaksASlotWhenARunnerGoes,
    _KeepsTheGone,
    _ForgetsToExpire,
    _ExpiresWithoutAWord,
    _ShedsWithoutAWord,
    _SaysItTwice,
    _WastesASlotOnTheLate,
    _IgnoresTheOutage,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_in_admission_is_caught(bug: type[Admission]) -> None:
    with pytest.raises((AssertionError, KeyError)):
        for seed in SEEDS:
            simulate(seed, bug)


def _next_without_guard(line: WaitingLine, now: float) -> Waiter | None:
    return next((each.first() for each in line._classes if each.tenants), None)


def _next_lowest_first(line: WaitingLine, now: float) -> Waiter | None:
    return next((each.first() for each in reversed(line._classes) if each.tenants), None)


def _next_oldest(line: WaitingLine, now: float) -> Waiter | None:
    return line.oldest()


def _next_latest_deadline(line: WaitingLine, now: float) -> Waiter | None:
    found = next((each.first() for each in line._classes if each.tenants), None)
    if found is None:
        return None
    tenant = line._classes[found.arrival.priority].tenants[found.arrival.tenant]
    return tenant.by_start[-1][2]


def _victim_of_the_highest_class(line: WaitingLine, arrival: Arrival) -> Waiter | None:
    return next((each.first() for each in line._classes if each.tenants), None)


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("_next", _next_without_guard),
        ("_next", _next_lowest_first),
        ("_next", _next_oldest),
        ("_next", _next_latest_deadline),
        ("victim_for", _victim_of_the_highest_class),
    ],
)
def test_a_planted_bug_in_the_line_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, bug: Callable[..., object]
) -> None:
    monkeypatch.setattr(WaitingLine, name, bug)
    with pytest.raises(AssertionError):
        for seed in SEEDS:
            simulate(seed, Admission)
