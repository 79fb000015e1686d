import math
import random
from collections import Counter

import msgspec
import pytest

from infermesh.core.model.names import ModelName, NodeId, TargetKey, target_key
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, LoadHint, ModelState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.core.routing.plan import Plan
from infermesh.core.routing.prefix import blocks_of
from infermesh.core.routing.router import Router
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig

MODEL = ModelName("m")


def _state(node: str, **fields: object) -> ModelState:
    state = ModelState(
        node=NodeId(node),
        model=MODEL,
        runtime="vllm",
        incarnation=1,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        slots=256,
        kv_capacity_tokens=307_328,
    )
    return msgspec.structs.replace(state, **fields)


def _target(node: str, at: float = 0.0, *, suspect: bool = False, unavailable: str = "", **fields: object) -> Target:
    return Target(
        key=target_key(NodeId(node), MODEL),
        node=NodeId(node),
        model=MODEL,
        state=_state(node, **fields),
        received_at=at,
        rtt_s=0.002,
        suspect=suspect,
        unavailable=unavailable,
    )


def _view(*targets: Target, nodes: dict[NodeId, NodeRecord] | None = None) -> RoutingView:
    return RoutingView(
        version=1,
        built_at=0.0,
        nodes=nodes or {},
        eligible={MODEL: tuple(target for target in targets if not target.unavailable)},
        targets={target.key: target for target in targets},
    )


def _router(*targets: Target, seed: int = 1, config: RoutingConfig | None = None) -> Router:
    router = Router(config or RoutingConfig(), random.Random(seed))
    router.install(_view(*targets), 0.0)
    return router


def _facts(
    prompt: bytes = b"", *, stream: bool = True, may_hedge: bool = True, prompt_bytes: int = 4000
) -> RequestFacts:
    return RequestFacts(
        model=MODEL,
        prompt_bytes=len(prompt) or prompt_bytes,
        output_tokens_max=0,
        stream=stream,
        blocks=blocks_of(prompt),
        may_hedge=may_hedge,
    )


def _names(plan: Plan) -> list[str]:
    return [str(candidate.target.node) for candidate in plan.candidates]


def _text(number: int, length: int = 40_000) -> bytes:
    return random.Random(number).randbytes(length)


def _answer(router: Router, facts: RequestFacts, now: float, ttft_s: float, node: str = "") -> None:
    """One request from plan to end, at `node` or where the plan says."""
    candidates = router.plan(facts, now).candidates
    [candidate] = [c for c in candidates if c.target.node == node] if node else candidates[:1]
    lease = router.dispatched(candidate, facts, now)
    router.first_byte(lease, now + ttft_s)
    router.finished(lease, now + ttft_s + 1.0, Verdict.OK)


def test_a_model_without_targets_has_an_empty_plan() -> None:
    router = _router()
    for plan in (router.plan(_facts(), 1.0), router.score_all(_facts(), 1.0)):
        assert plan == Plan((), math.inf, "predicted_ms")
    unknown = msgspec.structs.replace(_facts(), model=ModelName("other"))
    assert router.plan(unknown, 1.0).candidates == ()


def test_a_bad_configuration_is_refused_when_the_router_is_made() -> None:
    with pytest.raises(ValueError, match="decode_weight"):
        Router(RoutingConfig(decode_weight=7.0), random.Random(1))


def test_only_eligible_targets_are_planned_on() -> None:
    router = _router(_target("a"), _target("b", unavailable="node dead"))
    assert _names(router.plan(_facts(), 1.0)) == ["a"]


def test_a_suspect_is_a_last_resort_and_never_the_backup() -> None:
    router = _router(_target("a", suspect=True), _target("b"))
    plan = router.plan(_facts(), 1.0)
    assert _names(plan) == ["b", "a"]
    assert plan.hedge_after_s == math.inf
    assert _names(router.score_all(_facts(), 1.0)) == ["b", "a"]


def test_two_requests_of_one_metrics_cycle_do_not_herd() -> None:
    router = _router(*(_target(name) for name in ("a", "b", "c")))
    chosen = Counter[str]()
    for _ in range(9):
        candidate = router.plan(_facts(), 1.0).candidates[0]
        router.dispatched(candidate, _facts(), 1.0)
        chosen[candidate.target.node] += 1
    assert sorted(chosen.values()) == [3, 3, 3]


