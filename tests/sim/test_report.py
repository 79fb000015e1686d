import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import NodeId
from infermesh.core.routing.plan import Prediction
from infermesh.sim.ledger import Ledger, Status
from infermesh.sim.node import make_nodes
from infermesh.sim.report import FleetReport, Percentiles, make_report, percentiles, quantile, to_json, to_text
from infermesh.sim.trace import TraceRequest
from infermesh.sim.workload import make_workload


def _prediction(ttft_ms: float) -> Prediction:
    return Prediction(ttft_ms, 0, 0, 0, 0, 0, 0, 0, 0, 3 * ttft_ms, 0, 0, 0, 0, 1.0)


def _report() -> FleetReport:
    """Four requests on two nodes: three completed after 100, 200 and 400 ms, one cancelled."""
    ledger = Ledger(make_nodes("1,0.5"))
    trace = [TraceRequest(float(number), 1000, 11, ()) for number in range(4)]
    for request, ttft_s in zip(make_workload(trace), (0.1, 0.2, 0.4, 0.0), strict=True):
        passage = ledger.arrive(request, 0, request.arrival_s)
        ledger.dispatch(passage, NodeId("gpu-1" if request.number == 2 else "gpu-0"), _prediction(100.0))
        if ttft_s:
            passage.first_byte_s = request.arrival_s + ttft_s
            passage.cached_tokens = 512
            ledger.end(passage, Status.COMPLETED, passage.first_byte_s + 0.5)
        else:
            ledger.end(passage, Status.CANCELLED, request.arrival_s + 0.9)
    ledger.close(10.0)
    ledger.busy_s = {NodeId("gpu-0"): 2.0, NodeId("gpu-1"): 1.0}
    return make_report(ledger, policy="predicted_ms", seed=3, routers=1, ttft_slo_ms=250.0, token_gap_slo_ms=100.0)


def test_percentiles_are_of_the_completed_and_the_rate_stands_beside_them() -> None:
    report = _report()
    assert report.ttft_ms == Percentiles(p50=200.0, p90=400.0, p99=400.0, mean=233.333333)
    assert (report.arrived, report.completed, report.cancelled) == (4, 3, 1)
    assert report.completion_rate == 0.75
    assert report.token_gap_ms.p50 == 50.0
    assert report.total_ms.p99 == 900.0
    assert report.prefix_hit_rate == 0.512


def test_goodput_is_a_share_of_what_arrived() -> None:
    assert _report().goodput == 0.5


def test_the_quality_of_predictions_is_reported() -> None:
    report = _report()
    assert report.prediction_error == 1.0  # 100, 200 and 400 where 100 was predicted: the median is one off.
    assert report.late_share == pytest.approx(1 / 3, abs=1e-6)


def test_nodes_have_their_share_of_requests_and_work() -> None:
    assert [(node.node, node.requests, node.busy) for node in _report().nodes] == [
        ("gpu-0", 3, 0.2),
        ("gpu-1", 1, 0.1),
    ]


def test_the_table_has_the_completion_rate_in_every_row() -> None:
    head, row, nodes = to_text([_report()]).splitlines()
    assert head.split()[:5] == ["policy", "done", "ttft", "p50", "p90"]
    assert row.split()[:5] == ["predicted_ms", "75.00%", "200", "400", "400"]
    assert nodes == "predicted_ms: gpu-0 x1: 3 (20% busy)  gpu-1 x0.5: 1 (10% busy)"


def test_the_json_document_holds_every_figure() -> None:
    document = msgspec.json.decode(to_json([_report()]))
    assert msgspec.convert(document["reports"], list[FleetReport]) == [_report()]


def test_nothing_at_all_is_reported_as_zeros() -> None:
    ledger = Ledger(())
    report = make_report(ledger, policy="x", seed=0, routers=1, ttft_slo_ms=1.0, token_gap_slo_ms=1.0)
    assert (report.arrived, report.completion_rate, report.goodput) == (0, 0.0, 0.0)
    assert report.ttft_ms == percentiles([])


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0.001, 1.0))
def test_a_quantile_is_the_least_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-6
    assert sum(value < found for value in ordered) < share * len(ordered)
