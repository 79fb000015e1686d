"""What one router keeps of each target and of each model between requests. Mutable, owned by the router.

Not decisions: `score` computes from these, `policy` compares, `router` keeps them up to date.
"""

from __future__ import annotations

import math

from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import Target
from infermesh.core.routing.learner import FleetLearner, TargetLearner
from infermesh.core.routing.load import TargetLoad
from infermesh.core.routing.prefix import Heat, Holding, PrefixIndex
from infermesh.core.routing.router_config import RoutingConfig

_ARRIVALS_WINDOW = 16.0  # The arrival rate is a mean over about so many requests.
_GAP_S_MAX = 10.0  # A longer silence between two requests says no more than this one.


class Offer:
    """One target's figures for the request at hand, in ms. Each track owns one and it is overwritten: what
    must outlive the plan is copied into a `Prediction`."""

    __slots__ = (
        "correction",
        "decode_ms",
        "others_ms",
        "penalty_ms",
        "prefill_ms",
        "queue_ms",
        "score_ms",
        "total",
        "track",
        "ttft_ms",
        "uncached_tokens",
    )

    def __init__(self, track: Track) -> None:
        self.track = track
        self.queue_ms = 0.0
        self.prefill_ms = 0.0
        self.decode_ms = 0.0
        self.penalty_ms = 0.0
        self.others_ms = 0.0
        self.ttft_ms = 0.0
        self.score_ms = 0.0
        self.correction = 1.0
        self.total = 0  # Requests at the target, of all routers.
        self.uncached_tokens = 0.0


class Track:
    """One target as this router knows it."""

    __slots__ = (
        "absent",
        "cold_at",
        "decode_share",
        "fleet",
        "holding",
        "incarnation",
        "kv_capacity_tokens",
        "learner",
        "learns_at",
        "load",
        "loading",
        "network_ms",
        "offer",
        "salt",
        "slots",
        "target",
    )

    def __init__(self, target: Target, pool: Pool, salt: int, config: RoutingConfig) -> None:
        self.load = TargetLoad()
        self.learner = TargetLearner()
        self.fleet = pool.fleet
        self.holding = Holding(pool.take_bit(self))
        self.salt = salt  # Of its key: every router ranks the targets of a prompt alike.
        self.learns_at = -math.inf  # From when on a whole answer teaches something again.
        self.cold_at = 0.0  # When weighted_prefix last sent it a prompt that nobody held.
        self.incarnation = target.state.incarnation
        self.absent = False  # Its node died, and has not come back into choice since.
        self.offer = Offer(self)
        self.decode_share = 1.0
        self.take(target, config)

    def take(self, target: Target, config: RoutingConfig) -> None:
        """Use this description of the target from now on. Load and learning are the router's to update."""
        state = target.state
        self.target = target
        self.network_ms = target.rtt_s * 1e3
        # 0 is unknown, and less than that is nonsense from the node: the prior's in both cases.
        self.slots = state.slots if state.slots > 0 else config.prior.slots
        known = state.kv_capacity_tokens > 0
        self.kv_capacity_tokens = state.kv_capacity_tokens if known else config.prior.kv_capacity_tokens
        self.loading = state.lifecycle is Lifecycle.LOADING
        computed_per_s = state.prompt_tokens_per_s * (1.0 - state.prefix_hit_rate)
        # Share of the engine's time that is left for decodes, at the prior's speed: they wait for prompts.
        share = max(0.2, 1.0 - computed_per_s * config.prior.per_prefill_token_ms * 1e-3)
        self.decode_share += 0.2 * (share - self.decode_share)  # Prompts come in lumps; this is their mean.


