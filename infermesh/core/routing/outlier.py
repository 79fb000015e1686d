"""Outliers: which targets are taken out of choice because requests fail on them, and when they come back.

Pure. A passive breaker for each target, fed by outcomes of real requests; it probes nothing. Only what the
target does counts: `CLIENT_ERROR` (the client's fault) and `CANCELLED` (nobody's) change nothing at all. A target
that fails fast looks quick and idle, so it must be ejected, never preferred.

The life of one target is the table `_NEXT`:

    trusted --tripped--> ejected --time served--> probation --proved--> trusted
                            ^                         |
                            +--------tripped----------+

On probation the first failure trips, at twice the time. Outcomes of requests that were dispatched before the
standing began are late news about the standing before, and are ignored. How often a target was ejected is
forgotten slowly, one level for `forgive_successes` successes, so that a flapping one stays out longer.

At most `ejected_share_max` of a model's pool is ejected at once: better a doubtful target than none, and one bad
judgement (or one request that breaks every engine) must not empty the fleet. A target that would have been
ejected but for that is told as `Spared`. Duties of the caller: `on_pool` whenever the targets of a model that
could be chosen otherwise (alive, fresh, ready) change, since a pool that shrinks may have to take ejected ones
back; `on_restart` when a target was started anew; `forget` when it is gone for good; `on_wake` once `wake_at`
has passed; and obeying the effects.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable

import msgspec

from infermesh.core.model.names import ModelName, TargetKey
from infermesh.core.model.outcome import Verdict
from infermesh.core.routing.outlier_config import OutlierConfig

__all__ = ["Ejected", "OutlierConfig", "OutlierEffect", "Outliers", "Readmitted", "Spared", "Standing"]

_FAILURES = frozenset({Verdict.SERVER_ERROR, Verdict.CONNECT_FAILED, Verdict.BROKEN, Verdict.TIMED_OUT})
_LEVEL_MAX = 30  # 2**30 base times: any sensible longest time is reached long before.


class Ejected(msgspec.Struct, frozen=True):
    target: TargetKey
    for_s: float
    because: str


class Spared(msgspec.Struct, frozen=True):
    """It should be ejected, but too many of its model are."""

    target: TargetKey
    because: str


class Readmitted(msgspec.Struct, frozen=True):
    target: TargetKey
    early: bool  # Before its time: the model's pool shrank, or the target was started anew.


OutlierEffect = Ejected | Spared | Readmitted


class Standing(enum.Enum):
    TRUSTED = "trusted"
    EJECTED = "ejected"
    PROBATION = "probation"


class _Event(enum.Enum):
    TRIPPED = "tripped"
    TIME_SERVED = "time served"
    PROVED = "proved"


_NEXT = {
    (Standing.TRUSTED, _Event.TRIPPED): Standing.EJECTED,
    (Standing.EJECTED, _Event.TIME_SERVED): Standing.PROBATION,
    (Standing.PROBATION, _Event.TRIPPED): Standing.EJECTED,
    (Standing.PROBATION, _Event.PROVED): Standing.TRUSTED,
}


class _Tally:
    """Outcomes of the last half to whole window, in two halves."""

    __slots__ = ("_bad", "_bad_before", "_good", "_good_before", "_half_s", "_turn_at")

    def __init__(self, window_s: float) -> None:
        self._half_s = window_s / 2.0
        self._turn_at = -math.inf
        self._good = self._bad = self._good_before = self._bad_before = 0

    def add(self, *, failed: bool, now: float, count: int = 1) -> None:
        self._turn(now)
        if failed:
            self._bad += count
        else:
            self._good += count

    def counts(self, now: float) -> tuple[int, int]:
        """(outcomes, failures)."""
        self._turn(now)
        bad = self._bad + self._bad_before
        return self._good + self._good_before + bad, bad

    def clear(self) -> None:
        self._good = self._bad = self._good_before = self._bad_before = 0

    def _turn(self, now: float) -> None:
        if now < self._turn_at:
            return
        fresh = now - self._turn_at < self._half_s
        self._good_before, self._bad_before = (self._good, self._bad) if fresh else (0, 0)
        self._good = self._bad = 0
        self._turn_at = now + self._half_s


class _Target:
    """What is known of one target."""

    __slots__ = (
        "connects_in_row",
        "failures_in_row",
        "key",
        "level",
        "model",
        "since",
        "spared",
        "standing",
        "successes",
        "successes_in_row",
        "tally",
        "until",
    )

    def __init__(self, key: TargetKey, model: ModelName, window_s: float) -> None:
        self.key = key
        self.model = model
        self.standing = Standing.TRUSTED
        self.since = -math.inf  # When this standing began.
        self.until = math.inf  # When an ejection ends.
        self.level = 0  # Ejections not yet forgiven.
        self.successes = 0  # Towards forgiving one level.
        self.spared = False
        self.tally = _Tally(window_s)
        self.start_counting()

    def start_counting(self) -> None:
        self.failures_in_row = self.connects_in_row = self.successes_in_row = 0
        self.tally.clear()

    def move(self, event: _Event, now: float) -> None:
        self.standing = _NEXT[self.standing, event]
        # Proving itself is no break: what was dispatched on probation is news about the same standing.
        self.since = self.since if event is _Event.PROVED else now
        self.until = math.inf
        self.spared = False
        self.start_counting()


class Outliers:
    def __init__(self, config: OutlierConfig) -> None:
        config.validate()
        self._config = config
        self._targets: dict[TargetKey, _Target] = {}
        self._pools: dict[ModelName, frozenset[TargetKey]] = {}
        self._tallies: dict[ModelName, _Tally] = {}  # Of all targets of a model, to compare one with the rest.
        self._ejected: dict[TargetKey, _Target] = {}  # In order of ejection.

    # What the world tells.

    def on_pool(self, model: ModelName, keys: Iterable[TargetKey], now: float) -> list[OutlierEffect]:
        """These targets of the model could be chosen, were none ejected. An empty pool forgets the model."""
        pool = frozenset(keys)
        for key in sorted(pool):
            if key not in self._targets:
                self._targets[key] = _Target(key, model, self._config.window_s)
        if pool:
            self._pools[model] = pool
            self._tallies.setdefault(model, _Tally(self._config.window_s))
        else:
            self._pools.pop(model, None)
            self._tallies.pop(model, None)
        ejected = self._ejected_of(model)
        ejected.sort(key=lambda target: (target.until, target.key))
        surplus = len(ejected) - self._ejected_max(model)
        return [self._readmit(target, now, early=True) for target in ejected[: max(0, surplus)]]

    def on_outcome(
        self, key: TargetKey, verdict: Verdict, now: float, *, dispatched_at: float, count: int = 1
    ) -> list[OutlierEffect]:
        """`count`: so many successes since the last word of this target; failures are told one by one."""
        target = self._targets.get(key)
        # Forgotten targets and late news are ignored, and so is what says nothing about the target.
        if target is None or dispatched_at < target.since or target.standing is Standing.EJECTED:
            return []
        if verdict in _FAILURES:
            return self._on_failure(target, verdict, now)
        if verdict is Verdict.OK:
            self._on_success(target, count, now)
        return []

    def on_restart(self, key: TargetKey, now: float) -> list[OutlierEffect]:
        """The engine or its node began a new life: an ejection for the old one's failures ends, on probation."""
        target = self._ejected.get(key)
        return [] if target is None else [self._readmit(target, now, early=True)]

    def forget(self, key: TargetKey) -> None:
        """The target is gone for good. It must have left its pool before."""
        self._targets.pop(key, None)
        self._ejected.pop(key, None)

    @property
    def wake_at(self) -> float:
        return min((target.until for target in self._ejected.values()), default=math.inf)

    def on_wake(self, now: float) -> list[OutlierEffect]:
        due = [target for target in self._ejected.values() if target.until <= now]
        return [self._readmit(target, now, early=False) for target in due]

    # What the world may ask.

    def standing(self, key: TargetKey) -> Standing:
        target = self._targets.get(key)
        return target.standing if target is not None else Standing.TRUSTED

    def ejected_until(self, key: TargetKey) -> float | None:
        """None: it may be chosen."""
        target = self._ejected.get(key)
        return target.until if target is not None else None

    # Inside.

    def _on_success(self, target: _Target, count: int, now: float) -> None:
        self._count(target, failed=False, now=now, count=count)
        target.failures_in_row = target.connects_in_row = 0
        target.spared = False
        target.successes_in_row += count
        if target.standing is Standing.PROBATION and target.successes_in_row >= self._config.probation_successes:
            target.move(_Event.PROVED, now)
        if target.level == 0:
            return
        target.successes += count
        if target.successes >= self._config.forgive_successes:
            target.successes = 0
            target.level -= 1

    def _on_failure(self, target: _Target, verdict: Verdict, now: float) -> list[OutlierEffect]:
        self._count(target, failed=True, now=now)
        target.successes_in_row = target.successes = 0
        target.failures_in_row += 1
        target.connects_in_row = target.connects_in_row + 1 if verdict is Verdict.CONNECT_FAILED else 0
        because = self._why_eject(target, verdict, now)
        if not because:
            return []
        if len(self._ejected_of(target.model)) >= self._ejected_max(target.model):
            already, target.spared = target.spared, True
            return [] if already else [Spared(target.key, because)]
        for_s = min(self._config.eject_base_s * 2.0**target.level, self._config.eject_longest_s)
        target.level = min(target.level + 1, _LEVEL_MAX)
        target.move(_Event.TRIPPED, now)
        target.until = now + for_s
        self._ejected[target.key] = target
        return [Ejected(target.key, for_s, because)]

    def _why_eject(self, target: _Target, verdict: Verdict, now: float) -> str:
        """Empty: it is not to be ejected."""
        config = self._config
        if target.standing is Standing.PROBATION:
            return f"{verdict} while on probation"
        if target.connects_in_row >= config.connects_in_row:
            return f"{target.connects_in_row} connections refused in a row"
        if target.failures_in_row >= config.failures_in_row:
            return f"{target.failures_in_row} failures in a row, the last one {verdict}"
        outcomes, failures = target.tally.counts(now)
        if outcomes < config.volume_min or failures <= config.failure_share_max * outcomes:
            return ""
        # Where all targets of a model fail alike, the requests are to blame, and ejecting helps nobody.
        tally = self._tallies.get(target.model)
        all_outcomes, all_failures = tally.counts(now) if tally is not None else (0, 0)
        others = max(0, all_outcomes - outcomes)
        others_share = max(0, all_failures - failures) / others if others else 0.0
        if failures < config.peer_factor * others_share * outcomes:
            return ""
        return f"{failures} of {outcomes} requests failed, the last one {verdict}"

    def _count(self, target: _Target, *, failed: bool, now: float, count: int = 1) -> None:
        target.tally.add(failed=failed, now=now, count=count)
        tally = self._tallies.get(target.model)
        if tally is not None:
            tally.add(failed=failed, now=now, count=count)

    def _readmit(self, target: _Target, now: float, *, early: bool) -> OutlierEffect:
        del self._ejected[target.key]
        target.move(_Event.TIME_SERVED, now)
        return Readmitted(target.key, early)

    def _ejected_of(self, model: ModelName) -> list[_Target]:
        """Ejected members of the model's pool; one that left the pool takes no place in the share."""
        pool = self._pools.get(model, frozenset())
        return [target for key, target in self._ejected.items() if target.model == model and key in pool]

    def _ejected_max(self, model: ModelName) -> int:
        return math.floor(self._config.ejected_share_max * len(self._pools.get(model, ())))
