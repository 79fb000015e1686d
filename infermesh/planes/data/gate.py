"""Drive `routing.admission`: a request arrives, is let in now, later or not at all, and leaves again.

The core decides; this file keeps who waits under which ticket, calls them when the core says so, and gives the
core its time. Plain calls only: a request that waits needs no task for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Protocol

from infermesh.core.model.names import ModelName
from infermesh.core.routing.admission import Admission
from infermesh.core.routing.arrival import Arrival
from infermesh.core.routing.effects import AdmissionEffect, Admit, Refuse
from infermesh.net.timers import Entry, Timers


class Waiting(Protocol):
    """A request that waits at the gate."""

    def on_admission(self, effect: Admit | Refuse) -> None: ...
    def give_up(self) -> None:
        """`on_admission` raised: a defect. End the request; may raise once more."""


class Gate:
    def __init__(self, admission: Admission, timers: Timers) -> None:
        self._admission = admission
        self._timers = timers
        self._waiting: dict[int, Waiting] = {}
        self._tickets = itertools.count(1)
        self.deadline = math.inf
        self.timer: Entry | None = None

    def ticket(self) -> int:
        return next(self._tickets)

    def arrive(self, arrival: Arrival, request: Waiting) -> Admit | Refuse | None:
        """The answer at once, or None: then `request` is told later, unless it calls `go` first.

        An `Admit`, now or later, must be followed by `leave`.
        """
        effect = self._admission.on_arrival(arrival, self._timers.now())
        if effect is not None and effect.ticket == arrival.ticket:
            return effect
        self._waiting[arrival.ticket] = request
        # Without an effect nothing but time has changed; with one, another's place was taken.
        self._obey(() if effect is None else (effect,))
        return None

    def leave(self, ticket: int) -> None:
        """An admitted request has ended, in whatever way."""
        self._obey(self._admission.on_departure(ticket, self._timers.now()))

    def go(self, ticket: int) -> None:
        """A waiting client went away."""
        self._waiting.pop(ticket, None)
        self._obey(self._admission.on_gone(ticket, self._timers.now()))

    def set_capacity(self, model: ModelName, slots: int) -> None:
        self._obey(self._admission.set_capacity(model, slots, self._timers.now()))

    def forget(self, model: ModelName) -> None:
        """The model left the fleet."""
        self._obey(self._admission.forget(model, self._timers.now()))

    def queue_len(self, model: ModelName) -> int:
        return self._admission.queue_len(model)

    def inflight(self, model: ModelName) -> int:
        """Slots in use."""
        return self._admission.inflight(model)

    def on_deadline(self, now: float) -> None:
        self._obey(self._admission.on_wake(now))

    def _obey(self, effects: Iterable[AdmissionEffect]) -> None:
        for effect in effects:
            request = self._waiting.pop(effect.ticket, None)
            if request is not None:
                self._tell(request, effect)
        wake_at = self._admission.wake_at
        if wake_at != self.deadline:
            self._timers.arm(self, wake_at)

    def _tell(self, request: Waiting, effect: AdmissionEffect) -> None:
        """A defect in one request must reach neither the next in line nor whoever made room for it."""
        try:
            request.on_admission(effect)
        except Exception as error:  # noqa: BLE001 - one request's defect; see above.
            self._timers.report(error)
            try:
                request.give_up()
            except Exception as further:  # noqa: BLE001 - the same defect, most likely, met once more.
                self._timers.report(further)
