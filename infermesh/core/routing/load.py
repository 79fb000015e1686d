"""The load of one target: what its node last reported, joined exactly with this router's own attempts.

A report is old when it arrives, and several routers send to one target. So the attempts that this router
began or ended since the report are added to it, one by one: two requests of one router never see the same
load, and no metrics cycle is long enough for a herd. What is left after taking the router's own attempts out
of the report is the load of others.
"""

from __future__ import annotations

from collections import deque

from infermesh.core.model.request import RequestFacts
from infermesh.core.model.targets import Target
from infermesh.core.routing.plan import Prediction

CHANGES_MAX = 4096
"""Attempts remembered since the last report; the oldest is then taken to be in the report. A report that is
thousands of attempts old says nothing, and the router's own count, a lower bound, is kept apart."""

_LATE_FROM_MS = 50.0  # Less than a few steps and round trips is not late.


class Lease:
    """One running attempt. Made by `Router.dispatched`; the caller gives it back with `Router.finished`."""

    __slots__ = (
        "decoding",
        "dispatched_at",
        "facts",
        "finished",
        "first_byte_at",
        "kv_tokens",
        "prediction",
        "target",
        "uncached_tokens",
    )

    def __init__(self, target: Target, facts: RequestFacts, prediction: Prediction, now: float) -> None:
        self.target = target
        self.facts = facts
        self.prediction = prediction
        self.dispatched_at = now
        self.first_byte_at: float | None = None
        self.uncached_tokens = prediction.uncached_tokens
        self.kv_tokens = prediction.uncached_tokens + prediction.cached_tokens
        self.decoding = False
        self.finished = False


class TargetLoad:
    """Mutable, owned by one router. Times are monotonic seconds of that router."""

    __slots__ = (
        "_arrivals",
        "_awaiting",
        "_departures",
        "arrived",
        "arrived_tokens",
        "awaiting",
        "awaiting_tokens",
        "decoding",
        "departed",
        "kv_usage",
        "own",
        "progress_at",
        "queue_len",
        "reported_at",
        "running",
        "unary_due",
    )

    def __init__(self) -> None:
        self.queue_len = 0
        self.running = 0
        self.kv_usage = 0.0
        self.reported_at = -1e18  # Never.
        self.arrived = 0  # Own attempts that the report cannot contain.
        self.arrived_tokens = 0
        self.departed = 0  # Own attempts that ended after the report was made.
        self.own = 0  # This router's attempts now: those awaiting their first byte, and those decoding.
        self.awaiting = 0
        self.awaiting_tokens = 0  # Uncached prompt tokens of own attempts that wait for their first byte.
        self.decoding = 0
        self.progress_at = 0.0  # When the engine began what it is prefilling for us now.
        self._awaiting: dict[Lease, None] = {}
        self._arrivals: deque[tuple[float, int]] = deque()
        self._departures: deque[float] = deque()
        self.unary_due: deque[tuple[float, Lease]] = deque()

    def total(self) -> int:
        """Requests at the target now, of all routers. Never below this router's own."""
        return max(self.own, self.queue_len + self.running + self.arrived - self.departed)

    def report(self, queue_len: int, running: int, kv_usage: float, *, at: float, rtt_s: float) -> bool:
        """A state or hint that arrived at `at`. Ignored (False) when it is older than the one in use."""
        if at < self.reported_at:
            return False
        self.reported_at = at
        self.queue_len = queue_len
        self.running = running
        self.kv_usage = kv_usage
        arrivals, departures = self._arrivals, self._departures
        # The report left half a round trip ago, and an attempt takes half of one to get there: one that was
        # dispatched within the last round trip is not in the report yet.
        while arrivals and arrivals[0][0] <= at - rtt_s:
            self._forget_arrival()
        while departures and departures[0] <= at:
            departures.popleft()
            self.departed -= 1
        return True

    def restart(self) -> None:
        """The engine began anew: what was reported of the one before is gone. Own attempts end by themselves."""
        self.queue_len = self.running = 0
        self.kv_usage = 0.0

    def dispatched(self, lease: Lease, now: float) -> None:
        if not self._awaiting:
            self.progress_at = now
        self._awaiting[lease] = None
        self.own += 1
        self.awaiting += 1
        self.awaiting_tokens += lease.uncached_tokens
        self.arrived += 1
        self.arrived_tokens += lease.kv_tokens
        self._arrivals.append((now, lease.kv_tokens))
        if len(self._arrivals) > CHANGES_MAX:
            self._forget_arrival()
        if not lease.facts.stream:
            # A whole answer shows no first token; it is taken to come when it was predicted.
            due = now + lease.prediction.ttft_ms * 1e-3
            self.unary_due.append((due, lease))

    def first_byte(self, lease: Lease, now: float) -> None:
        self.progress_at = now
        self._begin_decoding(lease)

    def finished(self, lease: Lease, now: float) -> None:
        if lease.decoding:
            self.decoding -= 1
        else:
            self._end_wait(lease)
        self.own -= 1
        lease.finished = True
        self.departed += 1
        self._departures.append(now)
        if len(self._departures) > CHANGES_MAX:
            self._departures.popleft()
            self.departed -= 1

    def settle_unary(self, now: float) -> None:
        """Move whole-answer attempts whose predicted first token is past from waiting to decoding."""
        due = self.unary_due
        while due and due[0][0] <= now:
            lease = due.popleft()[1]
            if not (lease.finished or lease.decoding):
                self.progress_at = now
                self._begin_decoding(lease)

    def backlog_ms(self, now: float, tokens_per_ms: float, step_tokens: int) -> float:
        """Time until the engine has computed the prompts of own attempts that wait for their first byte.

        Prefill is first come, first served. Since the last first byte the engine has worked on the oldest
        prompt, or on as many as fit into one step; more than that it cannot have done without a first byte. When
        it should have had that done twice over, it is slower than known, or stuck: as late as it is already, as
        late it is taken to be again.
        """
        if not self._awaiting:
            return 0.0
        oldest = next(iter(self._awaiting)).uncached_tokens
        at_hand = min(self.awaiting_tokens, max(oldest, step_tokens))
        elapsed_ms = (now - self.progress_at) * 1e3
        at_hand_ms = at_hand / tokens_per_ms
        if elapsed_ms <= at_hand_ms:
            return self.awaiting_tokens / tokens_per_ms - elapsed_ms
        late_ms = elapsed_ms - 2.0 * at_hand_ms - _LATE_FROM_MS
        return (self.awaiting_tokens - at_hand) / tokens_per_ms + max(0.0, late_ms)

    def _begin_decoding(self, lease: Lease) -> None:
        if lease.decoding or lease.finished:
            return
        self._end_wait(lease)
        lease.decoding = True
        self.decoding += 1

    def _end_wait(self, lease: Lease) -> None:
        del self._awaiting[lease]
        self.awaiting -= 1
        self.awaiting_tokens -= lease.uncached_tokens

    def _forget_arrival(self) -> None:
        _, tokens = self._arrivals.popleft()
        self.arrived -= 1
        self.arrived_tokens -= tokens