def decode_speed(state: ModelState, config: RoutingConfig) -> float:
    """How many times slower than the prior this engine decodes, by its own inter-token gap; 0.0 unknown.

    A gap holds the decode step and the prefills that ran between two tokens: with step time s*b and prompts
    taking s*p ms per token at r tokens per ms, itl = s*b + itl*r*s*p, hence s = itl / (b + itl*r*p).
    """
    if state.itl_ms <= 0.0 or (state.running == 0 and state.generation_tokens_per_s <= 0.0):
        return 0.0  # Idle: the gap is that of an hour ago, perhaps.
    prior = config.prior
    base = prior.step_base_ms + prior.per_sequence_ms * max(1, state.running)
    computed_per_ms = state.prompt_tokens_per_s * (1.0 - state.prefix_hit_rate) * 1e-3
    return state.itl_ms / (base + state.itl_ms * computed_per_ms * prior.per_prefill_token_ms)


class Ask:
    """One request as the policies see it: the facts, in tokens, and the moment."""

    __slots__ = (
        "arrivals_per_ms",
        "blocks",
        "key",
        "known",
        "now",
        "output_tokens",
        "pool",
        "prompt_tokens",
        "shared",
    )

    def __init__(self, pool: Pool, facts: RequestFacts, now: float) -> None:
        fleet = pool.fleet
        self.pool = pool
        self.now = now
        self.blocks = facts.blocks
        self.prompt_tokens = max(1.0, facts.prompt_bytes / fleet.bytes_per_token)
        cap = facts.output_tokens_max
        self.output_tokens = min(float(cap), fleet.output_tokens) if cap > 0 else fleet.output_tokens
        self.arrivals_per_ms = pool.arrivals_per_ms(now)
        blocks = facts.blocks
        known = self.known = pool.index.known(blocks) if blocks else 0
        shared = self.shared = pool.index.shared(blocks, known, pool.everybody) if known else 0
        # 0: no text, or every target holds all of it, so that it draws the request nowhere.
        self.key = blocks[shared] if shared < len(blocks) else 0


class Pool:
    """One model: its eligible targets, what its answers taught, which prefixes are where."""

    __slots__ = (
        "_arrived_at",
        "_bits",
        "_interval_s",
        "by_bit",
        "everybody",
        "fleet",
        "heat",
        "index",
        "suspects",
        "tracks",
        "turn",
    )

    def __init__(self, config: RoutingConfig) -> None:
        self.tracks: list[Track] = []  # To choose from: not suspect, unless all are.
        self.suspects: list[Track] = []  # Only for a retry that finds nobody else.
        self.everybody = 0  # Mask of `tracks`.
        self.fleet = FleetLearner(
            bytes_per_token=config.prior_bytes_per_token, output_tokens=config.prior_output_tokens
        )
        self.index = PrefixIndex()
        self.heat = Heat()
        self.turn = 0  # Of round robin.
        self.by_bit: dict[int, Track] = {}  # Whose bit of the prefix masks it is.
        self._bits = 0  # All of them.
        self._arrived_at = -math.inf
        self._interval_s = 1.0  # Until some have come: the first burst must not look like the rate of the day.

    def take_bit(self, track: Track) -> int:
        """The lowest free bit, so that masks stay as short as the fleet is."""
        bit = ~self._bits & (self._bits + 1)
        self._bits |= bit
        self.by_bit[bit] = track
        return bit

    def drop(self, track: Track) -> None:
        self.index.forget(track.holding)
        self._bits &= ~track.holding.bit
        del self.by_bit[track.holding.bit]

    def offer_from(self, tracks: list[Track]) -> None:
        trusted = [track for track in tracks if not track.target.suspect]
        self.tracks = trusted or tracks
        self.suspects = [track for track in tracks if track.target.suspect] if trusted else []
        everybody = 0
        for track in self.tracks:
            everybody |= track.holding.bit
        self.everybody = everybody

    def arrived(self, now: float) -> None:
        gap_s = min(now - self._arrived_at, _GAP_S_MAX)
        self._arrived_at = now
        self._interval_s += (gap_s - self._interval_s) / _ARRIVALS_WINDOW

    def arrivals_per_ms(self, now: float) -> float:
        """At one target, on average, from this router. A silence longer than the mean gap lowers it."""
        if not self.tracks or self._arrived_at == -math.inf:
            return 0.0
        gap_s = max(self._interval_s, now - self._arrived_at, 1e-4)
        return 1e-3 / (gap_s * len(self.tracks))
