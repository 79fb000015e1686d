import dataclasses
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infermesh.core.routing.load import TargetLoad
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig
from infermesh.sim.checks import ConservationError
from infermesh.sim.fleet import Crash, FleetConfig, SlowWindow, simulate
from infermesh.sim.ledger import Ledger, Status
from infermesh.sim.node import make_nodes
from infermesh.sim.report import percentiles
from infermesh.sim.trace import TraceRequest, parse_trace
from infermesh.sim.workload import SimRequest, make_workload

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"


def _excerpt(name: str, requests: int, speed: float) -> tuple[SimRequest, ...]:
    with (TRACES / name).open(encoding="utf-8") as lines:
        return make_workload(parse_trace(lines, name=name, requests_max=requests), speed=speed)


CONVERSATION = _excerpt("mooncake_conversation_300.jsonl", 120, 0.5)
CODE = _excerpt("azure_llm_2023_code_300.csv", 120, 1.0)


def _config(speeds: str = "1,1,0.5", **fields: object) -> FleetConfig:
    return dataclasses.replace(FleetConfig(nodes=make_nodes(speeds), seed=1), **fields)  # type: ignore[arg-type]


def _shares(ledger: Ledger, begin_s: float = 0.0, end_s: float = math.inf) -> dict[str, float]:
    chosen = Counter(str(passage.node) for passage in ledger.passages if begin_s <= passage.arrived_s < end_s)
    return {node: count / chosen.total() for node, count in chosen.items()}


def test_a_lone_request_on_an_idle_fleet_takes_a_round_trip_and_its_prefill() -> None:
    [request] = make_workload([TraceRequest(0.0, 1000, 11, ())])
    ledger = simulate(_config("1"), [request])
    [passage] = ledger.passages
    assert passage.ttft_ms == pytest.approx(1.0 + 15.2 + 63.0)
    assert passage.token_gap_ms == pytest.approx(15.2)
    assert passage.status is Status.COMPLETED


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("workload", [CONVERSATION, CODE], ids=["conversation", "code"])
def test_every_policy_accounts_for_every_request(policy: str, workload: tuple[SimRequest, ...]) -> None:
    ledger = simulate(_config(routing=RoutingConfig(policy=policy), routers=2), workload)
    assert ledger.counts[Status.COMPLETED] == len(workload)


def test_more_clients_than_a_router_takes_are_rejected_and_counted() -> None:
    ledger = simulate(_config(inflight_max=5), CODE)
    assert ledger.counts[Status.REJECTED] > 0
    assert ledger.counts[Status.REJECTED] + ledger.counts[Status.COMPLETED] == len(CODE)


def test_clients_without_patience_leave_and_their_work_is_aborted() -> None:
    ledger = simulate(_config("0.2", patience_s=2.0), CODE)
    cancelled = [passage for passage in ledger.passages if passage.status is Status.CANCELLED]
    assert cancelled
    assert all(passage.ended_s - passage.arrived_s == pytest.approx(2.0) for passage in cancelled)
    assert ledger.counts[Status.CANCELLED] + ledger.counts[Status.COMPLETED] == len(CODE)


def test_a_request_that_fits_no_engine_is_rejected() -> None:
    [request] = make_workload([TraceRequest(0.0, 400_000, 1, ())])
    assert simulate(_config("1"), [request]).counts[Status.REJECTED] == 1


def test_a_crash_fails_what_was_there_and_the_fleet_goes_on() -> None:
    ledger = simulate(_config(faults=(Crash(node="gpu-0", at_s=30.0, down_s=20.0),)), CONVERSATION)
    failed = [passage for passage in ledger.passages if passage.status is Status.FAILED]
    assert failed
    assert {passage.node for passage in failed} == {"gpu-0"}
    assert "gpu-0" not in _shares(ledger, 32.0, 50.0)  # Noticed after 1.5 s.
    assert _shares(ledger, 55.0)["gpu-0"] > 0.1  # Used again.
    assert ledger.counts[Status.FAILED] + ledger.counts[Status.COMPLETED] == len(CONVERSATION)


def test_a_crash_of_the_only_node_rejects_until_it_is_back() -> None:
    ledger = simulate(_config("1", faults=(Crash(node="gpu-0", at_s=10.0, down_s=20.0),)), CODE)
    assert ledger.counts[Status.REJECTED] > 0
    assert ledger.passages[-1].status is Status.COMPLETED


