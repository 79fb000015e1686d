from infermesh.sim.ledger import Ledger, Status
from infermesh.sim.node import make_nodes
from infermesh.sim.trace import TraceRequest
from infermesh.sim.workload import make_workload


def test_the_area_is_the_time_that_requests_spent_in_the_system() -> None:
    first, second = make_workload([TraceRequest(0.0, 10, 5, ()), TraceRequest(1.0, 10, 5, ())])
    ledger = Ledger(make_nodes("1"))
    one = ledger.arrive(first, 0, 0.0)
    other = ledger.arrive(second, 0, 1.0)
    one.first_byte_s = 0.5
    ledger.end(one, Status.COMPLETED, 2.5)
    ledger.end(other, Status.FAILED, 4.0)
    ledger.close(10.0)
    assert ledger.area_s == 2.5 + 3.0
    assert (ledger.in_system, ledger.span_s) == (0, 10.0)
    assert ledger.counts[Status.COMPLETED] == ledger.counts[Status.FAILED] == 1
    assert one.ttft_ms == 500.0
    assert one.token_gap_ms == 500.0  # Two seconds for the four tokens after the first.
