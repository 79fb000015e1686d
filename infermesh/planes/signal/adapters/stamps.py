"""Two numbers that order what is said of a model: which engine it was, and which report is newer.

Pure but for the clock that is handed in. Both survive a restart of this daemon without a file: they come from
the wall clock and never fall below what was given out before.
"""

from __future__ import annotations

from collections.abc import Callable


class SequenceSource:
    """Sequence numbers that also grow over a restart of this daemon: milliseconds, or one more than the last.

    A receiver drops what is not newer than the last it took. A counter from 1 would make it drop everything
    that a restarted daemon says, until it has said as much as the one before.
    """

    def __init__(self, unix_time: Callable[[], float]) -> None:
        self._unix_time = unix_time
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, int(self._unix_time() * 1000))
        return self._last


class Incarnation:
    """A number that grows with every start of the engine: its start in Unix milliseconds.

    Without `process_start_time_seconds` on the page it is the moment at which this daemon first saw the engine,
    or saw its counters run backwards.
    """

    def __init__(self, unix_time: Callable[[], float]) -> None:
        self.number = 0
        self._unix_time = unix_time
        self._started_unix_s = 0.0

    def take(self, started_unix_s: float, *, ran_backwards: bool) -> bool:
        """Whether this is another engine than the one before."""
        first = self.number == 0
        if not first and not ran_backwards and started_unix_s == self._started_unix_s:
            return False
        changed = started_unix_s > 0.0 and started_unix_s != self._started_unix_s
        start = started_unix_s if changed else self._unix_time()
        # A clock set back between two starts must not make the newer engine look older.
        self.number = max(self.number + 1, int(start * 1000))
        self._started_unix_s = started_unix_s
        return not first
