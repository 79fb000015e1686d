"""Each check catches what it is there for: bugs are planted into a run that was sound."""

import math
from collections.abc import Callable

import pytest

from infermesh.core.model.names import NodeId
from infermesh.sim.checks import ConservationError, check_run
from infermesh.sim.ledger import Ledger, Status
from infermesh.sim.node import SimNode, make_nodes
from infermesh.sim.trace import TraceRequest
from infermesh.sim.workload import make_workload

NODES = make_nodes("1")
NODE = NodeId("gpu-0")


class _Run:
    """Two requests at one node, one after the other; sound until a bug is planted."""

    def __init__(self) -> None:
        self.requests = make_workload([TraceRequest(0.0, 1000, 5, ()), TraceRequest(1.0, 1000, 5, ())])
        self.nodes = {NODE: SimNode(NODES[0])}
        self.ledger = Ledger(NODES)
        self.leftovers = 0
        for request in self.requests:
            passage = self.ledger.arrive(request, 0, request.arrival_s)
            passage.node = NODE
            passage.first_byte_s = request.arrival_s + 0.0802
            self.ledger.end(passage, Status.COMPLETED, request.arrival_s + 0.2)
        self.ledger.close(2.0)

    def check(self) -> None:
        check_run(self.ledger, self.nodes, self.leftovers)


def test_a_sound_run_passes() -> None:
    _Run().check()


def _lose_a_request(run: _Run) -> None:
    run.ledger.arrive(make_workload([TraceRequest(0.0, 1, 1, ())] * 3)[2], 0, 1.9)


def _end_one_twice(run: _Run) -> None:
    run.ledger.counts[Status.FAILED] += 1


def _count_under_another_name(run: _Run) -> None:
    run.ledger.passages[0].status = Status.REJECTED


def _let_one_arrive_twice(run: _Run) -> None:
    passage = run.ledger.arrive(run.requests[0], 0, 1.9)
    run.ledger.end(passage, Status.FAILED, 1.9)


def _keep_a_slot(run: _Run) -> None:
    run.nodes[NODE].submit(run.requests[0], 1.9)


def _keep_a_lease(run: _Run) -> None:
    run.leftovers = 1


def _forget_time(run: _Run) -> None:
    run.ledger.area_s -= 0.001


def _move_an_end(run: _Run) -> None:
    run.ledger.passages[0].ended_s += 0.5


def _answer_without_a_round_trip(run: _Run) -> None:
    run.ledger.passages[0].first_byte_s -= 0.00101


def _claim_a_cache_that_was_not_there(run: _Run) -> None:
    run.ledger.passages[1].first_byte_s -= 0.05


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (_lose_a_request, "3 requests arrived and 2 ended .*; 1 are still in the system"),
        (_end_one_twice, "2 requests arrived and 3 ended"),
        (_count_under_another_name, "1 requests are completed, but 2 were counted so"),
        (_let_one_arrive_twice, "3 requests arrived, but only 2 different ones"),
        (_keep_a_slot, "node gpu-0 still has 1 running, 0 waiting and .* of its KV blocks held"),
        (_keep_a_lease, "routers still count 1 attempts after the drain"),
        (_forget_time, "Little's law: requests spent 0.400000 s in the system, but .* 0.399000 s"),
        (_move_an_end, "Little's law"),
        (_answer_without_a_round_trip, r"request 0 had its first token from gpu-0 after 79\.190 ms"),
        (_claim_a_cache_that_was_not_there, "1000 prompt tokens of which 0 were cached take at least 79.200 ms"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_planted_bug_is_caught(plant: Callable[[_Run], None], message: str) -> None:
    run = _Run()
    plant(run)
    with pytest.raises(ConservationError, match=message):
        run.check()


def test_what_was_cached_need_not_be_computed() -> None:
    run = _Run()
    run.ledger.passages[1].first_byte_s -= 0.05
    run.ledger.passages[1].cached_tokens = 900
    run.check()


def test_a_request_that_never_ended_has_no_place_in_little_s_law() -> None:
    run = _Run()
    run.ledger.passages[0].ended_s = math.nan
    with pytest.raises(ConservationError):
        run.check()
