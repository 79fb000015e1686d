"""The race core in seeded worlds: hedges, failures, budgets that say no, owners that cancel, late reports."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

import pytest

from infermesh.core.routing.effects import Cancel, Dispatch, Effect, Settle
from infermesh.core.routing.race import Race

SEEDS = range(400)


class _Checker:
    """What must hold in every world, whatever the core does."""

    def __init__(self, live_max: int) -> None:
        self.live_max = live_max
        self.open: set[int] = set()
        self.seen: set[int] = set()
        self.settled = 0
        self.cancelled = False

    def effect(self, effect: Effect[str]) -> None:
        assert self.settled == 0, "an effect after the end"
        match effect:
            case Dispatch(attempt, target):
                assert not self.cancelled, "a launch after the owner gave up"
                assert attempt not in self.seen, "an attempt was launched twice"
                assert target == f"gpu-{attempt}", "targets out of order"
                self.seen.add(attempt)
                self.open.add(attempt)
                assert len(self.open) <= self.live_max, "too many copies at once"
            case Cancel(attempt):
                assert attempt in self.open, "cancelled what does not run"
                self.open.remove(attempt)
            case Settle(winner):
                self.settled += 1
                assert winner is None or winner in self.open, "a winner that does not run"
                self.open.discard(-1 if winner is None else winner)
                assert not self.open, "attempts left running"


def simulate(seed: int, make: Callable[[list[str], float], Race[str]]) -> None:
    rng = random.Random(seed)
    race = make([f"gpu-{i}" for i in range(rng.randint(1, 5))], 0.05)
    give_up_at = rng.expovariate(5) if rng.random() < 0.3 else math.inf
    now = 0.0
    check = _Checker(live_max=2)
    wire: list[tuple[float, int, bool]] = []
    effects: list[Effect[str]] = race.start(now)
    while True:
        for effect in effects:
            check.effect(effect)
            if isinstance(effect, Dispatch):
                arrival = now + rng.expovariate(20)
                heapq.heappush(wire, (arrival, effect.attempt, rng.random() < 0.6))
        due = min(wire[0][0] if wire else math.inf, race.wake_at, give_up_at)
        if due == math.inf:
            break
        now = due
        if due == give_up_at:
            give_up_at = math.inf
            check.cancelled = check.settled == 0
            effects = race.on_cancel(now)
        elif wire and wire[0][0] == due:
            _, attempt, won = heapq.heappop(wire)
            if rng.random() < 0.2:
                race.forbid_retry()
            if not won:
                check.open.discard(attempt)
            effects = (race.on_head if won else race.on_failed)(attempt, now)
        else:
            if rng.random() < 0.3:
                race.forbid_hedge()
            effects = race.on_wake(now)
    assert check.settled == (0 if check.cancelled else 1), f"settled {check.settled} times"
    assert not check.open, "attempts left running"


def test_every_world_settles_once_and_leaves_nothing_running() -> None:
    for seed in SEEDS:
        simulate(seed, Race)


class _LosersRunOn(Race[str]):
    def on_head(self, attempt: int, now: float) -> list[Effect[str]]:
        return [effect for effect in super().on_head(attempt, now) if not isinstance(effect, Cancel)]


class _GivesUpTooEarly(Race[str]):
    def on_failed(self, attempt: int, now: float) -> list[Effect[str]]:
        effects = super().on_failed(attempt, now)
        return effects or ([Settle(winner=None)] if self._live else [])


class _NeverSettlesOnFailure(Race[str]):
    def on_failed(self, attempt: int, now: float) -> list[Effect[str]]:
        return [effect for effect in super().on_failed(attempt, now) if not isinstance(effect, Settle)]


class _BelievesTheDead(Race[str]):
    def on_head(self, attempt: int, now: float) -> list[Effect[str]]:
        return super().on_head(attempt, now) or [Settle(winner=attempt)]


class _HedgesForEver(Race[str]):
    def _arm(self, now: float) -> None:
        more = self._launched < len(self.targets)
        self.wake_at = now + self.hedge_after_s if more else math.inf


class _OwnerUnheard(Race[str]):
    def on_cancel(self, now: float) -> list[Effect[str]]:
        return []


BUGS = [_LosersRunOn, _GivesUpTooEarly, _NeverSettlesOnFailure, _BelievesTheDead, _HedgesForEver, _OwnerUnheard]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: type[Race[str]]) -> None:
    with pytest.raises(AssertionError):
        for seed in SEEDS:
            simulate(seed, bug)
