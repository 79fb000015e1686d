"""Is Retry-After true? Clients that obey it are let in when they come back, and the fleet does not idle meanwhile.

A burst far above what the queue holds meets a fleet that was measured for a while. Each refused client waits
what it was told (rounded up to whole seconds, as the header says it) and comes again.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from functools import partial

import pytest

from infermesh.core.model.names import ModelName
from infermesh.core.routing import drain
from infermesh.core.routing.admission import Admission, AdmissionConfig, Arrival
from infermesh.core.routing.effects import AdmissionEffect, Admit, Refuse

MODEL = ModelName("m")
CONFIG = AdmissionConfig(queue_len_max=40, queue_wait_max_s=20.0)
WARM_UNTIL_S = 60.0


@dataclass
class _World:
    """One fleet, a background load, and one burst at the end of the warm-up."""

    seed: int
    slots: int
    mean_s: float
    pace: float  # Predicted time over real time: 0.5 when everything takes twice as long as predicted.
    background: float  # Share of the capacity that other clients take, before and after the burst.
    burst: int
    spread: float = 1.0  # Sizes differ by up to this factor either way.
    events: list[tuple[float, int, str, int]] = field(default_factory=list)
    tries: dict[int, list[str]] = field(default_factory=dict)  # The fate of each client of the burst, by try.
    last_end: float = 0.0
    _number: int = 0

    def run(self) -> None:
        rng = random.Random(self.seed)
        core = Admission(CONFIG, random.Random(self.seed + 1))
        core.set_capacity(MODEL, self.slots, now=0.0)
        clients: dict[int, tuple[str, int]] = {}  # ticket -> kind of client, its name
        sizes: dict[int, float] = {}
        for client in range(self.burst):
            self._plan(WARM_UNTIL_S, "burst", client)
        self._plan(0.0, "other", 0)
        while self.events or core.wake_at < math.inf:
            now = min(self.events[0][0] if self.events else math.inf, core.wake_at)
            effects: list[AdmissionEffect] = []
            if core.wake_at <= now:
                effects = core.on_wake(now)
            else:
                _, ticket, kind, client = heapq.heappop(self.events)
                if kind == "end":
                    self.last_end = now if clients[client][0] == "burst" else self.last_end
                    effects = core.on_departure(client, now)
                else:
                    if kind == "other" and (now < WARM_UNTIL_S + 30.0):
                        rate = self.slots / self.mean_s * max(self.background, 0.3 * (now < WARM_UNTIL_S))
                        self._plan(now + rng.expovariate(rate) if rate else math.inf, "other", 0)
                    clients[ticket] = (kind, client)
                    sizes[ticket] = self.mean_s * self.spread ** rng.uniform(-1.0, 1.0)
                    predicted_ms = sizes[ticket] * 1000.0 * self.pace
                    effect = core.on_arrival(Arrival(ticket=ticket, model=MODEL, work_ms=predicted_ms), now)
                    effects = [] if effect is None else [effect]
            for effect in effects:
                self._obey(effect, clients, sizes, now, rng)

    def _plan(self, at: float, kind: str, client: int) -> None:
        if at < math.inf:
            self._number += 1
            heapq.heappush(self.events, (at, self._number, kind, client))

    def _obey(
        self,
        effect: AdmissionEffect,
        clients: dict[int, tuple[str, int]],
        sizes: dict[int, float],
        now: float,
        rng: random.Random,
    ) -> None:
        kind, client = clients[effect.ticket]
        fate = self.tries.setdefault(client, []) if kind == "burst" else []
        match effect:
            case Admit(ticket):
                fate.append("admitted")
                self._plan(now + sizes[ticket] * rng.uniform(0.8, 1.2), "end", ticket)
            case Refuse(_, reason, retry_after_s):
                fate.append(reason)
                if kind == "burst":
                    self._plan(now + math.ceil(retry_after_s), "burst", client)

    @property
    def truth(self) -> float:
        """Of the clients that were refused once, the share that the second try let in."""
        refused = [fate for fate in self.tries.values() if fate[0] != "admitted"]
        assert len(refused) > self.burst // 2, "this world refuses too few to say anything"
        return sum(fate[1] == "admitted" for fate in refused) / len(refused)

    @property
    def slowness(self) -> float:
        """The burst's real end over the end that a fleet without an idle moment would reach."""
        free = self.slots * (1.0 - self.background)
        mean_s = self.mean_s * (1.0 if self.spread == 1.0 else _mean_factor(self.spread))
        return (self.last_end - WARM_UNTIL_S) / (self.burst * mean_s / free)


def _mean_factor(spread: float) -> float:
    """The mean of `spread ** u` for u uniform in -1..1."""
    return (spread - 1.0 / spread) / (2.0 * math.log(spread))


def _worlds(name: str) -> list[_World]:
    """Four seeds of one kind of world."""
    match name:
        case "equal sizes":
            make = partial(_World, slots=10, mean_s=1.0, pace=1.0, background=0.0, burst=400)
        case "twice as slow as predicted":
            make = partial(_World, slots=10, mean_s=1.0, pace=0.5, background=0.0, burst=250)
        case "sizes that differ twentyfold":
            make = partial(_World, slots=16, mean_s=0.8, pace=1.0, background=0.0, burst=400, spread=4.5)
        case "many slots":
            make = partial(_World, slots=200, mean_s=4.0, pace=1.3, background=0.0, burst=1500)
        case "others take a third":
            make = partial(_World, slots=10, mean_s=1.0, pace=1.0, background=0.33, burst=200)
        case _:
            raise ValueError(name)
    return [make(seed=seed) for seed in range(4)]


NAMES = [
    "equal sizes",
    "twice as slow as predicted",
    "sizes that differ twentyfold",
    "many slots",
    "others take a third",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_waits_as_told_is_mostly_let_in(name: str) -> None:
    worlds = _worlds(name)
    for world in worlds:
        world.run()
    truth = sum(world.truth for world in worlds) / len(worlds)
    slowness = sum(world.slowness for world in worlds) / len(worlds)
    assert truth >= 0.9, f"{truth:.1%} were let in at their second try"
    assert slowness <= 1.3, f"the burst took {slowness:.2f} times the ideal makespan"


@pytest.mark.slow
def test_the_same_answer_for_everybody_would_be_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    def same_for_all(self: drain.ReturnTimes, after_s: float, spacing_s: float, now: float, draw: float) -> float:
        return self.jittered_s(after_s, draw)

    monkeypatch.setattr(drain.ReturnTimes, "promise_s", same_for_all)
    world = _worlds("equal sizes")[0]
    world.run()
    assert world.truth < 0.5
