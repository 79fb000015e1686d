from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from infermesh.net.timers import Entry, Timers


class Alarm:
    def __init__(self, log: list[tuple[str, float]], name: str) -> None:
        self.deadline = math.inf
        self.timer: Entry | None = None
        self._log = log
        self._name = name

    def on_deadline(self, now: float) -> None:
        self._log.append((self._name, round(now, 2)))


async def test_deadlines_fire_in_order_and_never_early(autojump_clock: MockClock) -> None:
    timers, log = Timers(), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        start = trio.current_time()
        timers.arm(Alarm(log, "late"), start + 60.0)
        timers.arm(Alarm(log, "soon"), start + 0.5)
        await trio.sleep(0.49)
        assert log == []
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert [(name, round(at - start, 1)) for name, at in log] == [("soon", 0.5), ("late", 60.0)]


async def test_a_deadline_moved_later_fires_once_at_its_last_place(autojump_clock: MockClock) -> None:
    timers, log = Timers(), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        start = trio.current_time()
        alarm = Alarm(log, "a")
        for later in (1.0, 5.0, 2.0, 3.0):
            timers.arm(alarm, start + later)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [round(at - start, 1) for _, at in log] == [3.0]


async def test_a_disarmed_deadline_does_not_fire(autojump_clock: MockClock) -> None:
    timers, log = Timers(), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        alarm = Alarm(log, "a")
        timers.arm(alarm, trio.current_time() + 1.0)
        timers.arm(alarm, math.inf)
        await trio.sleep(20)
        assert log == []
        timers.arm(alarm, trio.current_time() + 1.0)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert len(log) == 1


async def test_an_earlier_deadline_wakes_the_sleeping_timers(autojump_clock: MockClock) -> None:
    timers, log = Timers(), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        start = trio.current_time()
        timers.arm(Alarm(log, "late"), start + 9.0)
        await trio.sleep(1)
        timers.arm(Alarm(log, "soon"), start + 1.1)
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in log] == ["soon"]


async def test_one_crashing_deadline_does_not_stop_the_others(autojump_clock: MockClock) -> None:
    crashes: list[Exception] = []
    timers, log = Timers(on_crash=crashes.append), list[tuple[str, float]]()

    class Broken(Alarm):
        def on_deadline(self, now: float) -> None:
            raise ValueError("broken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        timers.arm(Broken(log, "x"), trio.current_time() + 1.0)
        timers.arm(Alarm(log, "y"), trio.current_time() + 2.0)
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in log] == ["y"]
    assert [str(error) for error in crashes] == ["broken"]


async def test_ended_objects_do_not_stay_in_the_heap(autojump_clock: MockClock) -> None:
    timers, log = Timers(), list[tuple[str, float]]()
    last = Alarm(log, "last")
    timers.arm(last, trio.current_time() + 50.0)
    for _ in range(30_000):
        alarm = Alarm(log, "ended")
        timers.arm(alarm, trio.current_time() + 100.0)
        timers.disarm(alarm)
    assert len(timers) < 15_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
    assert len(timers) == 0
    assert [name for name, _ in log] == ["last"]
