"""The score: what this target would make of this request, in predicted milliseconds.

The engine's step model gives the shape, what was learnt of the target gives the scale:

- a step takes `base + per_sequence * n` ms with n sequences decoding, plus `per_token` for each prompt token
  computed in it, at most `batch_tokens_max` tokens together;
- prompts are computed first come, first served; the first token comes with the step that ends the prompt;
- a full engine admits nobody until somebody leaves.

Pure arithmetic on a `Track` and an `Ask`; writes the track's `Offer`. This is the hot path: about 2 us for a
target, so rare cases (a full engine, failures, KV pressure) are in functions of their own.
"""

from __future__ import annotations

from infermesh.core.routing.plan import Candidate, Prediction
from infermesh.core.routing.prefix import ENDS
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.core.routing.track import Ask, Offer, Track

_KV_PRESSURE_FROM = 0.9  # Use of KV memory after admission from which preemption begins to be likely; 1 at 1.0.
_STALE_S_MAX = 10.0  # Interval widths stop to grow here: such a signal says nothing already.


class Scorer:
    """Appraises targets under one configuration."""

    __slots__ = ("_config", "_decode", "_prior", "_ratio", "_widths")

    def __init__(self, config: RoutingConfig) -> None:
        self._config = config
        self._ratio = config.quantile_prior_ratio
        prior = config.prior
        # Unpacked at once: cheaper than a chain of attributes for each of them.
        self._prior = (
            prior.step_base_ms,
            prior.per_sequence_ms,
            prior.per_prefill_token_ms,
            prior.batch_tokens_max,
        )
        self._widths = (config.near_tie_ms, config.near_tie_share, config.staleness_ms_per_s)
        self._decode = (config.decode_weight, config.others_weight, config.explore_inflight_max)

    def appraise(self, track: Track, ask: Ask) -> Offer:
        base_ms, sequence_ms, token_ms, batch_tokens = self._prior
        decode_weight, others_weight, explore_inflight_max = self._decode
        now, load, learner, offer, fleet = ask.now, track.load, track.learner, track.offer, track.fleet
        if now >= learner.fresh_until:
            learner.refresh(fleet, now, half_life_s=self._config.correction_half_life_s)
        if load.unary_due:
            load.settle_unary(now)
        correction = offer.correction = learner.correction
        token_ms *= correction

        # What is there already.
        own = load.own
        total = load.queue_len + load.running + load.arrived - load.departed
        if total < own:
            total = own
        offer.total = total
        others = total - own
        waiting = load.queue_len - load.awaiting
        waiting = 0 if waiting <= 0 else waiting if waiting < others else others
        decoding = load.decoding + others - waiting
        step_ms = (base_ms + sequence_ms * decoding) * correction
        step_tokens = batch_tokens - (decoding if 2 * decoding < batch_tokens else batch_tokens // 2)
        tokens_per_ms = 1.0 / (token_ms + step_ms / step_tokens)
        queue_ms = waiting * fleet.uncached_tokens / tokens_per_ms
        if load.awaiting:
            queue_ms += load.backlog_ms(now, tokens_per_ms, step_tokens)

        # What of the prompt is not there.
        uncached = tokens = ask.prompt_tokens
        if ask.known and (depth := ask.pool.index.depth(track.holding, ask.blocks, ask.known)):
            uncached = max(1.0, tokens - ENDS[depth - 1] / fleet.bytes_per_token)
        offer.uncached_tokens = uncached

        # Until the first token; of the step under way half is over, on average.
        compute_ms = uncached * token_ms
        if decoding or queue_ms:
            queue_ms += 0.5 * step_ms
        decode_ms = (base_ms + sequence_ms * (decoding + 1)) * learner.speed / track.decode_share
        capacity = track.kv_capacity_tokens
        kv_tokens = load.kv_usage * capacity + load.arrived_tokens
        if total >= track.slots or kv_tokens + tokens > capacity:
            queue_ms += _admission_ms(track, kv_tokens, tokens, fleet.output_tokens * decode_ms)
        offer.queue_ms = queue_ms
        prefill_ms = offer.prefill_ms = compute_ms + (1.0 + uncached // step_tokens) * step_ms
        ttft_ms = offer.ttft_ms = track.network_ms + queue_ms + prefill_ms

        # After it, and around it: whoever decodes here waits while this prompt is computed, and so do those
        # who come meanwhile.
        decode_ms *= ask.output_tokens
        offer.decode_ms = decode_ms
        behind = ask.arrivals_per_ms * (queue_ms + prefill_ms)
        others_ms = compute_ms * (behind + decode_weight * decoding)
        offer.others_ms = others_ms
        penalty_ms = 0.0
        kv_after = (kv_tokens + tokens + 0.5 * ask.output_tokens) / capacity
        if kv_after > _KV_PRESSURE_FROM:
            penalty_ms = _preemption_ms(kv_after, (tokens + 0.5 * ask.output_tokens) * token_ms)
        if load.awaiting >= explore_inflight_max and learner.proof < 1.0:
            # Unproven, and already on trial: each answer still awaited may be as late as this one.
            penalty_ms += load.awaiting * ttft_ms
        if learner.failing or track.loading:
            penalty_ms += self._trouble_ms(track, ttft_ms, now)
        offer.penalty_ms = penalty_ms
        offer.score_ms = ttft_ms + decode_weight * decode_ms + penalty_ms + others_weight * others_ms
        return offer

    def width_ms(self, offer: Offer, now: float) -> float:
        """Half-width of the interval of a score: what is closer than that cannot be told apart.

        Own attempts are counted exactly, so age costs certainty only as far as others send there, too. Half of
        that is granted always: others may have begun since the report.
        """
        fixed_ms, share, per_s = self._widths
        load = offer.track.load
        age_s = now - load.reported_at
        if age_s > _STALE_S_MAX:
            age_s = _STALE_S_MAX
        others_share = 1.0 - load.own / offer.total if offer.total else 0.0
        return fixed_ms + share * offer.score_ms + per_s * age_s * (0.5 + 0.5 * others_share)

    def candidate(self, offer: Offer, ask: Ask) -> Candidate:
        """The lasting copy of an offer."""
        track = offer.track
        width_ms = self.width_ms(offer, ask.now)
        # The quantile that a hedge waits for, from what residuals were like: the target's own, or its fleet's.
        ratio = track.learner.spread.ratio or track.fleet.spread.ratio or self._ratio
        late_ms = (offer.queue_ms + offer.prefill_ms) * (ratio if ratio > 1.0 else 1.0)
        uncached = int(offer.uncached_tokens + 0.5)
        # By position, in the order of the fields: a fifth of the cost of names.
        prediction = Prediction(
            offer.ttft_ms,
            offer.ttft_ms + offer.decode_ms + offer.penalty_ms,
            track.network_ms,
            offer.queue_ms,
            offer.prefill_ms,
            offer.decode_ms,
            offer.penalty_ms,
            offer.score_ms - width_ms,
            offer.score_ms + width_ms,
            track.network_ms + late_ms,
            int(ask.prompt_tokens + 0.5) - uncached,
            uncached,
            ask.now - track.load.reported_at,
            track.load.own,
            offer.correction,
            offer.others_ms,
            int(ask.output_tokens + 0.5),
        )
        return Candidate(track.target, prediction, offer.score_ms)

    def _trouble_ms(self, track: Track, ttft_ms: float, now: float) -> float:
        """Probability times cost of a failed attempt, and the wait for a model that is still loading."""
        config = self._config
        rate = track.learner.failure_rate(now, config.correction_half_life_s)
        trouble_ms = rate * (config.failure_cost_ms + ttft_ms)
        return trouble_ms + config.load_cost_ms if track.loading else trouble_ms


def _admission_ms(track: Track, kv_tokens: float, tokens: float, stay_ms: float) -> float:
    """Wait for a free slot and for KV memory: a full engine turns over once in a mean stay."""
    excess = track.offer.total + 1 - track.slots
    wait_ms = excess / track.slots * stay_ms if excess > 0 else 0.0
    missing = kv_tokens + tokens - track.kv_capacity_tokens
    if missing > 0.0:
        wait_ms = max(wait_ms, missing / track.kv_capacity_tokens * stay_ms)
    return wait_ms


def _preemption_ms(kv_after: float, recompute_ms: float) -> float:
    """KV pressure: how likely the newest sequence (this one) is thrown out, times computing it again."""
    return min(1.0, (kv_after - _KV_PRESSURE_FROM) / (1.0 - _KV_PRESSURE_FROM)) * recompute_ms
