"""When a connection of a client counts as idle: not while it asks, and not while an answer of it is under way."""

from __future__ import annotations

import trio

from infermesh.net.http1 import ServerLimits
from infermesh.testing.h2_peer import H2Client
from tests.net.http2.serving import serving


async def test_a_client_that_asks_now_and_then_is_never_idle() -> None:
    """Each of its requests is answered within the read that brought it."""
    async with (
        serving(limits=ServerLimits(idle_timeout_s=0.2)) as served,
        await H2Client.dial(served.address) as client,
    ):
        until = trio.current_time() + 0.5
        while trio.current_time() < until:
            assert (await client.fetch("GET", "/")).status == 200
            await trio.sleep(0.01)
        assert not client.goaways


async def test_an_answer_that_waits_for_windows_is_no_idleness() -> None:
    async with (
        serving(limits=ServerLimits(idle_timeout_s=0.05)) as served,
        await H2Client.dial(served.address, credits=False) as client,
    ):
        stream_id = await client.ask("GET", "/big?70000")
        stream = client.of(stream_id)
        await client.read_until(lambda: len(stream.body) == 65_535)
        await trio.sleep(0.2)
        client.machine.increment_flow_control_window(10_000)
        client.machine.increment_flow_control_window(10_000, stream_id)
        await client.flush()
        await client.read_until(lambda: stream.ended)
        assert len(stream.body) == 70_000
        assert not client.goaways
