import random
from collections import Counter
from collections.abc import Sequence

import pytest

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import Target
from infermesh.core.routing.policy import Policy, make_policy
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig
from infermesh.core.routing.score import Scorer
from infermesh.core.routing.track import Ask, Pool, Track

MODEL = ModelName("m")


def _pool(*loads: tuple[int, float], slots: Sequence[int] = ()) -> Pool:
    """Targets gpu-0 and up, each with (requests running, KV use); 256 slots where not said."""
    config = RoutingConfig()
    pool = Pool(config)
    tracks = []
    for number, (running, kv_usage) in enumerate(loads):
        node = NodeId(f"gpu-{number}")
        state = ModelState(
            node=node,
            model=MODEL,
            runtime="vllm",
            incarnation=1,
            sequence=1,
            source_time=0.0,
            lifecycle=Lifecycle.READY,
            slots=slots[number] if slots else 256,
        )
        target = Target(key=TargetKey(f"{node}/m"), node=node, model=MODEL, state=state, received_at=0.0)
        track = Track(target, pool, salt=number * 0x9E37_79B9_7F4A_7C15, config=config)
        track.load.report(0, running, kv_usage, at=0.0, rtt_s=0.0)
        tracks.append(track)
    pool.offer_from(tracks)
    return pool


def _policy(name: str) -> Policy:
    config = RoutingConfig(policy=name)
    return make_policy(config, Scorer(config))


def _ask(pool: Pool, *blocks: int, now: float = 0.0, prompt_bytes: int = 8_192) -> Ask:
    facts = RequestFacts(model=MODEL, prompt_bytes=prompt_bytes, output_tokens_max=10, stream=True, blocks=blocks)
    return Ask(pool, facts, now)


