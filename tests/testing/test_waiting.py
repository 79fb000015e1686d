from __future__ import annotations

import pytest
import trio

from infermesh.testing.waiting import NeverSo, wait_until


async def test_a_wait_ends_in_the_turn_in_which_its_condition_came_true(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[str] = []

    async def act() -> None:
        await trio.sleep(1)
        seen.append("so")
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        seen.append("later")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        await wait_until(lambda: seen, "something is seen")
        assert seen == ["so"]
    assert trio.current_time() - autojump_clock.current_time() == 0


async def test_what_is_so_already_is_not_waited_for() -> None:
    await wait_until(lambda: True, "true")


async def test_what_never_comes_is_named_with_the_state_of_things_at_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    count = 0

    async def act() -> None:
        nonlocal count
        await trio.sleep(1)
        count = 7

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        with pytest.raises(NeverSo, match=r"^not so after 2 s: count is 7$"):
            await wait_until(lambda: count > 9, lambda: f"count is {count}", within_s=2)


async def test_a_condition_that_raises_ends_the_wait_with_its_error() -> None:
    numbers = [1]

    async def act() -> None:
        await trio.lowlevel.checkpoint()
        numbers.clear()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        with pytest.raises(ZeroDivisionError):
            await wait_until(lambda: 1 // len(numbers) > 1, "never")