def test_inflight_counts_own_attempts_and_repeated_ends_once() -> None:
    router = _router(_target("a"))
    key = TargetKey("a/m")
    candidate = router.plan(_facts(), 1.0).candidates[0]
    first, second = (router.dispatched(candidate, _facts(), 1.0) for _ in range(2))
    assert router.inflight(key) == 2
    router.first_byte(first, 1.1)
    router.first_byte(first, 1.2)
    for _ in range(3):
        router.finished(first, 2.0, Verdict.OK)
    assert router.inflight(key) == 1
    router.finished(second, 2.0, Verdict.CANCELLED)
    router.first_byte(second, 2.1)  # A byte that was still on its way.
    assert router.inflight(key) == 0
    assert router.inflight(TargetKey("nobody/m")) == 0


def test_a_hint_is_used_until_a_newer_state_comes() -> None:
    router = _router(_target("a"), _target("b"))
    key = TargetKey("a/m")
    router.on_hint(key, LoadHint(1, 40, 200, 0.5), 5.0)
    assert _names(router.plan(_facts(), 5.0)) == ["b", "a"]
    router.install(_view(_target("a", 4.0), _target("b", 4.0, running=2)), 5.1)  # Older than the hint.
    assert _names(router.plan(_facts(), 5.1)) == ["b", "a"]
    router.install(_view(_target("a", 6.0), _target("b", 6.0, running=2)), 6.0)
    assert _names(router.plan(_facts(), 6.0)) == ["a", "b"]


def test_hints_of_unknown_targets_and_of_engines_before_are_ignored() -> None:
    router = _router(_target("a", incarnation=5))
    before = router.score_all(_facts(), 1.0)
    router.on_hint(TargetKey("nobody/m"), LoadHint(9, 9, 9, 0.9), 1.0)
    router.on_hint(TargetKey("a/m"), LoadHint(4, 99, 99, 0.9), 1.0)
    assert router.score_all(_facts(), 1.0) == before


def test_a_prompt_goes_where_its_beginning_was_sent() -> None:
    router = _router(*(_target(name) for name in ("a", "b", "c")))
    homes = {}
    for number in range(6):
        facts = _facts(_text(number))
        candidate = router.plan(facts, float(number)).candidates[0]
        lease = router.dispatched(candidate, facts, float(number))
        router.first_byte(lease, number + 0.7)
        router.finished(lease, number + 0.9, Verdict.OK)
        homes[number] = candidate.target.node
    for number, home in homes.items():
        longer = _facts(_text(number) + b"and then?" * 100)
        seen = router.plan(longer, 20.0).candidates[0]
        assert seen.target.node == home
        assert seen.prediction.cached_tokens > 9_000
        assert seen.prediction.cached_tokens + seen.prediction.uncached_tokens == 10_225


def test_a_new_engine_has_an_empty_cache_at_once() -> None:
    router = _router(_target("a"))
    facts = _facts(_text(1))
    _answer(router, facts, 1.0, 0.7)
    assert router.plan(facts, 3.0).candidates[0].prediction.cached_tokens > 9_000
    router.on_hint(TargetKey("a/m"), LoadHint(2, 0, 0, 0.0), 3.0)
    assert router.plan(facts, 3.0).candidates[0].prediction.cached_tokens == 0
    _answer(router, facts, 4.0, 0.7)
    router.install(_view(_target("a", 6.0, incarnation=3)), 6.0)
    assert router.plan(facts, 6.0).candidates[0].prediction.cached_tokens == 0


def test_a_state_of_the_engine_before_does_not_undo_a_hint_of_the_new_one() -> None:
    router = _router(_target("a"))
    router.on_hint(TargetKey("a/m"), LoadHint(2, 0, 0, 0.0), 3.0)
    router.install(_view(_target("a", 4.0, incarnation=1, running=200)), 4.0)
    assert router.plan(_facts(), 4.0).candidates[0].prediction.queue_ms == 0.0


def test_what_a_target_takes_is_learnt_within_a_few_answers() -> None:
    router = _router(_target("a"), _target("b"))
    for turn in range(4):
        _answer(router, _facts(), 4.0 * turn, 5.0 * 0.078 + 0.002, "a")
        _answer(router, _facts(), 4.0 * turn + 2.0, 0.078 + 0.002, "b")
    seen = {c.target.node: c.prediction for c in router.score_all(_facts(), 16.0).candidates}
    assert seen[NodeId("a")].correction == pytest.approx(5.0, rel=0.1)
    assert seen[NodeId("b")].correction == pytest.approx(1.0, rel=0.1)
    assert seen[NodeId("a")].ttft_ms == pytest.approx(392.0, rel=0.1)
    assert _names(router.plan(_facts(), 16.0)) == ["b", "a"]


