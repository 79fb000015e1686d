"""The waits of a connection that have an end, and the next of them. Not a clock: the caller has that."""

from __future__ import annotations

import enum
import math


class Alarm(enum.IntEnum):
    PREFACE = 0  # Server: preface and first SETTINGS have not come.
    FRAME = 1  # A frame other than DATA came in part.
    HEADER_BLOCK = 2  # HEADERS came, its last CONTINUATION did not.
    SETTINGS_ACK = 3
    STALL = 4  # When to look at streams that wait for windows.
    DRAIN = 5  # The PING of a drain was not acknowledged.


class Alarms:
    __slots__ = ("_at", "wake_at")

    def __init__(self) -> None:
        self._at = [math.inf] * len(Alarm)
        self.wake_at = math.inf

    def set(self, alarm: Alarm, at: float) -> None:
        self._at[alarm] = at
        self.wake_at = min(self._at)

    def clear(self, alarm: Alarm) -> None:
        if self._at[alarm] != math.inf:
            self.set(alarm, math.inf)

    def clear_all(self) -> None:
        self._at = [math.inf] * len(Alarm)
        self.wake_at = math.inf

    def is_set(self, alarm: Alarm) -> bool:
        return self._at[alarm] != math.inf

    def due(self, now: float) -> list[Alarm]:
        """Those whose time has come; they are cleared."""
        if now < self.wake_at:
            return []
        due = [alarm for alarm in Alarm if self._at[alarm] <= now]
        for alarm in due:
            self.clear(alarm)
        return due
