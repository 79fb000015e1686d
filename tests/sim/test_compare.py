from infermesh.sim.compare import compare_policies
from infermesh.sim.fleet import FleetConfig
from infermesh.sim.node import make_nodes
from infermesh.sim.report import to_json
from infermesh.sim.trace import TraceRequest
from infermesh.sim.workload import make_workload

WORKLOAD = make_workload([TraceRequest(0.2 * number, 500 + 40 * number, 20, (0, number)) for number in range(60)])
CONFIG = FleetConfig(nodes=make_nodes("1,0.5"), seed=2)
POLICIES = ("predicted_ms", "power_of_two", "round_robin")


def test_policies_are_compared_on_the_same_requests_in_the_order_asked() -> None:
    reports = compare_policies(POLICIES, CONFIG, WORKLOAD, ttft_slo_ms=500.0, token_gap_slo_ms=50.0)
    assert [report.policy for report in reports] == list(POLICIES)
    assert {report.arrived for report in reports} == {60}
    assert {report.completion_rate for report in reports} == {1.0}
    assert {(report.seed, report.ttft_slo_ms, report.token_gap_slo_ms) for report in reports} == {(2, 500.0, 50.0)}


def test_the_same_comparison_is_the_same_bytes() -> None:
    first, second = (to_json(compare_policies(POLICIES, CONFIG, WORKLOAD)) for _ in range(2))
    assert first == second


def test_the_order_of_policies_does_not_change_their_figures() -> None:
    forwards = compare_policies(POLICIES, CONFIG, WORKLOAD)
    backwards = compare_policies(POLICIES[::-1], CONFIG, WORKLOAD)
    assert forwards == backwards[::-1]
