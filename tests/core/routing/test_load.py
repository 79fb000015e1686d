import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import Target
from infermesh.core.routing.load import CHANGES_MAX, Lease, TargetLoad
from infermesh.core.routing.plan import Prediction

MODEL = ModelName("m")
NODE = NodeId("gpu-a")
STATE = ModelState(
    node=NODE,
    model=MODEL,
    runtime="vllm",
    incarnation=1,
    sequence=1,
    source_time=0.0,
    lifecycle=Lifecycle.READY,
)
TARGET = Target(key=TargetKey("gpu-a/m"), node=NODE, model=MODEL, state=STATE, received_at=0.0)


def _lease(uncached: int = 1000, cached: int = 0, *, stream: bool = True, ttft_ms: float = 100.0) -> Lease:
    facts = RequestFacts(model=MODEL, prompt_bytes=4000, output_tokens_max=0, stream=stream, blocks=())
    prediction = Prediction(
        ttft_ms=ttft_ms,
        total_ms=0.0,
        network_ms=0.0,
        queue_ms=0.0,
        prefill_ms=0.0,
        decode_ms=0.0,
        penalty_ms=0.0,
        low_ms=0.0,
        high_ms=0.0,
        p95_ttft_ms=0.0,
        cached_tokens=cached,
        uncached_tokens=uncached,
        signal_age_s=0.0,
        own_inflight=0,
        correction=1.0,
    )
    return Lease(TARGET, facts, prediction, 0.0)


def _dispatch(load: TargetLoad, now: float, uncached: int = 1000) -> Lease:
    lease = _lease(uncached)
    load.dispatched(lease, now)
    return lease


def test_attempts_dispatched_after_the_report_are_added_to_it() -> None:
    load = TargetLoad()
    load.report(2, 3, 0.1, at=10.0, rtt_s=0.0)
    _dispatch(load, 10.1)
    _dispatch(load, 10.2)
    assert load.total() == 7
    assert load.arrived_tokens == 2000


def test_attempts_that_the_report_contains_are_not_counted_twice() -> None:
    load = TargetLoad()
    _dispatch(load, 9.0)
    _dispatch(load, 9.5)
    load.report(0, 2, 0.1, at=10.0, rtt_s=0.0)
    assert load.total() == 2
    assert load.arrived_tokens == 0


def test_an_attempt_that_was_on_the_wire_when_the_report_left_is_added() -> None:
    load = TargetLoad()
    _dispatch(load, 9.80)
    _dispatch(load, 9.95)
    load.report(0, 1, 0.1, at=10.0, rtt_s=0.1)
    assert load.total() == 2


def test_attempts_that_ended_after_the_report_are_taken_off() -> None:
    load = TargetLoad()
    first, second = _dispatch(load, 9.0), _dispatch(load, 9.1)
    load.report(0, 6, 0.1, at=10.0, rtt_s=0.0)
    load.finished(first, 10.1)
    load.first_byte(second, 10.2)
    load.finished(second, 10.3)
    assert load.total() == 4
    assert load.own == 0


def test_the_own_count_is_a_lower_bound_whatever_a_report_says() -> None:
    load = TargetLoad()
    for _ in range(5):
        _dispatch(load, 9.0)
    load.report(0, 0, 0.0, at=10.0, rtt_s=0.0)
    assert load.total() == 5


def test_a_report_older_than_the_one_in_use_is_ignored() -> None:
    load = TargetLoad()
    assert load.report(1, 1, 0.5, at=10.0, rtt_s=0.0)
    assert not load.report(9, 9, 0.9, at=9.9, rtt_s=0.0)
    assert (load.queue_len, load.running, load.kv_usage) == (1, 1, 0.5)


def test_a_silent_target_does_not_grow_the_memory_of_changes() -> None:
    load = TargetLoad()
    for number in range(CHANGES_MAX + 100):
        load.finished(_dispatch(load, float(number)), float(number))
    assert load.arrived == CHANGES_MAX
    assert load.departed == CHANGES_MAX
    assert load.total() == 0


