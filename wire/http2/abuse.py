"""The ledger of what a peer does that costs us more than it costs the peer: each kind has a budget per window.

Every frame here is legal on its own; floods of them are the known attacks on HTTP/2 servers (rapid reset
CVE-2023-44487, MadeYouReset CVE-2025-8671, PING, SETTINGS and empty-frame floods CVE-2019-9512 to 9518, CONTINUATION
flood CVE-2024-27316). Over budget is a ConnectionFault with ENHANCE_YOUR_CALM and the kind as its reason.

The window slides by halves: what was counted in the window before this one counts in proportion to how much of it
still lies within the last `window_s`. Some budgets grow with honest work: a peer that gets a thousand answers a
second may well cancel, ping or widen windows often. Not here: limits on one header block (wire.http2.blocks) and on
unsent output (wire.http2.send).

Duty of the caller: `turn(now)` before it counts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from wire.http2.faults import FAULT_REASONS, ConnectionFault
from wire.http2.frames import ErrorCode
from wire.limits import (
    HTTP2_CLOSED_FRAMES_MAX,
    HTTP2_EMPTY_DATA_MAX,
    HTTP2_OWN_RESETS_MAX,
    HTTP2_PINGS_MAX,
    HTTP2_PRIORITIES_MAX,
    HTTP2_REFUSED_STREAMS_MAX,
    HTTP2_RESETS_RECEIVED_MAX,
    HTTP2_SETTINGS_MAX,
    HTTP2_UNKNOWN_FRAMES_MAX,
    HTTP2_WINDOW_UPDATES_MAX,
)


class Abuse(enum.IntEnum):
    """What is counted. The name in lower case is the `reason` of the ConnectionEnded."""

    RESETS_RECEIVED = 0  # Rapid reset. Budget grows by two for each stream that ended as it should.
    OWN_RESETS = 1  # MadeYouReset: streams that we had to reset for a fault of the peer.
    REFUSED_STREAMS = 2  # Streams beyond the announced limit.
    PINGS = 3  # Budget grows by one for each HEADERS and DATA frame that we sent.
    SETTINGS = 4
    PRIORITIES = 5  # Budget grows by one for each header block received, as does that of UNKNOWN_FRAMES.
    EMPTY_DATA = 6  # Without END_STREAM.
    # Budget grows by 20 for each HEADERS and DATA frame that we sent, and by 8 for each header block received: gRPC's
    # core widens the window of each stream that it opens, long before there is an answer.
    WINDOW_UPDATES = 7
    UNKNOWN_FRAMES = 8
    CLOSED_FRAMES = 9  # Frames on streams that ended, which we let pass.


_KINDS = tuple(Abuse)
ABUSE_REASONS = tuple(kind.name.lower() for kind in _KINDS)
REASONS = (*FAULT_REASONS, *ABUSE_REASONS)
"""All that a ConnectionEnded can name."""


@dataclass(frozen=True, slots=True)
class AbuseLimits:
    """Budgets of one connection for any `window_s`."""

    window_s: float = 30.0
    resets_received_max: int = HTTP2_RESETS_RECEIVED_MAX
    own_resets_max: int = HTTP2_OWN_RESETS_MAX
    refused_streams_max: int = HTTP2_REFUSED_STREAMS_MAX
    pings_max: int = HTTP2_PINGS_MAX
    settings_max: int = HTTP2_SETTINGS_MAX
    priorities_max: int = HTTP2_PRIORITIES_MAX
    empty_data_max: int = HTTP2_EMPTY_DATA_MAX
    window_updates_max: int = HTTP2_WINDOW_UPDATES_MAX
    unknown_frames_max: int = HTTP2_UNKNOWN_FRAMES_MAX
    closed_frames_max: int = HTTP2_CLOSED_FRAMES_MAX

    def of(self, kind: Abuse) -> int:
        value = getattr(self, f"{kind.name.lower()}_max")
        assert isinstance(value, int)
        return value


class AbuseLedger:
    __slots__ = (
        "_before",
        "_began_at",
        "_budgets",
        "_counts",
        "_share",
        "_window_s",
        "_work_before",
        "blocks_received",
        "frames_sent",
        "streams_finished",
    )

    def __init__(self, limits: AbuseLimits, now: float) -> None:
        self._window_s = limits.window_s
        self._budgets = [limits.of(kind) for kind in _KINDS]
        self._counts = [0] * len(_KINDS)
        self._before = [0] * len(_KINDS)
        self._share = 0.0
        self._began_at = now
        # Honest work, counted by those who do it: in this window and the one before.
        self.frames_sent = 0
        self.blocks_received = 0
        self.streams_finished = 0
        self._work_before = (0, 0, 0)

    def turn(self, now: float) -> None:
        """Move the window to `now`."""
        elapsed = now - self._began_at
        if elapsed >= self._window_s:
            recent = elapsed < 2 * self._window_s
            self._before = self._counts if recent else [0] * len(_KINDS)
            self._counts = [0] * len(_KINDS)
            work = (self.frames_sent, self.blocks_received, self.streams_finished)
            self._work_before = work if recent else (0, 0, 0)
            self.frames_sent = self.blocks_received = self.streams_finished = 0
            self._began_at += self._window_s if recent else elapsed
            elapsed = now - self._began_at
        self._share = 1.0 - elapsed / self._window_s

    def count(self, kind: Abuse, why: str) -> None:
        """One more of `kind`. Raises ConnectionFault when that is one too many."""
        counted = self._counts[kind] + 1
        self._counts[kind] = counted
        if counted + self._before[kind] * self._share > self._budgets[kind] and self._over(kind, counted):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                ABUSE_REASONS[kind],
                f"more than {self._budgets[kind]} in {self._window_s:g} s: {why}",
            )

    def _over(self, kind: Abuse, counted: int) -> bool:
        """Whether honest work does not account for it either."""
        frames, blocks, finished = self._work_before
        budget = self._budgets[kind]
        match kind:
            case Abuse.RESETS_RECEIVED:
                budget = max(budget, 2 * (finished + self.streams_finished))
            case Abuse.PINGS:
                budget += frames + self.frames_sent
            case Abuse.WINDOW_UPDATES:
                budget += 20 * (frames + self.frames_sent) + 8 * (blocks + self.blocks_received)
            case Abuse.PRIORITIES | Abuse.UNKNOWN_FRAMES:
                budget += blocks + self.blocks_received
            case _:
                pass  # A fixed budget: no honest peer needs more.
        return counted + self._before[kind] * self._share > budget
