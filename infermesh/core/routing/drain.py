"""How fast a model's queue drains, and when those who were refused should come back.

Pure bookkeeping for one model. `DrainMeter` turns work ahead into seconds; `ReturnTimes` turns those seconds
into Retry-After values that are meant to come true.
"""

from __future__ import annotations

_PRIOR = 4.0  # Completions for which the predictions themselves count, before measurements outweigh them.
_HELD_MS_MIN = 0.001
_SILENCE_FACTOR = 2.0  # Slots silent for so many mean service times are slower than their history says.


class DrainMeter:
    """Measured work per second of slot time.

    Each completion tells its predicted work and the time that it really held its slot. Their ratio, weighed by
    time and forgetting slowly, is the pace of one slot; the rate is that pace times the slots that there are now.
    Measuring per slot rather than counting completions per second keeps the figure right on an idle fleet (where
    completions only mirror arrivals) and at the very moment when a node joins or leaves.
    """

    __slots__ = ("_count", "_held_ms", "_keep", "_work_ms", "changed_at")

    def __init__(self, window: int) -> None:
        self._keep = 1.0 - 1.0 / max(window, 2)
        self._count = 0.0
        self._work_ms = 0.0
        self._held_ms = 0.0
        self.changed_at = 0.0  # When a slot was last taken or given back; set by the owner.

    def on_departure(self, work_ms: float, held_s: float, now: float) -> None:
        if not self._count:
            self._count = _PRIOR
            self._work_ms = self._held_ms = _PRIOR * work_ms
        self._count = self._count * self._keep + 1.0
        self._work_ms = self._work_ms * self._keep + work_ms
        self._held_ms = self._held_ms * self._keep + max(held_s * 1000.0, _HELD_MS_MIN)
        self.changed_at = now

    def work_ms_per_s(self, slots: int, now: float) -> float:
        """Work that leaves per second while all these slots are taken. Needs at least one slot."""
        assert slots > 0, "nothing drains without slots"
        if not self._count:
            return slots * 1000.0
        # A slot that has been silent for so long has a service time of at least that: without this line a
        # stuck fleet would be praised for its past for ever.
        silent_ms = (now - self.changed_at) * 1000.0 * self._count
        held_ms = silent_ms if silent_ms > _SILENCE_FACTOR * self._held_ms else self._held_ms
        return slots * 1000.0 * self._work_ms / held_ms

    def completions_per_s(self, slots: int, now: float) -> float:
        """The same rate in requests of the measured mean size; 0.0 before the first completion."""
        return self.work_ms_per_s(slots, now) * self._count / self._work_ms if self._count else 0.0


class ReturnTimes:
    """Hands out the moments at which refused clients may come back: a line of places, not one number.

    Were each refused client told the same drain time, a burst of a thousand would come back as a burst of a
    thousand. So each is promised the place behind the one promised before: at the earliest when the queue has
    drained, and one request's worth of drain later than the last one. Clients that do not come back leave a gap
    that others fill. Waits are only ever lengthened by jitter: an early return would find the queue still full.
    """

    __slots__ = ("_jitter", "_longest_s", "_shortest_s", "_until")

    def __init__(self, *, min_s: float, max_s: float, jitter: float) -> None:
        self._jitter = jitter
        self._shortest_s = min_s
        self._longest_s = max_s / (1.0 + jitter)
        self._until = 0.0  # Up to here all drain is promised.

    def promise_s(self, drained_after_s: float, spacing_s: float, now: float, draw: float) -> float:
        """Seconds after which this client should come back; `draw` is a random number in 0..1."""
        wait_s = self.bounded_s(max(drained_after_s, self._until - now))
        self._until = now + wait_s + spacing_s
        return wait_s * (1.0 + self._jitter * draw)

    def jittered_s(self, wait_s: float, draw: float) -> float:
        """A wait that takes no place in the line, since nothing is known about the drain."""
        return self.bounded_s(wait_s) * (1.0 + self._jitter * draw)

    def bounded_s(self, wait_s: float) -> float:
        return min(max(wait_s, self._shortest_s), self._longest_s)

    def rescale(self, factor: float, now: float) -> None:
        """The drain became `1 / factor` times as fast: what is promised comes true that much sooner or later."""
        if self._until > now:
            self._until = now + min((self._until - now) * factor, self._longest_s)
