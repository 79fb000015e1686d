"""Admission: which request may start now, which waits, and which is refused, per model and at once.

Pure. It knows slots and predictions, not targets: which target serves an admitted request is the router's
choice. One object per router process holds all its models.

Every ticket that arrives gets exactly one `Admit` or `Refuse`, unless its client leaves first. Duties of the
caller:
- `set_capacity` whenever the slots of a model change (see `capacity.fleet_slots`), with 0 when no target of a
  known model may be chosen, and `forget` when the model is no longer known. Requests for a model that was never
  announced are refused ("no_capacity") and leave no trace.
- Obey each returned effect by its ticket. `on_arrival` returns None when the newcomer waits and nothing else
  happened. It may also return a `Refuse` of *another* ticket: the newcomer then waits in the place of that one.
- Call `on_departure` once for each admitted ticket, when its request has ended in whatever way; `on_gone` when a
  client leaves. Either is safe in any state of the ticket: a cancelled task need not know whether it was
  admitted a moment ago. Late, repeated and unknown tickets are ignored.
- Call `on_wake` once `wake_at` has passed.

Refusals map to 429, but for "no_capacity": that one is 503. Every refusal carries a Retry-After.

Admitting while there is room costs about a microsecond: nobody waits then, so nothing is ordered or charged.
"""

from __future__ import annotations

import math

from infermesh.core.model.names import ModelName
from infermesh.core.model.ports import Rng
from infermesh.core.routing.admission_config import AdmissionConfig
from infermesh.core.routing.arrival import Arrival, Waiter
from infermesh.core.routing.drain import DrainMeter, ReturnTimes
from infermesh.core.routing.effects import AdmissionEffect, Admit, RefusalReason, Refuse
from infermesh.core.routing.queue import WaitingLine

__all__ = ["Admission", "AdmissionConfig", "Arrival"]


class _Lane:
    """One model: what runs, what waits, and how fast it drains."""

    __slots__ = ("inflight", "limit", "line", "meter", "model", "no_capacity_at", "returns", "work_ms")

    def __init__(self, model: ModelName, config: AdmissionConfig) -> None:
        self.model = model
        self.limit = 0
        self.inflight = 0
        self.work_ms = 0.0  # Of those in flight.
        self.no_capacity_at = math.inf  # When waiting for a target ends; inf while there is one.
        self.line = WaitingLine(aging_after_s=config.aging_after_s, aging_every=config.aging_every)
        self.meter = DrainMeter(config.drain_window)
        self.returns = ReturnTimes(
            min_s=config.retry_after_min_s, max_s=config.retry_after_max_s, jitter=config.retry_after_jitter
        )

    @property
    def wake_at(self) -> float:
        return min(self.line.next_expiry, self.no_capacity_at) if len(self.line) else math.inf

    def take_slot(self, work_ms: float, now: float) -> None:
        self.inflight += 1
        self.work_ms += work_ms
        self.meter.changed_at = now

    def give_slot(self, work_ms: float, held_s: float, now: float) -> None:
        self.inflight -= 1
        self.work_ms = self.work_ms - work_ms if self.inflight else 0.0
        self.meter.on_departure(work_ms, held_s, now)

    def wait_s(self, work_ahead_ms: float, now: float) -> float:
        """Predicted wait behind that much work. Needs a limit above 0.

        The newcomer also waits for one departure of its own, and for those above the limit (left from before
        a node went away) to leave first; each brings the mean work of what runs now.
        """
        mean_ms = self.work_ms / self.inflight if self.inflight else 0.0
        departures = 1 + max(0, self.inflight - self.limit)
        return (work_ahead_ms + departures * mean_ms) / self.meter.work_ms_per_s(self.limit, now)