def test_a_target_that_got_no_answers_for_minutes_is_tried_again_once() -> None:
    router = _router(_target("a"), _target("b"))
    for turn in range(4):
        _answer(router, _facts(), 10.0 * turn, 1.0, "a")
        _answer(router, _facts(), 10.0 * turn, 0.080, "b")
    chosen = Counter(_names(router.plan(_facts(), 50.0 + turn))[0] for turn in range(20))
    assert chosen == {"b": 20}
    for turn in range(100):
        _answer(router, _facts(), 60.0 + 6.0 * turn, 0.080, "b")
    leases = []
    for _ in range(8):
        candidate = router.plan(_facts(), 660.0).candidates[0]
        leases.append(router.dispatched(candidate, _facts(), 660.0))
    tried = Counter(lease.target.node for lease in leases)
    assert 1 <= tried[NodeId("a")] <= 2  # Explored, not flooded: it is unproven now.
    for lease in leases:
        router.first_byte(lease, 661.0 if lease.target.node == "a" else 660.2)
    assert _names(router.plan(_facts(), 662.0))[0] == "b"


def test_a_stuck_target_is_found_slow_by_attempts_that_were_given_up() -> None:
    router = _router(_target("a"), _target("b"))
    for turn in range(4):
        for node in "ab":
            _answer(router, _facts(), 10.0 * turn, 0.080, node)
    for turn in range(3):
        now = 40.0 + turn
        [candidate] = [c for c in router.plan(_facts(), now).candidates if c.target.node == "a"]
        lease = router.dispatched(candidate, _facts(), now)
        router.finished(lease, now + 0.8, Verdict.CANCELLED)  # It lost to a hedge.
    seen = {c.target.node: c.prediction for c in router.score_all(_facts(), 44.0).candidates}
    assert seen[NodeId("a")].correction > 4.0


def test_an_attempt_given_up_early_says_nothing_about_the_target() -> None:
    router = _router(_target("a"))
    _answer(router, _facts(), 1.0, 0.080)
    before = router.plan(_facts(), 3.0).candidates[0].prediction.correction
    lease = router.dispatched(router.plan(_facts(), 3.0).candidates[0], _facts(), 3.0)
    router.finished(lease, 3.01, Verdict.CANCELLED)
    assert router.plan(_facts(), 3.01).candidates[0].prediction.correction == pytest.approx(before, rel=0.01)


def test_a_target_that_fails_fast_is_not_taken_for_fast() -> None:
    router = _router(*(_target(name) for name in ("a", "b", "c")))
    chosen = Counter[str]()
    for turn in range(60):
        now = float(turn)
        candidate = router.plan(_facts(), now).candidates[0]
        chosen[candidate.target.node] += 1
        lease = router.dispatched(candidate, _facts(), now)
        if candidate.target.node == "a":
            router.finished(lease, now + 0.001, Verdict.SERVER_ERROR)
        else:
            router.first_byte(lease, now + 0.08)
            router.finished(lease, now + 0.5, Verdict.OK)
    assert chosen["a"] < 8
    assert router.plan(_facts(), 60.0).candidates[-1].target.node == "a"


@pytest.mark.parametrize("verdict", [Verdict.CLIENT_ERROR, Verdict.CANCELLED])
def test_what_is_not_the_targets_fault_is_not_held_against_it(verdict: Verdict) -> None:
    router = _router(_target("a"))
    for turn in range(20):
        lease = router.dispatched(router.plan(_facts(), float(turn)).candidates[0], _facts(), float(turn))
        router.finished(lease, turn + 0.01, verdict)
    assert router.plan(_facts(), 20.0).candidates[0].prediction.penalty_ms == 0.0


