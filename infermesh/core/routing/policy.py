"""The policies: each says which targets to look at and orders what was seen, best first.

All see the same offers (load with own attempts counted in, cached prefix, predicted milliseconds); they differ
only in what they make of them. A policy may keep counters, no clock and no randomness but the `rng` it is
handed. `docs/decisions/0002-default-policy.md` compares them.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from infermesh.core.model.ports import Rng
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.core.routing.sampling import draw_sample, rendezvous, shuffled_sort, two_of
from infermesh.core.routing.score import Scorer
from infermesh.core.routing.track import Ask, Offer, Track


class Policy(Protocol):
    """One way to choose. `draw` is called once per plan and never answers () for a model with targets."""

    name: str

    def draw(self, ask: Ask, rng: Rng) -> list[Track]: ...

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        """All of `offers`, best first. `offers` is not empty and may be reordered."""
        ...


def make_policy(config: RoutingConfig, scorer: Scorer) -> Policy:
    match config.policy:
        case "predicted_ms":
            return PredictedMs(config, scorer)
        case "weighted_prefix":
            return WeightedPrefix(config)
        case "power_of_two":
            return PowerOfTwo(config)
        case "least_load":
            return LeastLoad(config)
        case "hot_cold":
            return HotCold(config)
        case "round_robin":
            return RoundRobin(config)
        case unknown:
            raise ValueError(f"routing.policy is {unknown!r}, which is no policy of this version")


class _Sampling:
    """Draws as `sampling.draw_sample` does, with the limits of the configuration."""

    def __init__(self, config: RoutingConfig) -> None:
        self._scan_max = config.scan_max
        self._sample_size = config.sample_size
        self._holders_max = config.holders_max

    def draw(self, ask: Ask, rng: Rng) -> list[Track]:
        return draw_sample(
            ask,
            rng,
            scan_max=self._scan_max,
            sample_size=self._sample_size,
            holders_max=self._holders_max,
        )


def _load(offer: Offer) -> float:
    return offer.total / offer.track.slots


def _score(offer: Offer) -> float:
    return offer.score_ms


class RoundRobin:
    """The next target in the order of their names, whatever its load."""

    name = "round_robin"

    def __init__(self, config: RoutingConfig) -> None:
        self._count = config.candidates_max

    def draw(self, ask: Ask, rng: Rng) -> list[Track]:
        pool = ask.pool
        count = len(pool.tracks)
        turn = pool.turn = (pool.turn + 1) % count
        return [pool.tracks[(turn + step) % count] for step in range(min(count, self._count))]

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        return offers


class LeastLoad(_Sampling):
    """The target with the fewest requests for its slots."""

    name = "least_load"

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        return shuffled_sort(offers, _load, rng)


class PowerOfTwo(_Sampling):
    """The less loaded of two drawn at random; the rest follow by load."""

    name = "power_of_two"

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        ordered = shuffled_sort(offers, _load, rng)
        if len(ordered) > 2:
            one = int(rng.random() * len(ordered))
            other = int(rng.random() * (len(ordered) - 1))
            best = min(one, other + (other >= one))  # Sorted by load: the earlier is the less loaded.
            ordered.insert(0, ordered.pop(best))
        return ordered


class HotCold(_Sampling):
    """Prequal's rule (NSDI'24): a target with more requests in flight than the quantile of recent probes is
    hot. Among the cold the one of least latency, else the one with the fewest requests.

    For models without prompts. Every report and hint is a probe here, and own attempts are counted in at once,
    which stands for the removal and reuse rules of a probe pool.
    """

    name = "hot_cold"

    # Quantile and window of the loads that set the threshold: prequal-rs found 0.6 over the last 64 probes
    # to herd less than the paper's 0.84.
    _QUANTILE = 0.6
    _PROBES = 64

    def __init__(self, config: RoutingConfig) -> None:
        super().__init__(config)
        self._probes: deque[int] = deque(maxlen=self._PROBES)

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        self._probes.extend(offer.total for offer in offers)
        ordered = sorted(self._probes)
        threshold = ordered[int(self._QUANTILE * (len(ordered) - 1))]
        cold = [offer for offer in offers if offer.total <= threshold]
        hot = [offer for offer in offers if offer.total > threshold]
        return [
            *(shuffled_sort(cold, _latency, rng) if cold else ()),
            *(shuffled_sort(hot, _requests, rng) if hot else ()),
        ]


def _latency(offer: Offer) -> float:
    return offer.track.learner.latency_ms  # 0.0 while unknown: an untried target is tried.


def _requests(offer: Offer) -> float:
    return float(offer.total)


class PredictedMs(_Sampling):
    """Least predicted milliseconds; of those that cannot be told apart, the better of two."""

    name = "predicted_ms"

    def __init__(self, config: RoutingConfig, scorer: Scorer) -> None:
        super().__init__(config)
        self._width_ms = scorer.width_ms

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        ordered = sorted(offers, key=_score)
        width_ms, now = self._width_ms, ask.now
        high_ms = ordered[0].score_ms + width_ms(ordered[0], now)
        count = 1
        while count < len(ordered) and ordered[count].score_ms - width_ms(ordered[count], now) <= high_ms:
            count += 1
        # Of two the better one is simply the first, unless they are equal.
        if count > 2 or (count == 2 and ordered[0].score_ms == ordered[1].score_ms):
            one, other = two_of(ordered[:count], ask, rng)
            best = one if one.score_ms <= other.score_ms else other
            ordered.remove(best)
            ordered.insert(0, best)
        return ordered


class WeightedPrefix(_Sampling):
    """A weighted sum without a time model, after prequal-rs: cached share over heat, queue, free KV memory, an
    overload term, and a place for prompts that nobody holds.

    score = 3 prefix/heat + 2 queue + 2 (1 - kv) - 6 max(0, load/mean - 1.5) + cold; the highest wins.
    """

    name = "weighted_prefix"

    def order(self, offers: list[Offer], ask: Ask, rng: Rng) -> list[Offer]:
        count = len(offers)
        cold = ask.known <= ask.shared
        total = sum(offer.total for offer in offers)
        mean = max(total / count, 1e-9)
        heat = _heat(ask)
        waits = [_waiting(offer, cold=cold) for offer in offers]
        least, most = min(waits), max(waits)
        places = _cold_places(offers, ask, total) if cold else None
        scores: dict[int, float] = {}
        for index, offer in enumerate(offers):
            share = 1.0 - offer.uncached_tokens / ask.prompt_tokens
            queue = (most - waits[index]) / (most - least) if most > least else 1.0
            overload = max(0.0, offer.total / mean - 1.5)
            score = 3.0 * share / heat + 2.0 * queue + 2.0 * (1.0 - offer.track.load.kv_usage)
            score -= 6.0 * overload
            if places is not None:
                score += places[index]
            scores[id(offer)] = score
        salted = ask.key
        ordered = sorted(
            offers,
            key=lambda offer: (-round(scores[id(offer)], 6), rendezvous(salted, offer.track.salt)),
        )
        if cold:
            ordered[0].track.cold_at = ask.now
        return ordered


def _waiting(offer: Offer, *, cold: bool) -> int:
    load = offer.track.load
    return load.queue_len if cold else max(load.queue_len, load.awaiting)


def _heat(ask: Ask) -> float:
    """Above 1 when the key's share of traffic is more than its holders' share of the fleet."""
    if not ask.known or not ask.key:
        return 1.0
    pool = ask.pool
    most_of_it = ask.blocks[max(0, -(-9 * ask.known // 10) - 1)]
    holders = (pool.index.mask(most_of_it) & pool.everybody).bit_count()
    return max(1.0, pool.heat.share(ask.key) * len(pool.tracks) / max(1, holders))


def _cold_places(offers: list[Offer], ask: Ask, total: int) -> list[float]:
    """Where a prompt goes that nobody holds: alone, to whoever got such a one longest ago; beside other
    routers, to where all of them would send it."""
    own = sum(offer.track.load.own for offer in offers)
    alone = total == 0 or own >= 0.75 * total
    last = max(1, len(offers) - 1)
    if alone:
        ordered = sorted(range(len(offers)), key=lambda index: offers[index].track.cold_at)
        weight = 2.0
    else:
        ordered = sorted(
            range(len(offers)), key=lambda index: rendezvous(ask.key, offers[index].track.salt), reverse=True
        )
        weight = 4.0
    places = [0.0] * len(offers)
    for rank, index in enumerate(ordered):
        places[index] = weight * (last - rank) / last
    return places
