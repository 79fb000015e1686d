"""What the simulator says of the same slices on the same fleet: the real figures are read beside it. Pure.

The simulator runs the daemon's own choice on virtual time. It has neither hedges nor admission, and routers that meet
the fleet for the first time; where the two disagree on which policy wins, one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from infermesh.sim.compare import compare_policies
from infermesh.sim.fleet import FleetConfig
from infermesh.sim.node import NodeSpec
from infermesh.sim.report import FleetReport
from infermesh.sim.workload import make_workload
from tests.bench.replay.arm import Objectives
from tests.bench.replay.slices import Slice, as_trace


def foretell(
    piece: Slice, specs: Sequence[NodeSpec], policies: Sequence[str], objectives: Objectives, *, seed: int
) -> dict[str, FleetReport]:
    """By policy."""
    reports = compare_policies(
        policies,
        FleetConfig(nodes=tuple(specs), seed=seed),
        make_workload(as_trace(piece)),
        ttft_slo_ms=objectives.ttft_ms,
        token_gap_slo_ms=objectives.gap_ms,
    )
    return {report.policy: report for report in reports}
