import msgspec
import pytest

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import Target
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.core.routing.track import Ask, Pool, Track, decode_speed

CONFIG = RoutingConfig()
MODEL = ModelName("m")
STATE = ModelState(
    node=NodeId("gpu-a"),
    model=MODEL,
    runtime="vllm",
    incarnation=1,
    sequence=1,
    source_time=0.0,
    lifecycle=Lifecycle.READY,
    running=10,
)


def _target(name: str, state: ModelState = STATE, *, suspect: bool = False) -> Target:
    return Target(
        key=TargetKey(f"{name}/m"),
        node=NodeId(name),
        model=MODEL,
        state=state,
        received_at=0.0,
        suspect=suspect,
    )


def _tracks(pool: Pool, *targets: Target) -> list[Track]:
    return [Track(target, pool, salt, CONFIG) for salt, target in enumerate(targets)]


def test_the_gap_of_an_engine_at_the_priors_speed_is_one() -> None:
    # Ten sequences: 15 + 0.2 * 10.
    assert decode_speed(msgspec.structs.replace(STATE, itl_ms=17.0), CONFIG) == pytest.approx(1.0)
    assert decode_speed(msgspec.structs.replace(STATE, itl_ms=51.0), CONFIG) == pytest.approx(3.0)


@pytest.mark.parametrize("speed", [0.25, 1.0, 4.0])
def test_prompts_between_two_tokens_are_taken_out_of_the_gap(speed: float) -> None:
    # An engine `speed` times slower than the prior that computes 4 prompt tokens each ms of wall time.
    tokens_per_ms = 2.0 / speed
    itl_ms = speed * 17.0 / (1.0 - tokens_per_ms * speed * 0.063)
    state = msgspec.structs.replace(STATE, itl_ms=itl_ms, prompt_tokens_per_s=tokens_per_ms * 1000.0)
    assert decode_speed(state, CONFIG) == pytest.approx(speed)


def test_cached_prompt_tokens_cost_no_time() -> None:
    state = msgspec.structs.replace(STATE, itl_ms=17.0, prompt_tokens_per_s=5000.0, prefix_hit_rate=1.0)
    assert decode_speed(state, CONFIG) == pytest.approx(1.0)


def test_an_idle_engines_gap_is_old_and_says_nothing() -> None:
    idle = msgspec.structs.replace(STATE, running=0, itl_ms=500.0)
    assert decode_speed(idle, CONFIG) == 0.0
    assert decode_speed(STATE, CONFIG) == 0.0  # No gap reported.


def test_unknown_capacities_are_the_priors() -> None:
    pool = Pool(CONFIG)
    known, unknown, nonsense = _tracks(
        pool,
        _target("a", msgspec.structs.replace(STATE, slots=8, kv_capacity_tokens=1000)),
        _target("b"),
        _target("c", msgspec.structs.replace(STATE, slots=-1, kv_capacity_tokens=-5)),
    )
    assert (known.slots, known.kv_capacity_tokens) == (8, 1000)
    assert (unknown.slots, unknown.kv_capacity_tokens) == (256, 307_328)
    assert (nonsense.slots, nonsense.kv_capacity_tokens) == (256, 307_328)


def test_bits_are_reused_so_that_masks_stay_short() -> None:
    pool = Pool(CONFIG)
    first, second, third = _tracks(pool, _target("a"), _target("b"), _target("c"))
    assert [track.holding.bit for track in (first, second, third)] == [1, 2, 4]
    pool.drop(second)
    [again] = _tracks(pool, _target("d"))
    assert again.holding.bit == 2
    assert pool.by_bit == {1: first, 2: again, 4: third}


def test_suspects_are_set_apart_unless_there_is_nobody_else() -> None:
    pool = Pool(CONFIG)
    trusted, suspect = _tracks(pool, _target("a"), _target("b", suspect=True))
    pool.offer_from([trusted, suspect])
    assert (pool.tracks, pool.suspects, pool.everybody) == ([trusted], [suspect], 1)
    pool.offer_from([suspect])
    assert (pool.tracks, pool.suspects, pool.everybody) == ([suspect], [], 2)
    pool.offer_from([])
    assert (pool.tracks, pool.suspects, pool.everybody) == ([], [], 0)


def test_the_arrival_rate_is_per_target_and_falls_in_a_silence() -> None:
    pool = Pool(CONFIG)
    pool.offer_from(_tracks(pool, _target("a"), _target("b")))
    assert pool.arrivals_per_ms(0.0) == 0.0
    for number in range(200):
        pool.arrived(number * 0.1)
    assert pool.arrivals_per_ms(19.9) == pytest.approx(0.005, rel=0.01)  # Ten a second over two targets.
    assert pool.arrivals_per_ms(29.9) == pytest.approx(1e-3 / (10.0 * 2))


def test_a_few_requests_at_one_instant_are_not_yet_a_rate() -> None:
    pool = Pool(CONFIG)
    pool.offer_from(_tracks(pool, _target("a")))
    for _ in range(4):
        pool.arrived(1.0)
    assert pool.arrivals_per_ms(1.0) < 0.002
    for _ in range(10_000):
        pool.arrived(1.0)
    assert pool.arrivals_per_ms(1.0) == pytest.approx(10.0)  # A mean gap below 0.1 ms is not believed.


def test_one_long_silence_does_not_end_a_rate() -> None:
    pool = Pool(CONFIG)
    pool.offer_from(_tracks(pool, _target("a")))
    for number in range(200):
        pool.arrived(number * 0.1)
    pool.arrived(3600.0)
    assert pool.arrivals_per_ms(3600.0) > 0.001


def _facts(*blocks: int, prompt_bytes: int = 4000, cap: int = 0) -> RequestFacts:
    return RequestFacts(model=MODEL, prompt_bytes=prompt_bytes, output_tokens_max=cap, stream=True, blocks=blocks)


def test_the_key_is_the_first_block_that_not_everybody_holds() -> None:
    pool = Pool(CONFIG)
    first, second = _tracks(pool, _target("a"), _target("b"))
    pool.offer_from([first, second])
    pool.index.place(first.holding, (1, 2, 3), bytes_max=10**6, blocks_max=100)
    assert Ask(pool, _facts(1, 2, 3), 0.0).key == 1
    pool.index.place(second.holding, (1, 2), bytes_max=10**6, blocks_max=100)
    ask = Ask(pool, _facts(1, 2, 3), 0.0)
    assert (ask.known, ask.shared, ask.key) == (3, 2, 3)
    pool.index.place(second.holding, (1, 2, 3), bytes_max=10**6, blocks_max=100)
    assert Ask(pool, _facts(1, 2, 3), 0.0).key == 0
    assert Ask(pool, _facts(), 0.0).key == 0


def test_sizes_are_in_measured_tokens() -> None:
    pool = Pool(CONFIG)
    pool.fleet.bytes_per_token = 5.0
    pool.fleet.output_tokens = 100.0
    ask = Ask(pool, _facts(prompt_bytes=1000, cap=40), 0.0)
    assert (ask.prompt_tokens, ask.output_tokens) == (200.0, 40.0)
    assert Ask(pool, _facts(prompt_bytes=0), 0.0).prompt_tokens == 1.0
