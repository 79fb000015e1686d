from __future__ import annotations

import math
import ssl
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from infermesh.core.model.names import NodeId
from infermesh.net.http1.client import UpstreamConnection
from infermesh.net.pool import ConnectFailed, PoolLimits, PoolPlan, UpstreamPool
from infermesh.net.tls import TlsEpoch
from infermesh.net.tls_session import TlsSession
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.reactors import RunningReactor, running_reactor


async def silent(request: PeerRequest, response: PeerResponse) -> None:
    await response.wait_gone()


def pool_to(peer: HttpPeer, running: RunningReactor, **limits: float) -> UpstreamPool:
    bounds = PoolLimits(
        connections_max=int(limits.get("connections_max", 10)),
        idle_max=int(limits.get("idle_max", 10)),
        idle_timeout_s=limits.get("idle_timeout_s", 60.0),
        connect_timeout_s=limits.get("connect_timeout_s", 2.0),
    )
    return UpstreamPool((peer.host, peer.port), running.reactor, running.timers, limits=bounds)


def test_the_plan_hands_out_the_newest_and_gives_up_the_oldest() -> None:
    plan: PoolPlan[str] = PoolPlan(PoolLimits(connections_max=3, idle_max=2))
    plan.opened = 3
    assert [plan.put("a"), plan.put("b"), plan.put("c")] == [None, None, "a"]
    assert not plan.may_open()
    plan.drop("a")
    assert plan.may_open()
    assert [plan.take_idle(), plan.take_idle(), plan.take_idle()] == ["c", "b", None]


def test_dropping_more_than_was_opened_is_a_defect() -> None:
    plan: PoolPlan[str] = PoolPlan(PoolLimits())
    with pytest.raises(AssertionError):
        plan.drop("never opened")


async def test_a_connection_given_back_is_used_again() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running)
        first = await pool.acquire(math.inf)
        pool.give_back(first)
        assert pool.idle_len == 1
        assert await pool.acquire(math.inf) is first
        assert await pool.acquire(math.inf) is not first
        assert pool.open_len == 2
        pool.close()
        assert pool.open_len == 0
        nursery.cancel_scope.cancel()


async def test_beyond_the_bound_callers_wait_in_line_until_one_is_free() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running, connections_max=1)
        only = await pool.acquire(math.inf)
        got: list[UpstreamConnection] = []

        async def want() -> None:
            got.append(await pool.acquire(math.inf))

        async with trio.open_nursery() as waiting:
            waiting.start_soon(want)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            pool.give_back(only)
        assert got == [only]
        pool.close()
        nursery.cancel_scope.cancel()


async def test_a_caller_that_waits_past_its_deadline_is_told_the_setting() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running, connections_max=1)
        await pool.acquire(math.inf)
        with pytest.raises(ConnectFailed, match="connections_max"):
            await pool.acquire(trio.current_time() + 0.05)
        pool.close()
        nursery.cancel_scope.cancel()


async def test_a_caller_that_wants_a_fresh_one_at_the_bound_gets_the_place_of_an_idle_one() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running, connections_max=1)
        kept = await pool.acquire(math.inf)
        pool.give_back(kept)
        with trio.fail_after(1):
            assert await pool.acquire(math.inf, fresh=True) is not kept
        assert kept.closed
        assert pool.open_len == 1
        pool.close()
        nursery.cancel_scope.cancel()


async def test_a_refused_connection_is_a_plain_error_and_leaves_no_slot_taken() -> None:
    async with running_reactor() as running:
        pool = UpstreamPool(("127.0.0.1", 1), running.reactor, running.timers, limits=PoolLimits(connections_max=1))
        for _ in range(3):
            with pytest.raises(ConnectFailed, match="Connection refused"):
                await pool.acquire(math.inf)
        assert pool.open_len == 0


async def test_cancelling_a_caller_leaves_no_slot_taken() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running)
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.acquire(math.inf)
        assert pool.open_len == 0
        nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_closed_after_its_time_and_forgotten() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running, idle_timeout_s=0.05)
        pool.give_back(await pool.acquire(math.inf))
        with trio.fail_after(5):
            while pool.open_len:
                await trio.sleep(0.01)
        assert pool.idle_len == 0
        nursery.cancel_scope.cancel()


class Passing:
    """Admits whoever answers, for `left_s` seconds from now."""

    def __init__(self, epoch: TlsEpoch, left_s: float) -> None:
        self._epoch = epoch
        self._left_s = left_s

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._epoch.connect(NodeId("gpu-a"), incoming, outgoing)

    def admit(self, tls: TlsSession) -> None:
        tls.retire_at = trio.current_time() + self._left_s

    def remember(self, tls: TlsSession) -> None: ...
    def failed(self, why: str) -> None: ...


@pytest.mark.parametrize("idle", [True, False])
async def test_no_exchange_begins_on_a_connection_whose_peers_certificate_has_ended(
    tmp_path: Path, *, idle: bool
) -> None:
    domain = TrustDomain(tmp_path)
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(partial(serve_http_peer, silent, tls=domain.epoch("gpu-a").server))
        secure = Passing(domain.epoch("edge"), 0.1)
        pool = UpstreamPool((peer.host, peer.port), running.reactor, running.timers, limits=PoolLimits(), secure=secure)
        up = await pool.acquire(math.inf)
        if idle:
            pool.give_back(up)
            assert pool.idle_len == 1
        with trio.fail_after(5):
            while pool.open_len and running.timers.now() < up.tls.retire_at + 0.05:  # type: ignore[union-attr]
                await trio.sleep(0.01)
        if not idle:
            assert not up.closed
            pool.give_back(up)
        assert up.closed
        assert pool.open_len == 0
        nursery.cancel_scope.cancel()


async def test_an_idle_connection_that_the_peer_closes_is_forgotten_at_once() -> None:
    async with running_reactor() as running, trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, silent)
        pool = pool_to(peer, running)
        pool.give_back(await pool.acquire(math.inf))
        assert pool.idle_len == 1
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(5):
            while pool.open_len:
                await trio.lowlevel.checkpoint()
        assert pool.idle_len == 0
