"""Several policies on the same fleet, workload and seed: the comparison behind `mesh sim routing`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from infermesh.sim.fleet import FleetConfig, simulate
from infermesh.sim.report import FleetReport, make_report
from infermesh.sim.workload import SimRequest


def compare_policies(
    policies: Sequence[str],
    config: FleetConfig,
    workload: Sequence[SimRequest],
    *,
    ttft_slo_ms: float = 2_000.0,
    token_gap_slo_ms: float = 100.0,
) -> tuple[FleetReport, ...]:
    """One report per policy, in the order given. Raises `ConservationError` if any run does not add up."""
    reports: list[FleetReport] = []
    for policy in policies:
        routing = dataclasses.replace(config.routing, policy=policy)
        ledger = simulate(dataclasses.replace(config, routing=routing), workload)
        reports.append(
            make_report(
                ledger,
                policy=policy,
                seed=config.seed,
                routers=config.routers,
                ttft_slo_ms=ttft_slo_ms,
                token_gap_slo_ms=token_gap_slo_ms,
            )
        )
    return tuple(reports)
