import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.core.routing.plan import Candidate
from infermesh.core.routing.router import Router
from infermesh.core.routing.router_config import RoutingConfig

# The prior of the default configuration: a step takes 15 ms + 0.2 per sequence + 0.063 per prompt token, with
# 256 slots, 8,192 tokens a step and 307,328 tokens of KV memory. Without measurements: 4 bytes a token, 256
# tokens of output.

MODEL = ModelName("m")
STATE = ModelState(
    node=NodeId("gpu-a"),
    model=MODEL,
    runtime="vllm",
    incarnation=1,
    sequence=1,
    source_time=0.0,
    lifecycle=Lifecycle.READY,
    slots=256,
    kv_capacity_tokens=307_328,
)


def _facts(tokens: int = 1000, output: int = 0) -> RequestFacts:
    return RequestFacts(model=MODEL, prompt_bytes=4 * tokens, output_tokens_max=output, stream=True, blocks=())


def _router(state: ModelState = STATE, *, rtt_s: float = 0.002, config: RoutingConfig | None = None) -> Router:
    router = Router(config or RoutingConfig(), random.Random(1))
    target = Target(
        key=TargetKey("gpu-a/m"),
        node=state.node,
        model=MODEL,
        state=state,
        received_at=100.0,
        rtt_s=rtt_s,
    )
    view = RoutingView(version=1, built_at=100.0, nodes={}, eligible={MODEL: (target,)}, targets={target.key: target})
    router.install(view, 100.0)
    return router


def _score(state: ModelState = STATE, tokens: int = 1000, output: int = 0) -> Candidate:
    # Not `plan`: that would count the request as an arrival, and those who come behind would show in others_ms.
    [candidate] = _router(state).score_all(_facts(tokens, output), 100.0).candidates
    return candidate


def test_who_comes_behind_waits_for_this_prompt() -> None:
    router = _router()
    for _ in range(200):
        router.plan(_facts(), 100.0)
    [busy] = router.score_all(_facts(), 100.0).candidates
    # The fastest rate that is believed is ten a ms: all who come during 78 ms wait for 63.
    assert busy.prediction.others_ms == pytest.approx(63.0 * 10.0 * 78.0, rel=0.02)


def test_an_idle_target_takes_a_round_trip_and_its_prefill() -> None:
    candidate = _score()
    seen = candidate.prediction
    assert seen.network_ms == pytest.approx(2.0)
    assert seen.queue_ms == 0.0
    assert seen.prefill_ms == pytest.approx(1000 * 0.063 + 15.0)
    assert seen.ttft_ms == pytest.approx(80.0)
    assert seen.decode_ms == pytest.approx(256 * 15.2)
    assert seen.penalty_ms == 0.0
    assert seen.total_ms == pytest.approx(80.0 + 256 * 15.2)
    assert seen.others_ms == 0.0
    assert candidate.score_ms == pytest.approx(80.0 + 0.05 * 256 * 15.2)
    assert (seen.cached_tokens, seen.uncached_tokens, seen.output_tokens) == (0, 1000, 256)


def test_a_working_target_is_half_a_step_late_and_decodes_with_a_larger_batch() -> None:
    seen = _score(msgspec.structs.replace(STATE, running=10)).prediction
    step_ms = 15.0 + 0.2 * 10
    assert seen.queue_ms == pytest.approx(0.5 * step_ms)
    assert seen.prefill_ms == pytest.approx(63.0 + step_ms)
    assert seen.decode_ms == pytest.approx(256 * (15.0 + 0.2 * 11))
    # Ten decodes wait for 63 ms of prefill; each of their milliseconds counts a twentieth.
    assert seen.others_ms == pytest.approx(63.0 * 0.05 * 10)


def test_requests_that_wait_are_as_many_mean_prompts_before_this_one() -> None:
    seen = _score(msgspec.structs.replace(STATE, queue_len=2)).prediction
    # 512 tokens each until something was dispatched; they share steps of 8,192 tokens.
    assert seen.queue_ms == pytest.approx(1024 * 0.063 + 1024 / 8192 * 15.0 + 7.5)


def test_a_prompt_longer_than_a_step_takes_more_steps() -> None:
    seen = _score(tokens=20_000).prediction
    assert seen.prefill_ms == pytest.approx(20_000 * 0.063 + 3 * 15.0)


def test_the_clients_cap_bounds_the_expected_output() -> None:
    assert _score(output=10).prediction.output_tokens == 10
    assert _score(output=4096).prediction.output_tokens == 256


def test_a_full_engine_admits_when_somebody_leaves() -> None:
    full = msgspec.structs.replace(STATE, slots=8, running=8)
    free = msgspec.structs.replace(STATE, slots=9, running=8)
    stay_ms = 256 * (15.0 + 0.2 * 9)
    assert _score(full).prediction.queue_ms - _score(free).prediction.queue_ms == pytest.approx(stay_ms / 8)


def test_kv_memory_that_is_missing_is_waited_for() -> None:
    state = msgspec.structs.replace(STATE, kv_capacity_tokens=10_000, kv_usage=0.8, running=1)
    seen = _score(state, tokens=4000).prediction
    waited_ms = 2000 / 10_000 * 256 * 15.4
    assert seen.queue_ms == pytest.approx(waited_ms + 0.5 * 15.2)


def test_kv_pressure_costs_the_recomputation_it_makes_likely() -> None:
    state = msgspec.structs.replace(STATE, kv_capacity_tokens=100_000, kv_usage=0.93)
    seen = _score(state, tokens=1872).prediction
    after = 0.93 + (1872 + 128) / 100_000
    assert seen.penalty_ms == pytest.approx((after - 0.9) / 0.1 * (1872 + 128) * 0.063)
    assert _score(msgspec.structs.replace(state, kv_usage=0.5), tokens=1872).prediction.penalty_ms == 0.0


