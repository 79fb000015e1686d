"""Which targets are looked at, and how ties are broken, so that routers neither scan a fleet nor herd on it.

Prompts with text break ties by rendezvous: routers that know nothing of each other send the same prefix to
the same two targets. A hot prefix, and a prompt without text, break them at random.
"""

from __future__ import annotations

from collections.abc import Callable

from infermesh.core.model.ports import Rng
from infermesh.core.routing.track import Ask, Offer, Pool, Track

_MASK_64 = (1 << 64) - 1
_ODD_64 = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: spreads neighbouring products over all high bits.


def rendezvous(key: int, salt: int) -> int:
    """Rank of a target for a key; every router computes the same."""
    return ((key ^ salt) * _ODD_64) & _MASK_64


def is_hot(ask: Ask) -> bool:
    """Whether one target's fair share of the traffic is less than what asks for this prompt's key."""
    pool = ask.pool
    return pool.heat.share(ask.key) * len(pool.tracks) > 1.0


def draw_sample(ask: Ask, rng: Rng, *, scan_max: int, sample_size: int, holders_max: int) -> list[Track]:
    """All targets of a small model. Of a large one: holders of the prefix, its homes, and a random sample."""
    pool = ask.pool
    tracks = pool.tracks
    count = len(tracks)
    if count <= scan_max:
        return tracks
    drawn: list[Track] = []
    if ask.known:
        mask = pool.index.mask(ask.blocks[ask.known - 1]) & pool.everybody
        _add_holders(drawn, pool, mask, rng, holders_max)
    if ask.key:
        if len(drawn) < holders_max:
            _add_holders(drawn, pool, pool.index.mask(ask.key) & pool.everybody, rng, holders_max)
        if not is_hot(ask):
            _add(drawn, tracks[ask.key % count])
            _add(drawn, tracks[(ask.key >> 32) % count])
    random = rng.random
    for _ in range(sample_size):
        track = tracks[int(random() * count)]
        if track not in drawn:
            drawn.append(track)
    return drawn


def _add(drawn: list[Track], track: Track) -> None:
    if track not in drawn:
        drawn.append(track)


def _add_holders(drawn: list[Track], pool: Pool, mask: int, rng: Rng, holders_max: int) -> None:
    if mask.bit_count() > holders_max:
        # Start anywhere among many holders, else the lowest bits get everything.
        turned = mask >> (start := rng.randrange(mask.bit_length())) << start
        mask = turned or mask
    while mask and len(drawn) < holders_max:
        bit = mask & -mask
        mask ^= bit
        _add(drawn, pool.by_bit[bit])


def two_of(near: list[Offer], ask: Ask, rng: Rng) -> tuple[Offer, Offer]:
    """Two of at least two offers that cannot be told apart."""
    if ask.key and not is_hot(ask):
        key = ask.key
        first, second = near[0], near[1]
        best = second_best = -1
        for offer in near:
            rank = ((key ^ offer.track.salt) * _ODD_64) & _MASK_64  # `rendezvous`, without the call.
            if rank > best:
                second, second_best = first, best
                first, best = offer, rank
            elif rank > second_best:
                second, second_best = offer, rank
        return first, second
    count = len(near)
    one = int(rng.random() * count)
    other = int(rng.random() * (count - 1))
    return near[one], near[other + (other >= one)]


def shuffled_sort(offers: list[Offer], key: Callable[[Offer], float], rng: Rng) -> list[Offer]:
    """Sorted by `key`, equals in an order that begins at random, so that ties do not all go to the first."""
    start = int(rng.random() * len(offers))
    return sorted(offers[start:] + offers[:start], key=key)
