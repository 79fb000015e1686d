"""Wait until something is so, without asking again and again: the run loop itself is watched.

For conditions on plain values that nobody announces (a counter, a length). `holds` is asked after each step of any
task of this run, so a wait ends in the very turn in which its condition came true, and a test needs no sleep. It must
be cheap, and must not change anything. Not for the daemon: each step of every task pays for each wait.
"""

from __future__ import annotations

from collections.abc import Callable

import trio


class NeverSo(AssertionError):
    """The condition did not come true in time; `str()` says what was waited for."""


async def wait_until(holds: Callable[[], object], what: Callable[[], str] | str, *, within_s: float = 5.0) -> None:
    """Return once `holds()` is true. Raises NeverSo with `what`, which may look at the state of things then."""
    if holds():
        await trio.lowlevel.checkpoint()
        return
    watcher = _Watcher(holds)
    trio.lowlevel.add_instrument(watcher)
    try:
        with trio.move_on_after(within_s):
            await watcher.seen.wait()
    finally:
        trio.lowlevel.remove_instrument(watcher)
    if watcher.error is not None:
        raise watcher.error
    if not watcher.seen.is_set() and not holds():
        said = what if isinstance(what, str) else what()
        raise NeverSo(f"not so after {within_s:g} s: {said}")


class _Watcher(trio.abc.Instrument):
    def __init__(self, holds: Callable[[], object]) -> None:
        self._holds = holds
        self.seen = trio.Event()
        self.error: Exception | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.seen.is_set():
            return
        try:
            so = bool(self._holds())
        except Exception as error:  # noqa: BLE001 - an instrument that raises is taken off without a word.
            self.error = error
            so = True
        if so:
            self.seen.set()