def test_a_model_still_loading_costs_its_load() -> None:
    assert _score(msgspec.structs.replace(STATE, lifecycle=Lifecycle.LOADING)).prediction.penalty_ms == 30_000.0


def test_an_unproven_target_with_two_on_trial_looks_worse_and_a_proven_one_does_not() -> None:
    router = _router()
    facts = _facts()
    for expected in (False, False, True):
        [candidate] = router.plan(facts, 100.0).candidates
        assert (candidate.prediction.penalty_ms > 0.0) is expected
        lease = router.dispatched(candidate, facts, 100.0)
    assert candidate.prediction.penalty_ms == pytest.approx(2 * candidate.prediction.ttft_ms)
    router.first_byte(lease, 100.3)
    assert router.plan(facts, 100.3).candidates[0].prediction.penalty_ms == 0.0


def test_the_interval_is_wider_for_an_old_signal_and_most_where_others_send() -> None:
    def width_ms(state: ModelState, now: float) -> float:
        candidate = _router(state).plan(_facts(), now).candidates[0]
        seen = candidate.prediction
        assert seen.signal_age_s == pytest.approx(now - 100.0)
        assert (seen.low_ms + seen.high_ms) / 2 == pytest.approx(candidate.score_ms)
        return (seen.high_ms - seen.low_ms) / 2 - 2.0 - 0.02 * candidate.score_ms

    assert width_ms(STATE, 100.0) == pytest.approx(0.0)
    assert width_ms(STATE, 102.0) == pytest.approx(50.0)
    busy = msgspec.structs.replace(STATE, running=4)
    assert width_ms(busy, 102.0) == pytest.approx(100.0)
    assert width_ms(busy, 500.0) == pytest.approx(500.0)  # No wider after ten seconds.


def test_the_hedge_quantile_is_the_prior_ratio_until_answers_are_known() -> None:
    assert _score().prediction.p95_ttft_ms == pytest.approx(2.0 + 3.0 * 78.0)


STATES = st.builds(
    lambda queue_len, running, kv_usage, slots, kv: msgspec.structs.replace(
        STATE, queue_len=queue_len, running=running, kv_usage=kv_usage, slots=slots, kv_capacity_tokens=kv
    ),
    st.integers(0, 400),
    st.integers(0, 400),
    st.floats(0.0, 1.0),
    st.integers(1, 300),
    st.integers(1_000, 400_000),
)
OWN = st.integers(0, 4)


def _with_own(state: ModelState, own: int, tokens: int) -> float:
    """The score of a target that this router has `own` unanswered attempts at, begun before the report."""
    router = _router(STATE)
    facts = _facts(1000)
    for _ in range(own):
        router.dispatched(router.plan(facts, 100.0).candidates[0], facts, 100.0)
    target = Target(key=TargetKey("gpu-a/m"), node=state.node, model=MODEL, state=state, received_at=101.0, rtt_s=0.002)
    view = RoutingView(version=2, built_at=101.0, nodes={}, eligible={MODEL: (target,)}, targets={target.key: target})
    router.install(view, 101.0)
    return router.plan(_facts(tokens), 101.0).candidates[0].score_ms


@given(STATES, OWN, st.integers(1, 200), st.integers(1, 50_000))
def test_a_longer_queue_never_lowers_the_score(state: ModelState, own: int, more: int, tokens: int) -> None:
    longer = msgspec.structs.replace(state, queue_len=state.queue_len + more)
    assert _with_own(longer, own, tokens) >= _with_own(state, own, tokens) - 1e-6


@given(STATES, OWN, st.integers(1, 200), st.integers(1, 50_000))
def test_a_larger_batch_never_lowers_the_score(state: ModelState, own: int, more: int, tokens: int) -> None:
    larger = msgspec.structs.replace(state, running=state.running + more)
    assert _with_own(larger, own, tokens) >= _with_own(state, own, tokens) - 1e-6


@given(STATES, st.floats(0.0, 1.0), st.integers(1, 50_000))
def test_less_free_kv_memory_never_lowers_the_score(state: ModelState, usage: float, tokens: int) -> None:
    low, high = sorted((state.kv_usage, usage))
    fuller, emptier = (msgspec.structs.replace(state, kv_usage=kv_usage) for kv_usage in (high, low))
    assert _with_own(fuller, 0, tokens) >= _with_own(emptier, 0, tokens) - 1e-6


@given(STATES, OWN, st.integers(1, 50_000), st.integers(1, 50_000))
def test_a_longer_prompt_never_lowers_the_score(state: ModelState, own: int, tokens: int, more: int) -> None:
    assert _with_own(state, own, tokens + more) >= _with_own(state, own, tokens) - 1e-6


@given(STATES, st.integers(1, 50_000))
def test_the_parts_add_up(state: ModelState, tokens: int) -> None:
    candidate = _score(state, tokens)
    seen = candidate.prediction
    assert seen.ttft_ms == pytest.approx(seen.network_ms + seen.queue_ms + seen.prefill_ms)
    assert seen.total_ms == pytest.approx(seen.ttft_ms + seen.decode_ms + seen.penalty_ms)
    assert candidate.score_ms == pytest.approx(seen.ttft_ms + 0.05 * seen.decode_ms + seen.penalty_ms + seen.others_ms)
    assert seen.low_ms <= candidate.score_ms <= seen.high_ms
    assert seen.p95_ttft_ms >= seen.ttft_ms
