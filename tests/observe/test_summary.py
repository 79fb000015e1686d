from infermesh.core.model.names import NodeId
from infermesh.observe.metrics import Metrics
from infermesh.observe.summary import HedgeTotals, NodeTotals, Quantiles, summarize


def test_totals_come_from_the_counters_and_every_request_is_in_one_of_them() -> None:
    metrics = Metrics(NodeId("edge"), "1")
    metrics.requests.at("m").value += 12
    for node, result, count in (
        ("gpu-a", "ok", 4),
        ("gpu-b", "client_error", 1),
        ("gpu-a", "failed", 1),
        ("", "cancelled", 2),
    ):
        metrics.inferences.at("m", "vllm", node, result).value += count
    metrics.requests_rejected.at("m", "queue_full").value += 2
    metrics.requests_rejected.at("m", "deadline").value += 1
    metrics.requests_in_flight.at("m").value = 1
    metrics.target_chosen.at("m", "gpu-a").value += 6
    metrics.target_chosen.at("m", "gpu-b").value += 1
    for node, verdict, count in (
        ("gpu-a", "ok", 4),
        ("gpu-a", "broken", 1),
        ("gpu-a", "cancelled", 1),
        ("gpu-b", "client_error", 1),
    ):
        metrics.upstream_attempts.at(node, verdict).value += count
    for result, count in (("fired", 3), ("won", 1), ("lost", 2), ("denied", 5)):
        metrics.hedges.at("m", result).value += count
    metrics.cancelled_upstream.at("gpu-a", "client_gone").value += 1
    for number in range(1, 101):
        metrics.recent_time_to_first_token.add(number / 1000)

    summary = summarize(metrics)

    assert summary.requests == 12
    assert (summary.completed, summary.failed, summary.rejected, summary.cancelled) == (5, 1, 3, 2)
    assert summary.in_flight == 1
    ended = summary.completed + summary.failed + summary.rejected + summary.cancelled
    assert summary.requests == ended + summary.in_flight
    assert summary.ttft_ms == Quantiles(p50=50.0, p90=90.0, p99=99.0)
    assert summary.per_node == {
        "gpu-a": NodeTotals(chosen=6, won=4, cancelled=1),
        "gpu-b": NodeTotals(chosen=1, won=1, cancelled=0),
    }
    assert summary.hedges == HedgeTotals(fired=3, won=1, lost=2, denied=5)
    assert summary.cancelled_upstream == 1


def test_a_process_without_traffic_shows_zeros() -> None:
    summary = summarize(Metrics(NodeId("edge"), "1"))
    assert summary.requests == 0
    assert summary.ttft_ms == Quantiles(p50=0.0, p90=0.0, p99=0.0)
    assert summary.per_node == {}
