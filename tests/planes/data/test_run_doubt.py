"""A run whose node is held for dead while its connection says nothing: a node that hangs, or a cut network."""

from __future__ import annotations

import pytest
import trio

from infermesh.testing.http_peer import PeerRequest, PeerResponse
from tests.planes.data.test_run import CHUNKED, SSE, bench, never, says

WHY = "the node is held for dead: no state for 3.0 s"


async def test_an_attempt_without_a_first_byte_goes_to_the_next_node_at_once() -> None:
    async with bench([never, says(b"hello")]) as held:
        await held.ask()
        with trio.fail_after(5):
            while not held.peers[0].connections:
                await trio.lowlevel.checkpoint()
        held.pools[0].doubt(WHY)
        assert (await held.answer()).endswith(b"hello")
        assert held.host.ended == [("gpu-0", "broken"), ("gpu-1", "ok")]
        assert held.pools[0].open_len == 0


@pytest.mark.slow
async def test_a_stream_that_shows_no_further_byte_ends_with_an_error_event_and_no_clean_end() -> None:
    async def hang(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await response.wait_gone()

    async with bench([hang, says(b"hello")]) as held:
        await held.ask()
        with trio.fail_after(5):
            first = await held.client.receive_some()
        held.pools[0].doubt(WHY)
        answer = first + await held.answer()
        assert b"data: 1\n\n" in answer
        assert b'"code":"stream_broken"' in answer
        assert WHY.encode() in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert held.host.ended == [("gpu-0", "broken")]


@pytest.mark.slow
async def test_a_stream_that_flows_on_is_left_alone() -> None:
    doubted = trio.Event()

    async def flow(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await doubted.wait()
        for number in range(2, 6):
            await response.write(b"data: %d\n\n" % number)
            await trio.sleep(0.3)
        await response.finish()

    async with bench([flow]) as held:
        await held.ask()
        with trio.fail_after(5):
            first = await held.client.receive_some()
        held.pools[0].doubt(WHY)
        doubted.set()
        answer = first + await held.answer()
        assert b"data: 5\n\n" in answer
        assert answer.endswith(b"0\r\n\r\n")
        assert held.host.ended == [("gpu-0", "ok")]


async def test_what_idles_towards_the_node_is_closed_and_a_later_request_dials_anew() -> None:
    async with bench([says(b"hello")]) as held:
        await held.ask()
        await held.answer()
        assert held.pools[0].idle_len == 1
        held.pools[0].doubt(WHY)
        assert held.pools[0].open_len == 0
        await held.ask()
        assert (await held.answer()).endswith(b"hello")
        assert held.peers[0].connections == 2
