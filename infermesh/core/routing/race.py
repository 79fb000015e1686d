"""Race one request across targets: hedge when the first is slow, retry when it fails, cancel the losers.

Pure. It opens nothing and knows no budget. Duties of the caller:
- pass `now`, obey the returned effects in their order, call `on_wake` once `wake_at` has passed;
- before `on_wake`, ask the hedge budget, and call `forbid_hedge` when it says no; a `Dispatch` out of
  `on_wake` is a hedge, and is charged to that budget;
- before `on_failed`, ask the retry budget, and call `forbid_retry` when it says no; a `Dispatch` out of
  `on_failed` is a retry. Call `forbid_retry` also when the failure must not be tried again;
- call `on_cancel` when the client goes away, and obey that too.

At most one attempt ever wins. A race that is not cancelled settles exactly once, with nothing left live but
the winner. A cancelled race does not settle: its owner has ended it and waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from infermesh.core.routing.effects import Cancel, Dispatch, Effect, Settle

T = TypeVar("T")


@dataclass(slots=True)
class Race(Generic[T]):
    targets: Sequence[T]  # Best first; the length bounds the number of attempts.
    hedge_after_s: float  # From a launch to the next hedge; inf: never.
    live_max: int = 2  # Attempts running at once: two copies cut the tail, a third only adds load.
    wake_at: float = field(default=math.inf, init=False)
    _live: list[int] = field(default_factory=list, init=False)  # Oldest first.
    _launched: int = field(default=0, init=False)
    _may_hedge: bool = field(default=True, init=False)
    _may_retry: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("a race needs at least one target")
        if self.live_max < 1:
            raise ValueError(f"live_max is {self.live_max}: a race needs room for at least one attempt")
        if not self.hedge_after_s >= 0:
            raise ValueError(f"hedge_after_s is {self.hedge_after_s}: it must be 0 or more; inf means never")

    @property
    def live(self) -> tuple[int, ...]:
        """The attempts that run now, oldest first."""
        return tuple(self._live)

    @property
    def may_launch(self) -> bool:
        """Whether a retry would find a target and is not forbidden."""
        return self._may_retry and self._launched < len(self.targets)

    @property
    def next_target(self) -> T | None:
        """Where the next attempt would go, hedge or retry: what the driver compares before it allows one."""
        return self.targets[self._launched] if self._launched < len(self.targets) else None

    def start(self, now: float) -> list[Effect[T]]:
        assert self._launched == 0, "a race starts once, and not after its end"
        return self._launch(now)

    def on_wake(self, now: float) -> list[Effect[T]]:
        return self._launch(now) if now >= self.wake_at else []

    def on_head(self, attempt: int, now: float) -> list[Effect[T]]:
        # A head from a cancelled attempt can still be in flight: ignore it.
        if attempt not in self._live:
            return []
        self._live.remove(attempt)
        return [*self._end(), Settle(winner=attempt)]

    def on_failed(self, attempt: int, now: float) -> list[Effect[T]]:
        # A cancelled attempt reports its own end as a failure: ignore it.
        if attempt not in self._live:
            return []
        self._live.remove(attempt)
        if self._live:
            # The failed copy made room for another one; the survivor gets its full patience first.
            if self.wake_at == math.inf:
                self._arm(now)
            return []
        if self.may_launch:
            return self._launch(now)
        self._end()
        return [Settle(winner=None)]

    def on_cancel(self, now: float) -> list[Effect[T]]:
        """The owner gives up, at any time and as often as it likes: stop everything that runs."""
        return self._end()

    def forbid_hedge(self) -> None:
        """No second copy from now on. A retry after a failure stays allowed."""
        self._may_hedge = False
        self.wake_at = math.inf

    def forbid_retry(self) -> None:
        """Nothing more is launched once the last live attempt fails. A hedge stays allowed."""
        self._may_retry = False

    def _launch(self, now: float) -> list[Effect[T]]:
        attempt = self._launched
        self._launched += 1
        self._live.append(attempt)
        self._arm(now)
        return [Dispatch(attempt, self.targets[attempt])]

    def _arm(self, now: float) -> None:
        room = len(self._live) < self.live_max and self._launched < len(self.targets)
        self.wake_at = now + self.hedge_after_s if room and self._may_hedge else math.inf

    def _end(self) -> list[Effect[T]]:
        cancels: list[Effect[T]] = []
        if self._live:
            cancels += [Cancel(attempt) for attempt in self._live]
            self._live.clear()
        self._launched = len(self.targets)
        self.wake_at = math.inf
        return cancels