class Admission:
    def __init__(self, config: AdmissionConfig, rng: Rng) -> None:
        config.validate()
        self._config = config
        self._rng = rng
        self._lanes: dict[ModelName, _Lane] = {}
        self._waiting_lanes: dict[ModelName, _Lane] = {}  # Those with a waiter: few, so `wake_at` is cheap.
        self._running: dict[int, tuple[_Lane, float, float]] = {}  # ticket -> lane, work_ms, started at.
        self._waiting: dict[int, Waiter] = {}
        self._arrivals = 0

    # What the world tells.

    def set_capacity(self, model: ModelName, slots: int, now: float) -> list[AdmissionEffect]:
        """The fleet has that many slots for the model. More slots admit waiters at once, in order."""
        lane = self._lanes.get(model)
        if lane is None:
            if len(self._lanes) >= self._config.models_max:
                return []  # Its requests meet the refusal of an unknown model.
            lane = self._lanes[model] = _Lane(model, self._config)
            lane.no_capacity_at = now + self._config.no_capacity_wait_s
        limit = max(1, int(slots * self._config.overcommit)) if slots > 0 else 0
        if limit == 0 and lane.limit > 0:
            lane.no_capacity_at = now + self._config.no_capacity_wait_s
        elif limit > 0:
            lane.no_capacity_at = math.inf
            if lane.limit > 0 and limit != lane.limit:
                lane.returns.rescale(lane.limit / limit, now)
        lane.limit = limit
        return self._admit_waiters(lane, now)

    def forget(self, model: ModelName, now: float) -> list[AdmissionEffect]:
        """The model left the fleet: its waiters are refused. Those admitted go on, and depart as usual."""
        lane = self._lanes.pop(model, None)
        if lane is None:
            return []
        lane.limit = 0
        lane.no_capacity_at = now
        return self._expire(lane, now)

    def on_arrival(self, arrival: Arrival, now: float) -> AdmissionEffect | None:
        lane = self._lanes.get(arrival.model)
        if lane is None:
            return self._refuse_no_capacity(arrival)
        ticket = arrival.ticket
        assert ticket not in self._running, "a ticket names one request, once"
        assert ticket not in self._waiting, "a ticket names one request, once"
        # While there is room nobody waits: every departure and every new slot admits waiters at once.
        if lane.inflight < lane.limit:
            if now + arrival.predicted_ttft_ms * 0.001 > arrival.deadline:
                return self._refuse_hopeless(lane, arrival)
            work_ms = arrival.bounded_work_ms
            lane.take_slot(work_ms, now)
            self._running[ticket] = (lane, work_ms, now)
            return Admit(ticket)
        return self._queue_or_refuse(lane, arrival, now)

    def on_departure(self, ticket: int, now: float) -> list[AdmissionEffect]:
        """The request ended, in whatever way."""
        running = self._running.pop(ticket, None)
        if running is None:
            self._leave(ticket)
            return []
        lane, work_ms, started_at = running
        lane.give_slot(work_ms, now - started_at, now)
        return self._admit_waiters(lane, now) if len(lane.line) else []

    def on_gone(self, ticket: int, now: float) -> list[AdmissionEffect]:
        """The client went away. A waiter leaves the queue without a word; an admitted one gives its slot back."""
        return self.on_departure(ticket, now)

    @property
    def wake_at(self) -> float:
        if not self._waiting_lanes:
            return math.inf
        return min([lane.wake_at for lane in self._waiting_lanes.values()])

    def on_wake(self, now: float) -> list[AdmissionEffect]:
        effects: list[AdmissionEffect] = []
        for lane in list(self._waiting_lanes.values()):
            if lane.wake_at <= now:
                effects += self._expire(lane, now)
        return effects

    # What the world may ask.

    def queue_len(self, model: ModelName) -> int:
        lane = self._lanes.get(model)
        return len(lane.line) if lane is not None else 0

    def inflight(self, model: ModelName) -> int:
        lane = self._lanes.get(model)
        return lane.inflight if lane is not None else 0

    def completions_per_s(self, model: ModelName, now: float) -> float:
        """The measured drain rate, were all slots taken; 0.0 while unknown or without capacity."""
        lane = self._lanes.get(model)
        return lane.meter.completions_per_s(lane.limit, now) if lane is not None and lane.limit else 0.0

    # Inside.

    def _queue_or_refuse(self, lane: _Lane, arrival: Arrival, now: float) -> AdmissionEffect | None:
        config = self._config
        ttft_s = arrival.predicted_ttft_ms * 0.001
        slack_s = arrival.deadline - now - ttft_s
        if slack_s < 0.0:
            return self._refuse_hopeless(lane, arrival)
        waiter = Waiter(arrival, self._arrivals, now, now + min(slack_s, config.queue_wait_max_s))
        if lane.limit == 0:
            if now >= lane.no_capacity_at:
                return self._refuse_no_capacity(arrival)
        else:
            wait_s = lane.wait_s(lane.line.work_ahead_ms(waiter), now)
            if wait_s > slack_s:
                return self._refuse_busy(lane, arrival, RefusalReason.DEADLINE, wait_s - slack_s, now)
            if wait_s > config.queue_wait_max_s:
                return self._refuse_full(lane, arrival, RefusalReason.QUEUE_FULL, now)
        refused: AdmissionEffect | None = None
        if len(lane.line) >= config.queue_len_max:
            victim = lane.line.victim_for(arrival)
            if victim is None:
                return self._refuse_full(lane, arrival, RefusalReason.QUEUE_FULL, now)
            self._remove(lane, victim)
            refused = self._refuse_full(lane, victim.arrival, RefusalReason.SHED, now)
        self._arrivals += 1
        lane.line.push(waiter)
        self._waiting[arrival.ticket] = waiter
        self._waiting_lanes[lane.model] = lane
        return refused

    def _admit_waiters(self, lane: _Lane, now: float) -> list[AdmissionEffect]:
        effects: list[AdmissionEffect] = []
        # Those whose time has passed go first: a slot given to one of them would be wasted work.
        if lane.wake_at < now:
            effects = self._expire(lane, now)
        while lane.inflight < lane.limit and (waiter := lane.line.pop(now)) is not None:
            ticket = waiter.arrival.ticket
            self._forget_waiter(lane, ticket)
            lane.take_slot(waiter.work_ms, now)
            self._running[ticket] = (lane, waiter.work_ms, now)
            effects.append(Admit(ticket))
        return effects

    def _expire(self, lane: _Lane, now: float) -> list[AdmissionEffect]:
        effects: list[AdmissionEffect] = []
        given_up = now >= lane.no_capacity_at
        while waiter := (lane.line.oldest() if given_up else lane.line.pop_expired(now)):
            if given_up:
                lane.line.remove(waiter)
            self._forget_waiter(lane, waiter.arrival.ticket)
            if lane.limit == 0:
                effects.append(self._refuse_no_capacity(waiter.arrival))
            else:
                effects.append(self._refuse_full(lane, waiter.arrival, RefusalReason.EXPIRED, now))
        return effects

    def _leave(self, ticket: int) -> None:
        waiter = self._waiting.get(ticket)
        if waiter is not None:  # Else it was settled before, or never seen: ignored.
            self._remove(self._waiting_lanes[waiter.arrival.model], waiter)

    def _remove(self, lane: _Lane, waiter: Waiter) -> None:
        lane.line.remove(waiter)
        self._forget_waiter(lane, waiter.arrival.ticket)

    def _forget_waiter(self, lane: _Lane, ticket: int) -> None:
        del self._waiting[ticket]
        if not len(lane.line):
            self._waiting_lanes.pop(lane.model, None)

    def _refuse_full(self, lane: _Lane, arrival: Arrival, reason: RefusalReason, now: float) -> Refuse:
        """Room comes once the waiting work of its class and above has drained."""
        work_ms = lane.line.work_up_to_ms(arrival.priority)
        wait_s = lane.wait_s(work_ms, now) if lane.limit else self._config.no_capacity_retry_after_s
        return self._refuse_busy(lane, arrival, reason, wait_s, now)

    def _refuse_busy(
        self, lane: _Lane, arrival: Arrival, reason: RefusalReason, room_after_s: float, now: float
    ) -> Refuse:
        spacing_s = arrival.bounded_work_ms / lane.meter.work_ms_per_s(max(lane.limit, 1), now)
        retry_after_s = lane.returns.promise_s(room_after_s, spacing_s, now, self._rng.random())
        return Refuse(arrival.ticket, reason, retry_after_s)

    def _refuse_hopeless(self, lane: _Lane, arrival: Arrival) -> Refuse:
        # Too slow even with an empty queue: no shorter wait is known to help, and it takes no place in the line.
        retry_after_s = lane.returns.jittered_s(self._config.retry_after_max_s, self._rng.random())
        return Refuse(arrival.ticket, RefusalReason.DEADLINE, retry_after_s)

    def _refuse_no_capacity(self, arrival: Arrival) -> Refuse:
        config = self._config
        wait_s = config.no_capacity_retry_after_s * (1.0 + config.retry_after_jitter * self._rng.random())
        bounded_s = min(max(wait_s, config.retry_after_min_s), config.retry_after_max_s)
        return Refuse(arrival.ticket, RefusalReason.NO_CAPACITY, bounded_s)