def test_a_whole_answer_counts_as_decoding_once_its_first_token_was_due() -> None:
    load = TargetLoad()
    lease = _lease(stream=False, ttft_ms=100.0)
    load.dispatched(lease, 1.0)
    load.settle_unary(1.05)
    assert (load.awaiting, load.decoding) == (1, 0)
    load.settle_unary(1.1)
    assert (load.awaiting, load.decoding, load.awaiting_tokens) == (0, 1, 0)
    load.first_byte(lease, 3.0)  # All of it at once; nothing changes.
    load.finished(lease, 3.0)
    assert (load.own, load.decoding) == (0, 0)


def test_a_whole_answer_that_ended_early_is_not_moved_later() -> None:
    load = TargetLoad()
    lease = _lease(stream=False)
    load.dispatched(lease, 1.0)
    load.finished(lease, 1.01)
    load.settle_unary(9.0)
    assert (load.own, load.awaiting, load.decoding) == (0, 0, 0)


@pytest.mark.parametrize(
    ("now", "expected_ms"),
    [
        (0.0, 300.0),  # 3,000 tokens at 10 a ms.
        (0.06, 240.0),  # 600 of them computed.
        (0.1, 200.0),  # The first prompt should be done now.
        (0.2, 200.0),  # It is not; more than it cannot have been computed without an answer.
        (0.25, 200.0),  # Twice its time and 50 ms more: late from here on.
        (0.35, 300.0),  # 100 ms late: taken to be as late again.
    ],
)
def test_the_backlog_shrinks_as_the_engine_works_and_grows_when_it_is_late(now: float, expected_ms: float) -> None:
    load = TargetLoad()
    for _ in range(3):
        _dispatch(load, 0.0, uncached=1000)
    assert load.backlog_ms(now, tokens_per_ms=10.0, step_tokens=500) == pytest.approx(expected_ms)


def test_an_answer_restarts_the_clock_of_the_next_prompt() -> None:
    load = TargetLoad()
    first = _dispatch(load, 0.0)
    _dispatch(load, 0.0)
    load.first_byte(first, 0.12)
    assert load.backlog_ms(0.12, tokens_per_ms=10.0, step_tokens=500) == pytest.approx(100.0)
    assert load.backlog_ms(0.17, tokens_per_ms=10.0, step_tokens=500) == pytest.approx(50.0)


def test_nothing_awaited_is_no_backlog() -> None:
    assert TargetLoad().backlog_ms(5.0, tokens_per_ms=10.0, step_tokens=500) == 0.0


EVENTS = st.lists(st.tuples(st.sampled_from("dbfr"), st.integers(0, 30), st.booleans()), max_size=60)


@given(EVENTS)
def test_counts_and_tokens_are_conserved_in_any_order_of_events(events: list[tuple[str, int, bool]]) -> None:
    load = TargetLoad()
    live: list[Lease] = []
    for number, (kind, pick, stream) in enumerate(events):
        now = float(number)
        if kind == "d":
            lease = _lease(uncached=pick + 1, stream=stream)
            load.dispatched(lease, now)
            live.append(lease)
        elif kind == "r":
            load.report(pick % 3, pick % 5, 0.0, at=now - 0.5, rtt_s=0.25)
        elif live:
            lease = live[pick % len(live)]
            if kind == "b":
                load.first_byte(lease, now)
            else:
                load.finished(live.pop(pick % len(live)), now)
        load.settle_unary(now)
        assert load.own == len(live) == load.awaiting + load.decoding
        assert load.awaiting_tokens == sum(lease.uncached_tokens for lease in live if not lease.decoding)
        assert load.total() >= load.own
        assert load.arrived >= 0
        assert load.departed >= 0
    for lease in live:
        load.finished(lease, 1e6)
    assert (load.own, load.awaiting, load.decoding, load.awaiting_tokens) == (0, 0, 0, 0)


@given(EVENTS)
def test_with_one_router_and_true_reports_the_load_is_exact(events: list[tuple[str, int, bool]]) -> None:
    load = TargetLoad()
    live: list[Lease] = []
    for number, (kind, pick, _) in enumerate(events):
        now = float(number)
        if kind == "d":
            live.append(_dispatch(load, now))
        elif kind == "r":
            # All that the router sent is there: it arrived long ago, and nobody else sends.
            load.report(0, len(live), 0.0, at=now, rtt_s=0.0)
        elif live:
            load.finished(live.pop(pick % len(live)), now)
        assert load.total() == len(live)
