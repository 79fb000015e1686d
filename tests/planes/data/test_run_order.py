"""A run whose events come in an unlucky order: its connection's task is busy, its time is up, its client leaves."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from infermesh.net.http1 import ServerConnection
from infermesh.net.pool import PoolLimits, UpstreamPool
from infermesh.planes.data.run import Attempt, Run
from infermesh.testing.http_peer import PeerAnswer, PeerRequest, PeerResponse
from tests.planes.data.test_run import CHUNKED, SSE, Bench, bench, never, says
from wire.http1 import ResponseHead


@asynccontextmanager
async def unreachable() -> AsyncIterator[tuple[str, int]]:
    """An address where a connection is neither taken nor refused: its queue is full, the next one stays in SYN_SENT."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    yield full.getsockname()
    for sock in [full, *fillers]:
        sock.close()


def pool_to(address: tuple[str, int], held: Bench) -> UpstreamPool:
    limits = PoolLimits(connect_timeout_s=30)
    return UpstreamPool(address, held.running.reactor, held.running.timers, limits=limits)


@asynccontextmanager
async def stale(others: Sequence[PeerAnswer] = (), **changes: float) -> AsyncIterator[tuple[Bench, trio.Event]]:
    """The kept connection of the first target dies under the request, while the client connection's task is busy
    until the event is set."""
    free = trio.Event()

    async def first(request: PeerRequest, response: PeerResponse) -> None:
        if len(held.peers[0].requests) == 2:
            await response.abort()
        else:
            await response.send(b"fine")

    async def busy() -> None:
        await free.wait()

    def ask_while_busy(connection: ServerConnection) -> None:
        connection.hand_over(busy)

    async with bench([first, *others], **changes) as held:
        spare = await held.pools[0].acquire(math.inf)
        used = await held.pools[0].acquire(math.inf)
        held.pools[0].give_back(spare)
        held.pools[0].give_back(used)
        await held.ask()
        assert (await held.answer()).endswith(b"fine")
        ask_while_busy(held.connections[-1])
        await held.ask()
        with trio.fail_after(5):
            while not held.host.stale:
                await trio.lowlevel.checkpoint()
        yield held, free


async def test_an_attempt_that_waits_for_its_second_connection_is_not_begun_anew_when_time_is_up() -> None:
    async with stale(first_byte_s=0.1) as (held, free):
        assert (await held.answer()).startswith(b"HTTP/1.1 502")
        assert held.host.dispatched == 2
        assert held.host.ended == [("gpu-0", "ok"), ("gpu-0", "cancelled")]
        free.set()


async def test_a_hedge_that_comes_due_while_another_attempt_waits_for_the_task_waits_behind_it() -> None:
    async with stale([never], hedge_after_s=0.05) as (held, free):
        await trio.sleep(0.1)
        assert held.host.dispatched == 2
        free.set()
        assert (await held.answer()).endswith(b"fine")
        assert ("gpu-0", "ok") in held.host.ended[1:]


async def test_a_win_stops_the_reopening_of_a_stale_connection() -> None:
    async with unreachable() as address, stale([says(b"quick")], hedge_after_s=0.05) as (held, free):
        held.pools[0]._address = address
        held.pools[1].give_back(await held.pools[1].acquire(math.inf))
        free.set()
        with trio.fail_after(2):
            assert (await held.answer()).endswith(b"quick")
            while held.pools[0].open_len != held.pools[0].idle_len:
                await trio.lowlevel.checkpoint()


async def test_a_client_in_a_hurry_is_not_held_against_the_target_that_is_being_connected_to() -> None:
    async with unreachable() as address, bench([never], first_byte_s=0.05) as held:
        held.pools[0] = pool_to(address, held)
        for _ in range(4):
            await held.ask()
            assert b"no first byte in time" in await held.answer()
        assert held.host.ended == [("gpu-0", "cancelled")] * 4


@pytest.mark.parametrize("hedge_after_s", [math.inf, 0.02])
async def test_an_empty_body_that_ends_with_the_connection_is_an_answer(hedge_after_s: float) -> None:
    async def empty(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\nx-from: first\r\n\r\n")
        await trio.sleep(0.1)
        await response.abort()

    async def late(request: PeerRequest, response: PeerResponse) -> None:
        await trio.sleep(0.15)
        await response.send(b"a second answer to one request")

    async with bench([empty, late], hedge_after_s=hedge_after_s) as held:
        await held.ask()
        answer = await held.answer()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"x-from: first\r\n" in answer
        assert answer.endswith(b"\r\n\r\n0\r\n\r\n")
        assert held.host.ended[-1] == ("gpu-0", "ok")


async def test_a_client_that_is_gone_at_the_first_word_of_a_body_framed_anew_ends_the_run_quietly() -> None:
    async def until_close(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await response.wait_gone()

    def leave(run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        held.client.socket.close()
        return []

    async with bench([until_close]) as held:
        held.host.response_lines = leave  # type: ignore[method-assign]
        await held.ask()
        with trio.fail_after(5):
            await held.idle.wait()
        assert held.host.ended == [("gpu-0", "cancelled")]


@pytest.mark.parametrize(
    ("version", "head"),
    [
        (b"1.0", b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"),
        (b"1.0", b"content-type: text/event-stream\r\n\r\ndata: 1\n\n"),
        (b"1.1", b"content-type: text/event-stream\r\n\r\ndata: 1\n\n"),
    ],
)
async def test_a_stream_that_is_framed_anew_and_breaks_ends_in_an_error_event_too(version: bytes, head: bytes) -> None:
    async def stalling(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 200 OK\r\n" + head)
        await response.wait_gone()

    async with bench([stalling]) as held:
        held.limits.stall_timeout_s = 0.05
        await held.ask(version=version)
        body = (await held.answer()).partition(b"\r\n\r\n")[2]
        assert b"data: 1\n\n" in body
        assert b'"code":"stream_broken"' in body
        assert not body.endswith(b"0\r\n\r\n")


async def test_when_a_pool_is_closed_the_streams_through_it_break_off_aloud() -> None:
    async def flowing(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [SSE, CHUNKED])
        await response.write(b"data: 1\n\n")
        await response.wait_gone()

    async with bench([flowing]) as held:
        await held.ask()
        first = await held.client.receive_some()
        held.pools[0].close()
        assert b'"code":"stream_broken"' in first + await held.answer()
        assert held.host.ended == [("gpu-0", "broken")]
