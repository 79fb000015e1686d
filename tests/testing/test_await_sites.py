from __future__ import annotations

import trio

from infermesh.testing.await_sites import AwaitSites, OnParked

# Files of ours whose awaits are few and stay.
SITES = AwaitSites(["net/mailbox.py", "planes/data/busy.py"])
ANY = "net/mailbox.py: Mailbox.wait_any: await self._arrived.wait()"
IDLE = "planes/data/busy.py: Busy.wait_idle: await self._idle.wait()"


def test_every_await_of_a_file_is_named_with_its_function() -> None:
    assert list(map(str, SITES.all())) == [ANY, IDLE]


def test_blocks_and_loops_that_wait_are_sites_too() -> None:
    named = list(map(str, AwaitSites(["testing/bystander.py"]).all()))
    assert "testing/bystander.py: unharmed: async with await mesh.client()" in named
    assert "testing/bystander.py: unharmed: await mesh.client()" in named
    assert "testing/bystander.py: unharmed: async for last in events" not in named
    assert "testing/bystander.py: unharmed: async for events" in named


async def test_a_task_is_found_at_the_site_where_it_waits() -> None:
    from infermesh.net.mailbox import Mailbox

    box: Mailbox[int] = Mailbox(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.wait_any)
        await trio.testing.wait_all_tasks_blocked()
        [task] = SITES.tasks_at(SITES.named(ANY))
        assert [str(site) for site in SITES.of_task(task)] == [ANY]
        assert SITES.tasks_at(SITES.named(IDLE)) == []
        box.put(1)
    assert SITES.of_task(task) == []


async def test_the_act_comes_in_the_step_in_which_a_task_came_to_wait() -> None:
    from infermesh.net.mailbox import Mailbox

    box: Mailbox[int] = Mailbox(1)
    scope = trio.CancelScope()
    watch = OnParked(SITES, [SITES.named(ANY)], lambda task: scope.cancel())
    trio.lowlevel.add_instrument(watch)
    with scope:
        await box.wait_any()
    trio.lowlevel.remove_instrument(watch)
    assert scope.cancelled_caught
    assert watch.acted.is_set()


async def test_with_a_condition_a_task_that_waits_already_is_found_when_it_comes_true() -> None:
    from infermesh.net.mailbox import Mailbox

    boxes: list[Mailbox[int]] = [Mailbox(1), Mailbox(1)]
    found: list[str] = []
    ready = False
    async with trio.open_nursery() as nursery:
        for number, box in enumerate(boxes):
            nursery.start_soon(box.wait_any, name=f"box {number}")
        await trio.testing.wait_all_tasks_blocked()
        watch = OnParked(
            SITES,
            [SITES.named(ANY)],
            lambda task: found.append(task.name),
            when=lambda: ready,
            where=lambda task: task.name == "box 1",
        )
        trio.lowlevel.add_instrument(watch)
        await trio.lowlevel.checkpoint()
        assert found == []
        ready = True
        await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(watch)
        assert found == ["box 1"]
        for box in boxes:
            box.put(1)
