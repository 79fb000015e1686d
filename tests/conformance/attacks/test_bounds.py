"""What a client may do, and must not make the node pay for: vast settings, tiny frames, tiny windows, many bodies,
many connections. Nothing here is cut; what it costs has a bound, stated with each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
import trio

from tests.conformance.attacks.victim import Victim, bystanders
from tests.conformance.http2.frames import (
    FRAME_BYTES,
    WINDOW,
    WINDOW_MAX,
    Kind,
    Setting,
    data,
    settings,
    window_update,
)
from tests.conformance.http2.raw_peer import RawPeer
from tests.conformance.nodes import PORTS, Nodes, running_nodes

_MIB: Final = 2**20
_BODY_BYTES_MAX: Final = 2 * _MIB
_CONNECTIONS: Final = 200


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    limits = {"body_bytes_max": _BODY_BYTES_MAX, "connections_max": _CONNECTIONS + 1}
    with running_nodes(tmp_path_factory.mktemp("small"), limits) as found:
        yield found


@pytest.fixture(params=PORTS)
def bounded(request: pytest.FixtureRequest, small: Nodes) -> Victim:
    daemon = small.fleet.gpus[0] if request.param == "mesh-mtls" else small.fleet.router
    return Victim(daemon, small.port(request.param))


class _Growth:
    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        victim.reset_peak()
        self._before = victim.rss_bytes()

    @property
    def mib(self) -> float:
        return (self._victim.peak_bytes() - self._before) / _MIB


async def test_vast_settings_cost_nothing(victim: Victim) -> None:
    """500 answers under the largest value of everything, with 200 different header lists: 4 MiB at most, frames of
    16 KiB at most."""
    growth = _Growth(victim)
    async with victim.port.peer() as peer:
        await peer.greet(
            (Setting.HEADER_TABLE_SIZE, 2**32 - 1),
            (Setting.MAX_CONCURRENT_STREAMS, 2**32 - 1),
            (Setting.INITIAL_WINDOW_SIZE, WINDOW_MAX),
            (Setting.MAX_FRAME_SIZE, 2**24 - 1),
            (Setting.MAX_HEADER_LIST_SIZE, 2**32 - 1),
        )
        await peer.send(window_update(0, WINDOW_MAX - WINDOW))
        for number in range(500):
            await peer.send(peer.get(2 * number + 1, (b"x-request-id", b"%d" % (number % 200))))
            assert (await peer.response(2 * number + 1)).status == victim.port.status
            assert all(len(each.payload) <= FRAME_BYTES for each in peer.seen)
            peer.forget()
    assert growth.mib <= 4


async def test_a_body_of_tiny_frames_is_taken_for_what_it_is(victim: Victim) -> None:
    """20,000 octets in frames of one each, on each of four streams: 4 MiB at most, and every request is answered."""
    growth = _Growth(victim)
    async with bystanders(victim.port), victim.port.peer() as peer:
        await peer.greet()
        streams = (1, 3, 5, 7)
        await peer.send(*map(peer.post, streams))
        await peer.flood(data(stream_id, b"x") for _ in range(20_000) for stream_id in streams)
        await peer.send(*(data(stream_id, b"", end=True) for stream_id in streams))
        for stream_id in streams:
            assert (await peer.response(stream_id)).status in (400, 404, 405)
    assert growth.mib <= 4


async def test_windows_of_one_octet_are_served_octet_by_octet(victim: Victim) -> None:
    """An answer drawn through windows of one, each opened when the last is used: it comes, and nobody waits for it."""
    async with bystanders(victim.port), victim.port.peer() as peer:
        await peer.greet()
        await peer.send(peer.get(1))
        whole = (await peer.response(1)).body
        await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 1)), peer.get(3))
        for _ in range(len(whole)):
            (*_, each) = await peer.until(lambda each: each.kind == Kind.DATA)
            assert len(each.payload) == 1
            if not each.ends_stream:
                await peer.send(window_update(3, 1))
        assert (await peer.response(3)).body == whole


async def test_bodies_under_way_on_one_connection_have_a_bound(bounded: Victim) -> None:
    """Sixty bodies that are never ended, as much of each as its first window holds: as much is kept as four of the
    largest have, the others are refused. 8 MiB, and as much again for what is on its way and for the copies of a
    growing buffer."""
    growth = _Growth(bounded)
    async with bystanders(bounded.port), bounded.port.peer() as peer:
        await peer.greet()
        window = peer.server_settings.get(Setting.INITIAL_WINDOW_SIZE, WINDOW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_bodies, peer, window)
            for _ in range(20):
                await peer.until(lambda each: each.kind == Kind.HEADERS)
            nursery.cancel_scope.cancel()
    assert growth.mib <= 2 * 4 * _BODY_BYTES_MAX / _MIB, f"{growth.mib:.1f} MiB"
    assert bounded.counted("bodies_in_flight") > 0


async def _send_bodies(peer: RawPeer, window: int) -> None:
    for stream_id in range(1, 120, 2):
        await peer.send(peer.post(stream_id))
        for _ in range(window // FRAME_BYTES):
            await peer.send(data(stream_id, bytes(FRAME_BYTES)))


async def test_connections_over_the_limit_are_closed_and_the_others_are_served(bounded: Victim) -> None:
    """As many as are allowed, each with its first request answered: 80 KiB for each at most (a TLS session has 40)."""
    growth = _Growth(bounded)
    async with trio.open_nursery() as nursery:
        held = trio.Event()
        ready = trio.Event()
        waiting = [_CONNECTIONS]

        async def hold() -> None:
            async with bounded.port.peer() as peer:
                await peer.greet()
                await peer.send(peer.get(1))
                await peer.response(1)
                waiting[0] -= 1
                if not waiting[0]:
                    ready.set()
                await held.wait()

        for _ in range(_CONNECTIONS):
            nursery.start_soon(hold)
        with trio.fail_after(30):
            await ready.wait()
        grown = growth.mib * 1024 / _CONNECTIONS
        held.set()
    assert grown <= 80, f"{grown:.0f} KiB for each"