def _order(policy: Policy, pool: Pool, ask: Ask, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    scorer = Scorer(RoutingConfig())
    offers = [scorer.appraise(track, ask) for track in policy.draw(ask, rng)]
    return [str(offer.track.target.node) for offer in policy.order(offers, ask, rng)]


def _firsts(policy: Policy, pool: Pool, ask: Ask, times: int = 300) -> Counter[str]:
    return Counter(_order(policy, pool, ask, seed)[0] for seed in range(times))


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_policy_is_made_by_its_name_and_orders_all_that_it_drew(name: str) -> None:
    policy = _policy(name)
    assert policy.name == name
    pool = _pool((3, 0.1), (1, 0.5), (7, 0.0))
    for seed in range(20):
        assert sorted(_order(policy, pool, _ask(pool, 1, 2), seed)) == ["gpu-0", "gpu-1", "gpu-2"]


def test_an_unknown_policy_is_refused() -> None:
    config = RoutingConfig(policy="psychic")
    with pytest.raises(ValueError, match="'psychic'"):
        make_policy(config, Scorer(config))


def test_round_robin_goes_on_to_the_next_whatever_the_load() -> None:
    policy, pool = _policy("round_robin"), _pool((0, 0.0), (200, 0.9), (0, 0.0))
    firsts = [_order(policy, pool, _ask(pool))[0] for _ in range(6)]
    assert firsts == ["gpu-1", "gpu-2", "gpu-0", "gpu-1", "gpu-2", "gpu-0"]


def test_least_load_takes_the_target_with_the_fewest_requests_for_its_slots() -> None:
    policy = _policy("least_load")
    pool = _pool((10, 0.0), (12, 0.0), (11, 0.0), slots=(64, 256, 64))
    assert _order(policy, pool, _ask(pool)) == ["gpu-1", "gpu-0", "gpu-2"]


def test_least_load_shares_ties_out() -> None:
    policy, pool = _policy("least_load"), _pool((2, 0.0), (2, 0.0), (3, 0.0))
    firsts = _firsts(policy, pool, _ask(pool))
    assert set(firsts) == {"gpu-0", "gpu-1"}
    assert min(firsts.values()) > 80


def test_power_of_two_takes_the_best_with_probability_two_in_three_and_never_the_worst() -> None:
    policy, pool = _policy("power_of_two"), _pool((1, 0.0), (2, 0.0), (3, 0.0))
    firsts = _firsts(policy, pool, _ask(pool), times=900)
    assert set(firsts) == {"gpu-0", "gpu-1"}
    assert firsts["gpu-0"] == pytest.approx(600, abs=60)


def test_hot_cold_takes_the_fastest_of_the_cold() -> None:
    policy, pool = _policy("hot_cold"), _pool((2, 0.0), (1, 0.0), (40, 0.0))
    for track, latency_ms in zip(pool.tracks, (50.0, 90.0, 1.0), strict=True):
        track.learner.latency_ms = latency_ms
    assert _order(policy, pool, _ask(pool)) == ["gpu-0", "gpu-1", "gpu-2"]


def test_hot_cold_takes_the_least_loaded_when_all_are_hot() -> None:
    policy, pool = _policy("hot_cold"), _pool((1, 0.0), (1, 0.0), (1, 0.0))
    for seed in range(40):
        _order(policy, pool, _ask(pool), seed)
    for track, running in zip(pool.tracks, (30, 20, 25), strict=True):
        track.load.report(0, running, 0.0, at=1.0, rtt_s=0.0)
        track.learner.latency_ms = float(running)
    assert _order(policy, pool, _ask(pool)) == ["gpu-1", "gpu-2", "gpu-0"]


def test_predicted_ms_takes_the_least_when_the_intervals_are_apart() -> None:
    policy, pool = _policy("predicted_ms"), _pool((100, 0.0), (10, 0.0), (50, 0.0))
    for seed in range(20):
        assert _order(policy, pool, _ask(pool), seed) == ["gpu-1", "gpu-2", "gpu-0"]


def test_predicted_ms_takes_the_better_of_two_of_those_it_cannot_tell_apart() -> None:
    policy, pool = _policy("predicted_ms"), _pool((10, 0.0), (11, 0.0), (12, 0.0), (200, 0.0))
    firsts = _firsts(policy, pool, _ask(pool, prompt_bytes=40), times=900)
    assert set(firsts) == {"gpu-0", "gpu-1"}  # Of the three that are close, the worst never wins.
    assert firsts["gpu-0"] == pytest.approx(600, abs=60)


def test_predicted_ms_is_sure_between_two_unless_they_are_equal() -> None:
    policy, pool = _policy("predicted_ms"), _pool((10, 0.0), (11, 0.0))
    assert set(_firsts(policy, pool, _ask(pool))) == {"gpu-0"}
    pool = _pool((10, 0.0), (10, 0.0))
    firsts = _firsts(policy, pool, _ask(pool))
    assert min(firsts["gpu-0"], firsts["gpu-1"]) > 100


def test_predicted_ms_goes_to_the_cache_as_long_as_that_saves_time() -> None:
    policy, pool = _policy("predicted_ms"), _pool((10, 0.0), (0, 0.0))
    blocks = tuple(range(1, 25))  # 8 KiB: all of the prompt.
    _hold(pool, 0, *blocks)
    assert _order(policy, pool, _ask(pool, *blocks)) == ["gpu-0", "gpu-1"]
    pool.tracks[0].load.report(20, 200, 0.5, at=1.0, rtt_s=0.0)
    assert _order(policy, pool, _ask(pool, *blocks)) == ["gpu-1", "gpu-0"]


def _hold(pool: Pool, number: int, *blocks: int) -> None:
    pool.index.place(pool.tracks[number].holding, blocks, bytes_max=10**9, blocks_max=10**6)


def test_weighted_prefix_prefers_the_holder() -> None:
    policy, pool = _policy("weighted_prefix"), _pool((2, 0.2), (2, 0.2), (2, 0.2))
    _hold(pool, 2, *range(1, 30))
    assert _order(policy, pool, _ask(pool, *range(1, 30)))[0] == "gpu-2"


def test_weighted_prefix_leaves_an_overloaded_holder() -> None:
    policy, pool = _policy("weighted_prefix"), _pool((2, 0.2), (2, 0.2), (60, 0.2))
    _hold(pool, 2, *range(1, 30))
    assert _order(policy, pool, _ask(pool, *range(1, 30)))[-1] == "gpu-2"


def test_weighted_prefix_cools_a_hot_key() -> None:
    # Equal queues; the holder's KV memory is half full, the other's empty: 3 against 2 * 0.5.
    policy, pool = _policy("weighted_prefix"), _pool((2, 0.5), (2, 0.0), (2, 0.0), (2, 0.0))
    prompt = tuple(range(1, 24))
    _hold(pool, 0, *prompt)
    assert _order(policy, pool, _ask(pool, *prompt))[0] == "gpu-0"
    for _ in range(50):
        pool.heat.note(prompt[0])
    assert _order(policy, pool, _ask(pool, *prompt))[0] != "gpu-0"


def test_weighted_prefix_deals_cold_prompts_out_when_it_is_alone() -> None:
    policy, pool = _policy("weighted_prefix"), _pool((0, 0.0), (0, 0.0), (0, 0.0))
    firsts = [_order(policy, pool, _ask(pool, 100 + turn, now=float(turn + 1)))[0] for turn in range(9)]
    assert [firsts.count(f"gpu-{number}") for number in range(3)] == [3, 3, 3]
    assert firsts[:3] == firsts[3:6] == firsts[6:]


def test_weighted_prefix_sends_a_cold_prompt_where_other_routers_would() -> None:
    pool = _pool((4, 0.0), (4, 0.0), (4, 0.0))  # None of it our own: others send here, too.
    for key in range(1, 30):
        one = _order(_policy("weighted_prefix"), pool, _ask(pool, key), seed=1)
        assert one == _order(_policy("weighted_prefix"), pool, _ask(pool, key), seed=2)


def test_policies_look_at_few_targets_of_a_large_model() -> None:
    pool = _pool(*[(0, 0.0)] * 100)
    for name in POLICY_NAMES:
        drawn: list[Track] = _policy(name).draw(_ask(pool, 5), random.Random(1))
        assert 1 <= len(drawn) <= 8