def test_bytes_per_token_and_output_are_measured_from_answers() -> None:
    router = _router(_target("a"))
    for turn in range(100):
        now = float(turn)
        facts = _facts(prompt_bytes=80_000)
        lease = router.dispatched(router.plan(facts, now).candidates[0], facts, now)
        router.first_byte(lease, now + 0.5)
        router.finished(lease, now + 0.9, Verdict.OK, output_tokens=20, prompt_tokens=10_000)
    seen = router.plan(_facts(prompt_bytes=80_000), 200.0).candidates[0].prediction
    assert seen.uncached_tokens == pytest.approx(10_000, rel=0.02)
    assert seen.output_tokens == pytest.approx(20, abs=3)


def test_decode_speed_comes_from_the_gap_that_the_engine_reports() -> None:
    router = _router(_target("a"), _target("b"))
    for turn in range(8):
        at = float(turn)
        router.install(
            _view(_target("a", at, itl_ms=15.4 * 3.0, running=2), _target("b", at, itl_ms=15.4, running=2)), at
        )
    seen = {c.target.node: c.prediction for c in router.plan(_facts(), 8.0).candidates}
    assert seen[NodeId("a")].decode_ms == pytest.approx(3.0 * seen[NodeId("b")].decode_ms, rel=0.05)
    # Nothing was sent there yet: an engine that decodes a third as fast is taken to prefill so, too.
    assert seen[NodeId("a")].correction == pytest.approx(3.0, rel=0.05)


def test_decode_speed_comes_from_own_streams_where_the_engine_reports_none() -> None:
    router = _router(_target("a"))
    for turn in range(10):
        now = 10.0 * turn
        lease = router.dispatched(router.plan(_facts(), now).candidates[0], _facts(), now)
        router.first_byte(lease, now + 0.1)
        router.finished(lease, now + 0.1 + 100 * 0.0304, Verdict.OK, output_tokens=101)
        same_instant = router.dispatched(router.plan(_facts(), now).candidates[0], _facts(), now)
        router.first_byte(same_instant, now + 0.1)
        router.finished(same_instant, now + 0.1, Verdict.OK, output_tokens=101)
    assert router.plan(_facts(), 100.0).candidates[0].prediction.decode_ms > 1.5 * 100 * 15.2


def test_a_whole_answer_teaches_one_ratio_for_prefill_and_decode() -> None:
    router = _router(_target("a"))
    for turn in range(6):
        now = 5.0 * turn
        facts = _facts(stream=False)
        lease = router.dispatched(router.plan(facts, now).candidates[0], facts, now)
        # Twice as slow as the prior says, 100 tokens of output.
        end = now + 0.002 + 2.0 * (0.078 + 100 * 0.0152)
        router.first_byte(lease, end)
        router.finished(lease, end, Verdict.OK, output_tokens=100)
    seen = router.plan(_facts(), 30.0).candidates[0].prediction
    assert seen.correction == pytest.approx(2.0, rel=0.15)
    assert seen.decode_ms / seen.output_tokens == pytest.approx(2.0 * 15.2, rel=0.15)


@pytest.mark.parametrize(("output_tokens", "learns"), [(2, True), (200, False)])
def test_a_whole_answer_that_is_mostly_decode_says_nothing_of_prefill(output_tokens: int, *, learns: bool) -> None:
    router = _router(_target("a", itl_ms=15.4, running=2))
    for turn in range(6):
        facts = _facts(stream=False, prompt_bytes=40_000)
        lease = router.dispatched(router.plan(facts, 5.0 * turn).candidates[0], facts, 5.0 * turn)
        router.finished(lease, 5.0 * turn + 4.0, Verdict.OK, output_tokens=output_tokens)
    seen = router.plan(_facts(), 30.0).candidates[0].prediction
    assert (seen.correction > 2.0) is learns


def test_hot_cold_knows_the_latency_of_models_that_count_no_tokens() -> None:
    router = _router(_target("a"), _target("b"), config=RoutingConfig(policy="hot_cold"))
    facts = _facts(stream=False)
    for turn in range(6):
        candidate = router.plan(facts, float(turn)).candidates[0]
        lease = router.dispatched(candidate, facts, float(turn))
        router.finished(lease, turn + (0.3 if candidate.target.node == "a" else 0.1), Verdict.OK)
    assert _names(router.plan(facts, 6.0)) == ["b", "a"]


