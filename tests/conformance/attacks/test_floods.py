"""Every flood of `floods.py` against every port: cut with its code, counted once, cheap in memory, nobody disturbed.

Memory: while 20,000 frames (or as many as the server takes) come in, the process may grow by GROWTH_BYTES_MAX. Most of
that is not the attack's: the allocator keeps what the bystanders' answers took, and pages that were given back once
are touched again. What it costs in processor time is measured by tests/bench/attacks.
"""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from tests.conformance.attacks.floods import FLOODS, Flood
from tests.conformance.attacks.victim import Victim, bystanders

GROWTH_BYTES_MAX: Final = 8 * 2**20


@pytest.mark.parametrize("flood", FLOODS, ids=str)
async def test_a_flood_is_cut_with_its_reason_and_disturbs_nobody(victim: Victim, flood: Flood) -> None:
    counted = victim.counted(flood.reason)
    async with bystanders(victim.port):
        victim.reset_peak()
        before = victim.rss_bytes()
        async with victim.port.peer() as peer:
            await peer.greet()
            await peer.flood(flood.frames(peer))
            await peer.connection_error(flood.code)
        grown = victim.peak_bytes() - before
    assert victim.counted(flood.reason) == counted + 1
    assert grown <= GROWTH_BYTES_MAX, f"{grown / 2**20:.1f} MiB"


async def test_attackers_that_leave_in_the_midst_of_it_leave_nothing_behind(victim: Victim) -> None:
    async with bystanders(victim.port):
        for flood in FLOODS:
            async with victim.port.peer() as peer:
                await peer.greet()
                await peer.send(*itertools.islice(flood.frames(peer), 30))
    async with victim.port.peer() as peer:
        await peer.greet()
        await peer.send(peer.get(1))
        assert (await peer.response(1)).status == victim.port.status
