"""Cancellation at every step of a call's task: nothing is left open on either side, and the channel works on.

Each scenario runs again and again, cancelled at its first step, its second, and so on, until it ends before that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from infermesh.net.grpc.client import Channel
from infermesh.testing.grpc_echo import CHAT, COUNT, JOIN, SAY
from infermesh.testing.waiting import wait_until
from tests.net.grpc.asking import Pair, pair, value
from wire.grpc.service import CallOptions

STEPS_MAX = 400
Scenario = Callable[[Channel], Awaitable[None]]


class CancelAtStep(trio.abc.Instrument):
    """Cancels the scope once its task has made so many steps."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step
        self._task = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def say(channel: Channel) -> None:
    await channel.unary(SAY, value(b"hi"), CallOptions(timeout_s=30))


async def large(channel: Channel) -> None:
    await channel.unary(SAY, value(bytes(1 << 20)))


async def count(channel: Channel) -> None:
    async with channel.ask(COUNT, value(b"40")) as call:
        await call.leading()
        assert len([message async for message in call]) == 40


async def join(channel: Channel) -> None:
    async with channel.stream(JOIN) as call:
        for _ in range(20):
            await call.send(value(bytes(10_000)))
        await call.reply()


async def chat(channel: Channel) -> None:
    async with channel.stream(CHAT) as call:
        for _ in range(5):
            await call.send(value(b"hi"))
            await call.receive()
        await call.finish_sending()
        assert await call.receive() is None


async def ended(both: Pair, scenario: Scenario, step: int) -> bool:
    """Whether the scenario came to its end before that step."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await scenario(both.channel)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return not scope.cancelled_caught


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [say, large, count, join, chat])
@pytest.mark.parametrize("connected", [False, True])
async def test_a_call_cancelled_at_any_step_leaves_nothing_behind(scenario: Scenario, connected: bool) -> None:
    steps = 0
    async with pair() as both:
        while True:
            steps += 1
            assert steps < STEPS_MAX
            channel = both.channel
            if not connected:
                both.channel = Channel.to(both.node.address, both.node.running.reactor, both.node.running.timers)
            over = await ended(both, scenario, steps)
            assert (await both.channel.unary(SAY, value(b"still there"))).value == b"still there"
            await wait_until(lambda: all(each.idle for each in both.node.connections), "no stream is left")
            if not connected:
                both.channel.close()
                both.channel = channel
            if over:
                break
    assert steps > 1
    assert both.node.log.events == []
    assert not both.node.running.crashes