def test_a_hedge_waits_for_the_first_targets_own_quantile() -> None:
    router = _router(_target("a"), _target("b"))
    plan = router.plan(_facts(prompt_bytes=40_000), 1.0)
    assert plan.hedge_after_s == pytest.approx(plan.candidates[0].prediction.p95_ttft_ms / 1000)
    for turn in range(32):
        true_s = 0.002 + 0.645 * (1.5 if turn % 2 else 1.0)
        _answer(router, _facts(prompt_bytes=40_000), 10.0 * turn, true_s)
    learnt = router.plan(_facts(prompt_bytes=40_000), 400.0)
    seen = learnt.candidates[0].prediction
    assert 1.05 < seen.p95_ttft_ms / seen.ttft_ms < 1.6


def test_a_hedge_of_a_whole_answer_waits_for_the_whole_answer() -> None:
    router = _router(_target("a"), _target("b"))
    streamed, whole = router.plan(_facts(), 1.0), router.plan(_facts(stream=False), 1.0)
    assert whole.hedge_after_s == pytest.approx(streamed.hedge_after_s + 3.0 * 3.891, rel=0.05)


def test_a_hedge_has_a_floor() -> None:
    router = _router(_target("a"), _target("b"), config=RoutingConfig(hedge_floor_ms=500.0))
    assert router.plan(_facts(prompt_bytes=4), 1.0).hedge_after_s == 0.5


@pytest.mark.parametrize("reason", ["forbidden", "disabled", "alone"])
def test_no_hedge_where_it_is_not_wanted_or_not_possible(reason: str) -> None:
    config = RoutingConfig(hedge_enabled=reason != "disabled")
    targets = [_target("a")] if reason == "alone" else [_target("a"), _target("b")]
    router = _router(*targets, config=config)
    facts = _facts(may_hedge=reason != "forbidden")
    assert router.plan(facts, 1.0).hedge_after_s == math.inf


def test_the_backup_is_the_best_that_is_not_as_loaded_as_the_first() -> None:
    router = _router(_target("a"), _target("b", running=30), _target("c", running=2))
    facts = _facts(_text(1))
    holder = next(c for c in router.plan(facts, 0.5).candidates if c.target.node == "b")
    lease = router.dispatched(holder, facts, 0.5)
    router.first_byte(lease, 1.2)
    router.finished(lease, 1.3, Verdict.OK)
    router.install(_view(_target("a", 2.0, running=6), _target("b", 2.0, running=5), _target("c", 2.0, running=9)), 2.0)
    # The holder is first; the next best is as loaded as it will be, a third more so: nobody to hedge on.
    plan = router.plan(facts, 2.0)
    assert _names(plan) == ["b", "a", "c"]
    assert plan.hedge_after_s == math.inf
    router.install(_view(_target("a", 3.0, running=6), _target("b", 3.0, running=5), _target("c", 3.0, running=3)), 3.0)
    plan = router.plan(facts, 3.0)
    assert _names(plan)[:2] == ["b", "c"]
    assert plan.hedge_after_s < math.inf


@pytest.mark.parametrize(("running", "kv_usage", "hedged"), [(1, 0.1, True), (2, 0.1, False), (1, 0.96, False)])
def test_a_full_target_is_never_the_backup(running: int, kv_usage: float, *, hedged: bool) -> None:
    first = _target("a", running=3, slots=4)  # So loaded that by its share any other would do.
    router = _router(first, _target("b", running=running, slots=2, kv_usage=kv_usage))
    facts = _facts(_text(1))
    holder = next(c for c in router.plan(facts, 0.0).candidates if c.target.node == "a")
    router.finished(router.dispatched(holder, facts, 0.0), 0.0, Verdict.CANCELLED)
    plan = router.plan(facts, 0.1)
    assert _names(plan) == ["a", "b"]
    assert (plan.hedge_after_s < math.inf) is hedged


def test_scoring_all_changes_nothing_and_names_every_target() -> None:
    targets = [_target(f"gpu-{number:02}", running=number) for number in range(40)]
    router, untouched = _router(*targets), _router(*targets)
    facts = _facts(_text(3))
    for _ in range(5):
        scores = [c.score_ms for c in router.score_all(facts, 1.0).candidates]
        assert len(scores) == 40
        assert scores == sorted(scores)
    assert router.plan(facts, 1.0) == untouched.plan(facts, 1.0)


def test_a_plan_names_at_most_the_configured_candidates() -> None:
    router = _router(*(_target(f"gpu-{number}") for number in range(8)), config=RoutingConfig(candidates_max=2))
    assert len(router.plan(_facts(), 1.0).candidates) == 2


