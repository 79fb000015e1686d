"""Everything that is begun and never ended, on all ports at once, several times each: an end is put to all of it.

The nodes here are in a hurry (`_HURRY`), so that the whole takes as long as the longest wait that cannot be set: 30 s
for a stream whose windows let nothing out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest
import trio

from tests.conformance.attacks.stalls import STALLS, Stall, reads_nothing
from tests.conformance.attacks.victim import Victim, bystanders
from tests.conformance.http2.port import Port
from tests.conformance.nodes import PORTS, Nodes, running_nodes

_HURRY: Final = {"head_timeout_s": 2.0, "body_timeout_s": 2.0, "idle_timeout_s": 4.0, "send_timeout_s": 4.0}
_COPIES: Final = 4
GROWTH_BYTES_MAX: Final = 24 * 2**20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with running_nodes(tmp_path_factory.mktemp("hurried"), _HURRY) as found:
        yield found


def _victims(nodes: Nodes) -> list[Victim]:
    gpu, router = nodes.fleet.gpus[0], nodes.fleet.router
    return [Victim(gpu if name == "mesh-mtls" else router, nodes.port(name)) for name in PORTS]


async def test_every_stall_comes_to_its_end_and_disturbs_nobody(hurried: Nodes) -> None:
    victims = _victims(hurried)
    playing = [
        (victim, stall)
        for victim in victims
        for stall in STALLS
        if not (stall.plain_only and victim.port.tls is not None)
        and not (stall.clients_only and victim.label == "mesh")
        for _ in range(_COPIES)
    ]
    expected: Counter[tuple[str, str]] = Counter()
    for victim, stall in playing:
        if reason := stall.reason_on(victim.port):
            expected[victim.label, reason] += stall.times
    before = _counts(victims, expected)
    memory = {victim.label: victim.rss_bytes() for victim in victims}
    for victim in victims:
        victim.reset_peak()
    async with bystanders(*(victim.port for victim in victims)), trio.open_nursery() as nursery:
        for victim, stall in playing:
            nursery.start_soon(_play, stall, victim.port)
    grown = {victim.label: victim.peak_bytes() - memory[victim.label] for victim in victims}
    now = _counts(victims, expected)
    assert {key: now[key] - before[key] for key in expected} == dict(expected)
    assert max(grown.values()) <= GROWTH_BYTES_MAX, grown


def _counts(victims: list[Victim], wanted: Counter[tuple[str, str]]) -> dict[tuple[str, str], float]:
    by_label = {victim.label: victim for victim in victims}
    return {(label, reason): by_label[label].counted(reason) for label, reason in wanted}


async def _play(stall: Stall, port: Port) -> None:
    try:
        await stall.play(port)
    except Exception as error:
        error.add_note(f"while one {stall} on {port.name}")
        raise


async def test_a_client_that_reads_nothing_is_cut_off_and_takes_no_memory(hurried: Nodes) -> None:
    reasons = ("send_timed_out", "refused_streams", "unsent_control")
    for victim in _victims(hurried):
        before = sum(map(victim.counted, reasons))
        victim.reset_peak()
        memory = victim.rss_bytes()
        async with bystanders(victim.port), trio.open_nursery() as nursery:
            for _ in range(_COPIES):
                nursery.start_soon(reads_nothing, victim.port)
        assert victim.peak_bytes() - memory <= GROWTH_BYTES_MAX
        assert sum(map(victim.counted, reasons)) == before + _COPIES
