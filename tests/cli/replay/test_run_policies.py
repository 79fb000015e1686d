"""Recorded traces through a mesh of real daemons: nothing is lost, and prediction beats taking turns.

Both policies run on the same fleet of three unequal emulated engines, in the same run, trace by trace. The bounds are
half of what is measured on two cores (p90 of TTFT 3 to 5 times lower): a busy machine blurs, it does not turn round.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.cli.fleet.launch import Fleet, FleetOptions, open_fleet
from infermesh.cli.replay.plan import Arrival, PlanOptions, plan_arrivals
from infermesh.cli.replay.report import ReplayReport, make_report
from infermesh.cli.replay.run import RunOptions, replay
from infermesh.cli.trace_file import read_trace

TRACES = Path(__file__).parents[2] / "fixtures" / "traces"
PLANS = {
    # 6,900 prompt tokens at the median: a quarter of it is what two cores can carry as bytes.
    "mooncake": (
        TRACES / "mooncake_conversation_300.jsonl",
        PlanOptions(speed=2.0, span_s_max=10.0, output_tokens_max=64),
        0.25,
    ),
    "azure": (TRACES / "azure_llm_2023_code_300.csv", PlanOptions(speed=4.0, span_s_max=8.5), 0.5),
}
BETTER_BY = 1.5


def _told(_step: str) -> None:
    """Nobody watches."""


async def _play(fleet: Fleet, plan: tuple[Arrival, ...], scale: float) -> ReplayReport:
    options = RunOptions(target=fleet.plan.client_url, prompt_scale=scale)
    result = await replay(plan, options, progress=False)
    return make_report(result.ledger, sent=result.sent, ttft_slo_ms=2_000.0, itl_slo_ms=100.0)


@pytest.mark.slow
async def test_predicted_milliseconds_beat_round_robin_on_both_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERMESH_ROUTING__POLICY", "predicted_ms")
    async with open_fleet(FleetOptions(folder=tmp_path / "predicted"), _told) as predicted:
        monkeypatch.setenv("INFERMESH_ROUTING__POLICY", "round_robin")
        async with open_fleet(FleetOptions(folder=tmp_path / "turns"), _told) as turns:
            for name, (file, options, scale) in PLANS.items():
                plan = plan_arrivals(read_trace(file), options)
                reports = {
                    "predicted_ms": await _play(predicted, plan, scale),
                    "round_robin": await _play(turns, plan, scale),
                }
                for policy, report in reports.items():
                    assert report.arrived == report.completed + report.rejected == len(plan), (name, policy, report)
                    assert report.completion_rate > 0.99
                p90 = {policy: report.ttft_ms.p90 for policy, report in reports.items()}
                assert p90["predicted_ms"] * BETTER_BY < p90["round_robin"], (name, p90)
