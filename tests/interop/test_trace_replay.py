"""Recorded traces through one fleet of real daemons, by two policies: nothing is lost, and prediction beats turns.

The fleet is the benchmark's (`scripts/bench replay`), smaller and more unequal, so that the outcome is not a matter of
how busy this machine is: turns give the slowest node more than it can carry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from infermesh.cli.trace_file import read_trace
from infermesh.sim.node import make_nodes
from tests.bench.replay.arm import Arm, ArmOptions, Objectives, play
from tests.bench.replay.mesh import open_mesh
from tests.bench.replay.slices import Slice, SliceOptions, cut, prompt_tokens_per_s

TRACES: Final = Path(__file__).parents[1] / "fixtures" / "traces"
POLICIES: Final = ("predicted_ms", "round_robin")
# Engines in the ratio 1 : 0.5 : 0.2, ten times as fast as the hardware, so that seconds hold enough requests.
NODES: Final = make_nodes("10,5,2")
OPTIONS: Final = SliceOptions(load=0.6, seconds=3.0, output_tokens_max=48)
OBJECTIVES: Final = Objectives(ttft_ms=200.0, gap_ms=10.0)
# Trace and the request to begin with: Azure's first hundred come as one burst, which fills any fleet.
SLICES: Final = (("azure_llm_2023_code_300.csv", 110), ("mooncake_conversation_300.jsonl", 60))
# Measured and simulated: 0.15 to 0.35, depending on whose turn the largest prompts are. A busy machine adds about the
# same milliseconds to both.
RATIO_MAX: Final = 0.65


def _slice(name: str, first: int) -> Slice:
    return cut(name, read_trace(TRACES / name), first, prompt_tokens_per_s(NODES), OPTIONS)


def _told(_step: str) -> None:
    """Nobody watches."""


def _check_accounts(arm: Arm, piece: Slice) -> None:
    """Clients, router and engines agree on every request."""
    seen, told = arm.clients, arm.router
    assert arm.faults == []
    assert seen.arrived == told.requests == len(piece.arrivals)
    assert seen.completed == told.completed == seen.arrived, (seen.causes, seen.examples)
    assert sum(node.won for node in arm.nodes.values()) == seen.completed
    assert seen.nodes == {name: node.won for name, node in arm.nodes.items() if node.won}


@pytest.mark.slow
async def test_every_request_of_both_traces_is_accounted_for_and_predicted_ms_beats_round_robin(
    tmp_path: Path,
) -> None:
    async with open_mesh(NODES, POLICIES, tmp_path, _told) as mesh:
        for number, (name, first) in enumerate(SLICES):
            piece = _slice(name, first)
            p90_ms: dict[str, float] = {}
            for policy in POLICIES:
                arm = await play(mesh, piece, ArmOptions(policy=policy, round=0, seed=number, objectives=OBJECTIVES))
                _check_accounts(arm, piece)
                p90_ms[policy] = arm.clients.ttft_ms.p90
            assert p90_ms["predicted_ms"] < RATIO_MAX * p90_ms["round_robin"], (name, p90_ms)
