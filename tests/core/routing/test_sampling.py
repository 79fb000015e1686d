import random
from collections import Counter

import pytest

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import Target
from infermesh.core.routing.prefix import Heat
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.core.routing.sampling import draw_sample, is_hot, rendezvous, shuffled_sort, two_of
from infermesh.core.routing.track import Ask, Pool, Track

CONFIG = RoutingConfig()
MODEL = ModelName("m")


def _pool(count: int) -> Pool:
    pool = Pool(CONFIG)
    salts = random.Random(7)
    tracks = []
    for number in range(count):
        node = NodeId(f"gpu-{number:04}")
        state = ModelState(
            node=node,
            model=MODEL,
            runtime="vllm",
            incarnation=1,
            sequence=1,
            source_time=0.0,
            lifecycle=Lifecycle.READY,
        )
        target = Target(key=TargetKey(f"{node}/m"), node=node, model=MODEL, state=state, received_at=0.0)
        tracks.append(Track(target, pool, salts.getrandbits(64), CONFIG))
    pool.offer_from(tracks)
    return pool


def _ask(pool: Pool, *blocks: int) -> Ask:
    facts = RequestFacts(model=MODEL, prompt_bytes=4000, output_tokens_max=0, stream=True, blocks=blocks)
    return Ask(pool, facts, 0.0)


def _draw(pool: Pool, ask: Ask, seed: int) -> list[Track]:
    assert ask.pool is pool
    return draw_sample(ask, random.Random(seed), scan_max=8, sample_size=3, holders_max=2)


def _send(pool: Pool, number: int, *blocks: int) -> None:
    pool.index.place(pool.tracks[number].holding, blocks, bytes_max=10**7, blocks_max=1000)


def test_a_small_model_is_scanned_whole() -> None:
    pool = _pool(8)
    assert _draw(pool, _ask(pool), 1) == pool.tracks


def test_a_large_model_is_sampled_evenly() -> None:
    pool = _pool(20)
    seen = Counter(track.holding.bit for seed in range(2000) for track in _draw(pool, _ask(pool), seed))
    assert len(seen) == 20
    assert max(seen.values()) < 1.5 * min(seen.values())


def test_the_holders_of_the_longest_prefix_are_always_looked_at() -> None:
    pool = _pool(100)
    _send(pool, 42, 1, 2, 3)
    _send(pool, 77, 1, 2)
    for seed in range(20):
        drawn = _draw(pool, _ask(pool, 1, 2, 3, 4), seed)
        assert drawn[0] is pool.tracks[42]
        assert pool.tracks[77] in drawn  # It holds the key, the first block that not everybody has.
        assert len(drawn) == len(set(map(id, drawn)))


def test_many_holders_take_turns() -> None:
    pool = _pool(100)
    for number in range(10, 90):
        _send(pool, number, 1)
    seen = Counter(track.holding.bit for seed in range(300) for track in _draw(pool, _ask(pool, 1), seed)[:2])
    assert len(seen) > 60


def test_a_cold_prompts_homes_are_the_same_for_every_router() -> None:
    one, other = _pool(100), _pool(100)
    key = 0x1234_5678_9ABC_DEF0
    homes = [f"gpu-{key % 100:04}", f"gpu-{(key >> 32) % 100:04}"]
    for seed, pool in ((1, one), (2, other)):
        assert [str(track.target.node) for track in _draw(pool, _ask(pool, key), seed)[:2]] == homes


def test_a_hot_prompt_has_no_home() -> None:
    pool = _pool(100)
    key = 0x1234_5678_9ABC_DEF0
    for _ in range(10):
        pool.heat.note(key)
    ask = _ask(pool, key)
    assert is_hot(ask)
    assert all(pool.tracks[key % 100] not in _draw(pool, ask, seed) for seed in range(10))


def test_a_key_is_hot_when_it_asks_for_more_than_one_targets_share() -> None:
    pool = _pool(4)
    pool.heat = Heat()
    for key in (7, 7, 1, 2, 3, 4, 5, 6):
        pool.heat.note(key)
    assert not is_hot(_ask(pool, 7))  # A quarter of the traffic, for a quarter of the fleet.
    pool.heat.note(7)
    assert is_hot(_ask(pool, 7))


def test_the_two_of_a_prompt_with_text_are_the_same_for_every_router() -> None:
    pool = _pool(5)
    offers = [track.offer for track in pool.tracks]
    for key in range(1, 50):
        first = two_of(offers, _ask(pool, key), random.Random(1))
        assert first == two_of(list(reversed(offers)), _ask(pool, key), random.Random(2))
        ranks = sorted((rendezvous(key, offer.track.salt) for offer in offers), reverse=True)
        assert [rendezvous(key, offer.track.salt) for offer in first] == ranks[:2]


def test_rendezvous_spreads_keys_evenly() -> None:
    pool = _pool(4)
    keys = random.Random(3)
    first = Counter(
        max(pool.tracks, key=lambda track: rendezvous(key, track.salt)).target.node
        for key in (keys.getrandbits(64) for _ in range(4000))
    )
    assert max(first.values()) < 1.15 * 1000
    assert min(first.values()) > 0.85 * 1000


def test_the_two_of_a_prompt_without_text_are_any_two() -> None:
    pool = _pool(4)
    offers = [track.offer for track in pool.tracks]
    rng = random.Random(1)
    pairs = Counter(
        frozenset(offer.track.holding.bit for offer in two_of(offers, _ask(pool), rng)) for _ in range(3000)
    )
    assert len(pairs) == 6
    assert all(len(pair) == 2 for pair in pairs)
    assert max(pairs.values()) < 1.3 * min(pairs.values())


def test_equals_are_sorted_from_anywhere() -> None:
    pool = _pool(3)
    offers = [track.offer for track in pool.tracks]
    rng = random.Random(1)
    firsts = Counter(shuffled_sort(offers, lambda _: 0.0, rng)[0].track.holding.bit for _ in range(900))
    assert sorted(firsts) == [1, 2, 4]
    assert min(firsts.values()) > 250


@pytest.mark.parametrize("count", [1, 3])
def test_a_sort_keeps_the_order_of_what_differs(count: int) -> None:
    pool = _pool(count)
    offers = [track.offer for track in pool.tracks]
    rank = {id(offer): float(number) for number, offer in enumerate(reversed(offers))}
    assert shuffled_sort(offers, lambda offer: rank[id(offer)], random.Random(1)) == list(reversed(offers))
