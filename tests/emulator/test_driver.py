"""The engine's task in virtual time, without sockets."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.engine import PROFILES, EngineProfile
from infermesh.emulator.driver import EngineDriver, Flight
from infermesh.emulator.faults import Faults
from infermesh.emulator.metrics import EngineMetrics

TINY = PROFILES["tiny"]
STEP_S = TINY.step_ms(1, 0) / 1_000


class Diary:
    """An answer that writes down when each token came."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.indexes: list[int] = []
        self.finished = trio.Event()

    def on_token(self, index: int) -> None:
        self.at.append(trio.current_time())
        self.indexes.append(index)

    def on_finished(self) -> None:
        self.at.append(trio.current_time())
        self.finished.set()


def _driver(profile: EngineProfile = TINY, faults: Faults | None = None) -> EngineDriver:
    return EngineDriver(
        "m", profile, faults or Faults(), EngineMetrics("m", context_tokens_max=1_024), in_flight_max=100
    )


def _submit(driver: EngineDriver, prompt_tokens: int, output_tokens: int) -> tuple[Flight, Diary]:
    diary = Diary()
    flight = Flight(
        "id",
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        finish_reason="length",
        answer=diary,
    )
    flight.wants_tokens = True
    driver.submit(flight, ())
    return flight, diary


async def test_tokens_come_when_their_steps_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    driver = _driver()
    nursery.start_soon(driver.run)
    await trio.sleep(5.0)
    since = trio.current_time()
    _, diary = _submit(driver, 300, 4)
    await diary.finished.wait()
    first_s = TINY.least_prefill_ms(300) / 1_000
    assert [at - since for at in diary.at] == pytest.approx([first_s + STEP_S * index for index in range(4)])
    assert diary.indexes == [0, 1, 2]
    assert driver.metrics.first_token.sum == pytest.approx(first_s)
    assert driver.metrics.between_tokens.sum == pytest.approx(3 * STEP_S)
    assert driver.metrics.finished["length"] == 1


async def test_an_arrival_during_a_step_waits_for_the_next(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    driver = _driver()
    nursery.start_soon(driver.run)
    since = trio.current_time()
    _submit(driver, 10, 20)
    prefill_s = TINY.step_ms(1, 10) / 1_000
    await trio.sleep(prefill_s + 0.3 * STEP_S)
    _, second = _submit(driver, 10, 1)
    await second.finished.wait()
    assert trio.current_time() - since == pytest.approx(prefill_s + STEP_S + TINY.step_ms(2, 10) / 1_000)
    assert driver.metrics.queue.sum == pytest.approx(0.7 * STEP_S)


async def test_a_machine_that_is_late_does_not_slow_the_engine_down(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    driver = _driver()
    nursery.start_soon(driver.run)
    since = trio.current_time()
    _, diary = _submit(driver, 10, 4)
    await trio.testing.wait_all_tasks_blocked()
    prefill_s = TINY.step_ms(1, 10) / 1_000
    mock_clock.jump(prefill_s + 0.5 * STEP_S)  # The step's end is noticed half a step late,
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(0.5 * STEP_S + 1e-9)  # and yet the next one ends on time.
    await trio.testing.wait_all_tasks_blocked()
    assert len(diary.at) == 2
    assert diary.at[1] - since == pytest.approx(prefill_s + STEP_S)


async def test_an_aborted_flight_gets_no_more_tokens_and_leaves_at_the_steps_end(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    driver = _driver()
    nursery.start_soon(driver.run)
    flight, diary = _submit(driver, 10, 50)
    await trio.sleep(5.5 * STEP_S)
    had = len(diary.at)
    assert driver.abort(flight)
    assert not driver.abort(flight)
    assert driver.engine.running == 1
    await trio.sleep(0.6 * STEP_S)
    assert driver.engine.running == 0
    await trio.sleep(10 * STEP_S)
    assert len(diary.at) == had == driver.aborts[0].tokens
    assert driver.metrics.finished == {"stop": 0, "length": 0, "abort": 1, "error": 0, "repetition": 0}


async def test_aborting_after_the_end_is_no_abort(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    driver = _driver()
    nursery.start_soon(driver.run)
    flight, diary = _submit(driver, 10, 2)
    await diary.finished.wait()
    assert not driver.abort(flight)
    assert not driver.aborts


async def test_the_pace_follows_the_slow_factor_from_the_next_step(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    faults = Faults()
    driver = _driver(faults=faults)
    nursery.start_soon(driver.run)
    _, diary = _submit(driver, 10, 6)
    await trio.sleep(2.5 * STEP_S)
    faults.slow_factor = 5.0
    await diary.finished.wait()
    gaps = [later - earlier for earlier, later in zip(diary.at, diary.at[1:], strict=False)]
    assert gaps == pytest.approx([STEP_S, STEP_S, 5 * STEP_S, 5 * STEP_S, 5 * STEP_S])


async def test_room_ends_at_the_limit_and_each_refusal_is_counted() -> None:
    driver = EngineDriver("m", TINY, Faults(), EngineMetrics("m", context_tokens_max=64), in_flight_max=2)
    assert driver.has_room()
    _submit(driver, 1, 1)
    driver.hold()
    assert not driver.has_room()
    assert driver.metrics.refused == 1
    assert (driver.in_flight, driver.waiting) == (2, 2)


async def test_preempted_requests_are_counted_and_still_finish_whole(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    driver = _driver(
        EngineProfile(
            name="narrow",
            step_base_ms=1.0,
            per_sequence_ms=0.0,
            per_prefill_token_ms=0.0,
            slots=4,
            kv_capacity_tokens=160,
            batch_tokens_max=64,
        )
    )
    nursery.start_soon(driver.run)
    diaries = [_submit(driver, 32, 100)[1] for _ in range(3)]
    for diary in diaries:
        await diary.finished.wait()
        assert diary.indexes == list(range(99))
    assert driver.engine.counters.preemptions > 0
    assert driver.metrics.preemptions.sum == driver.engine.counters.preemptions
