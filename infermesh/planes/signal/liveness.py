"""Is a peer alive? Decided from its state stream alone. Pure: no waiting, `now` is handed in.

    frame            -> alive
    silence          -> suspect after `suspect_after_s`, dead after `dead_after_s`, counted from the last frame
    failed, proven   -> dead at once: something answered, and it was "nobody listens here" or a stranger
    failed, unproven -> nothing by itself: a timeout proves nothing, the silence goes on being counted

So a killed process is known as soon as its sockets are gone and the next dial is refused (milliseconds), a
machine without power or a cut network only by silence (`dead_after_s`).

The caller feeds events, wakes it with `on_wake` once `wake_at` has passed, and acts on each returned change. It
is the stand-in for gossip: what it returns has the shape of what membership will say.
"""

from __future__ import annotations

import math

import msgspec

from infermesh.core.model.nodes import NodeState


class LivenessTiming(msgspec.Struct, frozen=True, kw_only=True):
    """`membership.*`. A suspicion must outlast a few lost heartbeats, a death a few suspicions."""

    heartbeat_s: float = 0.5
    suspect_after_s: float = 1.5
    dead_after_s: float = 3.0

    def validate(self) -> None:
        if not 0.0 < 2 * self.heartbeat_s <= self.suspect_after_s <= self.dead_after_s:
            raise ValueError(
                f"membership: heartbeat_s is {self.heartbeat_s}, suspect_after_s {self.suspect_after_s}, "
                f"dead_after_s {self.dead_after_s}; each must be at least the one before, the second twice the first"
            )


class Change(msgspec.Struct, frozen=True):
    """The peer is now in this state, or still in it for another reason."""

    state: NodeState
    reason: str


class PeerLiveness:
    """One peer. Begins as JOINING, which lasts until the first frame or `dead_after_s` of nothing."""

    def __init__(self, timing: LivenessTiming, now: float) -> None:
        timing.validate()
        self._timing = timing
        self._heard_at = now
        self._trouble = ""
        self.state = NodeState.JOINING
        self.reason = ""

    @property
    def wake_at(self) -> float:
        if self.state is NodeState.ALIVE:
            return self._heard_at + self._timing.suspect_after_s
        if self.state in (NodeState.JOINING, NodeState.SUSPECT):
            return self._heard_at + self._timing.dead_after_s
        return math.inf

    def on_frame(self, now: float) -> list[Change]:
        self._heard_at = now
        self._trouble = ""
        return self._enter(NodeState.ALIVE, "")

    def on_failed(self, reason: str, *, proven: bool) -> list[Change]:
        """A stream broke or a dial failed. `proven`: the peer cannot be alive there, whatever the clock says."""
        self._trouble = reason
        if proven or self.state is NodeState.DEAD:
            return self._enter(NodeState.DEAD, reason)
        return []

    def on_wake(self, now: float) -> list[Change]:
        changes: list[Change] = []
        silent_s = now - self._heard_at
        if self.state is NodeState.ALIVE and silent_s >= self._timing.suspect_after_s:
            changes += self._enter(NodeState.SUSPECT, self._silence(silent_s))
        if self.state in (NodeState.JOINING, NodeState.SUSPECT) and silent_s >= self._timing.dead_after_s:
            changes += self._enter(NodeState.DEAD, self._silence(silent_s))
        return changes

    def _silence(self, silent_s: float) -> str:
        silence = f"no state for {silent_s:.1f} s"
        return f"{silence}; {self._trouble}" if self._trouble else silence

    def _enter(self, state: NodeState, reason: str) -> list[Change]:
        if (state, reason) == (self.state, self.reason):
            return []
        self.state = state
        self.reason = reason
        return [Change(state, reason)]


class SmoothedRtt:
    """Round trips, smoothed as TCP does it (RFC 6298: a new one weighs an eighth). 0.0 until measured."""

    def __init__(self) -> None:
        self.rtt_s = 0.0
        self._guessed = True

    def guess(self, connect_s: float) -> None:
        """The time of a connect: better than nothing, until the first round trip is measured and replaces it."""
        if self._guessed:
            self.rtt_s = connect_s

    def take(self, sample_s: float) -> float:
        self.rtt_s = sample_s if self._guessed else self.rtt_s + (sample_s - self.rtt_s) / 8
        self._guessed = False
        return self.rtt_s


class Backoff:
    """Waits between attempts: doubling from `first_s` to `longest_s`, each between half and all of its length."""

    def __init__(self, *, first_s: float, longest_s: float) -> None:
        assert 0.0 < first_s <= longest_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def next_s(self, random: float) -> float:
        """`random` is from [0, 1)."""
        wait_s = self._next_s * (0.5 + 0.5 * random)
        self._next_s = min(self._longest_s, self._next_s * 2)
        return wait_s