def test_a_target_that_left_is_forgotten_once_its_last_attempt_ended() -> None:
    router = _router(_target("a"), _target("b"))
    facts = _facts(_text(1))
    candidate = router.plan(facts, 1.0).candidates[0]
    lease = router.dispatched(candidate, facts, 1.0)
    gone = candidate.target.node
    other = "b" if gone == "a" else "a"
    router.install(_view(_target(other)), 2.0)
    assert _names(router.plan(facts, 2.0)) == [other]
    assert router.inflight(candidate.target.key) == 1
    router.first_byte(lease, 2.1)
    router.finished(lease, 2.2, Verdict.OK)
    router.install(_view(_target(other)), 3.0)
    assert router.inflight(candidate.target.key) == 0
    router.install(_view(_target("a"), _target("b")), 4.0)
    back = {c.target.node: c.prediction for c in router.plan(facts, 4.0).candidates}
    assert back[gone].cached_tokens == 0


def test_a_target_forgotten_between_plan_and_dispatch_can_still_be_sent_to() -> None:
    router = _router(_target("a"), _target("b"))
    candidate = router.plan(_facts(), 1.0).candidates[0]
    router.install(_view(), 1.1)
    lease = router.dispatched(candidate, _facts(), 1.2)
    assert router.inflight(candidate.target.key) == 1
    router.finished(lease, 1.3, Verdict.CONNECT_FAILED)
    router.install(_view(), 1.4)
    assert router.inflight(candidate.target.key) == 0


def test_a_model_that_left_the_view_has_no_targets_any_more() -> None:
    router = _router(_target("a"))
    router.install(RoutingView(version=2, built_at=1.0, nodes={}, eligible={}, targets={}), 1.0)
    assert router.plan(_facts(), 1.0).candidates == ()


def test_models_that_come_and_go_leave_nothing_behind() -> None:
    router = _router()
    for number in range(50):
        model = ModelName(f"m{number}")
        state = msgspec.structs.replace(_state("a"), model=model)
        target = msgspec.structs.replace(_target("a"), key=target_key(NodeId("a"), model), model=model, state=state)
        view = RoutingView(
            version=number, built_at=0.0, nodes={}, eligible={model: (target,)}, targets={target.key: target}
        )
        router.install(view, float(number))
        facts = msgspec.structs.replace(_facts(_text(number)), model=model)
        candidate = router.plan(facts, float(number)).candidates[0]
        router.finished(router.dispatched(candidate, facts, float(number)), number + 0.5, Verdict.OK)
    assert len(router._pools) == len(router._tracks) == 1


def _record(state: NodeState) -> NodeRecord:
    return NodeRecord(
        node=NodeId("a"),
        mesh_address=Address("127.0.0.1", 7443),
        roles=frozenset({Role.GPU}),
        zone="",
        state=state,
        since=0.0,
    )


def test_a_node_that_was_dead_is_met_as_new() -> None:
    router = _router(_target("a"), _target("b"))
    for turn in range(4):
        for node in "ab":
            _answer(router, _facts(), 10.0 * turn, 2.0 if node == "a" else 0.08, node)
    dead = {NodeId("a"): _record(NodeState.DEAD)}
    router.install(_view(_target("a", 40.0, unavailable="node dead"), _target("b", 40.0), nodes=dead), 41.0)
    alive = {NodeId("a"): _record(NodeState.ALIVE)}
    router.install(_view(_target("a", 42.0), _target("b", 42.0), nodes=alive), 42.0)
    seen = {c.target.node: c.prediction for c in router.score_all(_facts(), 42.0).candidates}
    assert seen[NodeId("a")].correction < 6.0  # The fleet's median, not the 25 learnt last.


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_the_same_seed_makes_the_same_plans(policy: str) -> None:
    def plans() -> list[Plan]:
        targets = (_target(f"gpu-{number:02}", running=number % 3) for number in range(30))
        router = _router(*targets, seed=5, config=RoutingConfig(policy=policy))
        made = []
        for turn in range(40):
            facts = _facts(_text(turn % 7, 6_000))
            plan = router.plan(facts, turn * 0.05)
            lease = router.dispatched(plan.candidates[0], facts, turn * 0.05)
            if turn % 2:
                router.first_byte(lease, turn * 0.05 + 0.01)
            made.append(plan)
        return made

    assert plans() == plans()