@pytest.mark.slow
def test_a_node_that_becomes_slow_is_left_and_used_again_when_it_recovered() -> None:
    workload = _excerpt("mooncake_conversation_300.jsonl", 300, 0.4)
    slow = SlowWindow(node="gpu-0", begin_s=60.0, end_s=120.0, factor=10.0)
    ledger = simulate(_config("1,1,1", faults=(slow,)), workload)
    assert _shares(ledger, 0.0, 60.0)["gpu-0"] > 0.2
    assert _shares(ledger, 80.0, 120.0).get("gpu-0", 0.0) < 0.15
    assert _shares(ledger, 150.0)["gpu-0"] > 0.2


def test_faster_nodes_get_more() -> None:
    tokens = Counter[str]()
    for passage in simulate(_config("1,0.33"), _excerpt("mooncake_conversation_300.jsonl", 120, 0.3)).passages:
        tokens[str(passage.node)] += passage.request.prompt_tokens
    assert tokens["gpu-0"] > 2 * tokens["gpu-1"]


@pytest.mark.slow
def test_predicted_ms_beats_round_robin_on_a_fleet_of_unequal_nodes() -> None:
    p90 = {}
    for policy in ("predicted_ms", "round_robin"):
        workload = _excerpt("mooncake_conversation_300.jsonl", 300, 0.3)
        ledger = simulate(_config("1,1,0.5,0.33", routing=RoutingConfig(policy=policy)), workload)
        p90[policy] = percentiles([passage.ttft_ms for passage in ledger.passages]).p90
    assert p90["predicted_ms"] < 0.5 * p90["round_robin"]


def _timeline(ledger: Ledger) -> list[tuple[object, ...]]:
    return [
        (passage.node, passage.first_byte_s, passage.ended_s, passage.cached_tokens, passage.prediction)
        for passage in ledger.passages
    ]


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, second, other = (_timeline(simulate(_config("1,1,1", seed=seed, routers=2), CODE)) for seed in (4, 4, 5))
    assert first == second
    assert first != other


def test_a_router_that_keeps_a_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    finished = TargetLoad.finished
    seen = iter(range(1000))

    def forgetful(load: TargetLoad, *arguments: object) -> None:
        finished(load, *arguments)  # type: ignore[arg-type]
        if next(seen) == 7:
            load.own += 1

    monkeypatch.setattr(TargetLoad, "finished", forgetful)
    with pytest.raises(ConservationError, match="routers still count 1 attempts"):
        simulate(_config(), CODE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nodes": ()}, "at least one node"),
        ({"nodes": make_nodes("1") * 2}, "two nodes of the fleet have one name"),
        ({"routers": 0}, "routers is 0"),
        ({"faults": (Crash(node="gpu-9", at_s=1.0, down_s=1.0),)}, "a fault names node 'gpu-9'"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(_config(), **fields)  # type: ignore[arg-type]


REQUESTS = st.lists(
    st.builds(
        TraceRequest,
        st.floats(0.0, 20.0),
        st.integers(1, 20_000),
        st.integers(1, 300),
        st.lists(st.integers(0, 3), max_size=8).map(tuple),
    ),
    min_size=1,
    max_size=25,
)
FAULTS = st.lists(
    st.one_of(
        st.builds(
            Crash,
            node=st.sampled_from(["gpu-0", "gpu-1"]),
            at_s=st.floats(0.0, 10.0),
            down_s=st.floats(0.1, 10.0),
        ),
        st.builds(
            SlowWindow,
            node=st.sampled_from(["gpu-0", "gpu-1"]),
            begin_s=st.floats(0.0, 5.0),
            end_s=st.floats(5.0, 30.0),
            factor=st.floats(1.0, 30.0),
        ),
    ),
    max_size=2,
    unique_by=lambda fault: (type(fault), fault.node),
).map(tuple)


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    trace=REQUESTS,
    faults=FAULTS,
    policy=st.sampled_from(POLICY_NAMES),
    patience_s=st.sampled_from([0.5, 3.0, math.inf]),
    inflight_max=st.sampled_from([0, 3]),
    seed=st.integers(0, 5),
)
def test_every_world_adds_up(
    trace: list[TraceRequest],
    faults: tuple[SlowWindow | Crash, ...],
    policy: str,
    patience_s: float,
    inflight_max: int,
    seed: int,
) -> None:
    config = _config(
        "1,0.5",
        routing=RoutingConfig(policy=policy),
        routers=2,
        seed=seed,
        patience_s=patience_s,
        inflight_max=inflight_max,
        faults=faults,
    )
    workload = make_workload(sorted(trace, key=lambda request: request.arrival_s))
    ledger = simulate(config, workload)  # Checked inside.
    assert len(ledger.passages) == len(workload)
