"""The router's choice: one object per router process, owned by the data plane. Pure and single-threaded.

The caller's duties, in order:

1. `install` each new view before planning on it;
2. `plan` a request, then `dispatched` for each attempt really begun (a hedge and a retry, too), at once: the
   load of an attempt that nobody reported is invisible to the next plan;
3. `first_byte` when the first byte of a *successful* answer's body came. Never for an error: a target that
   fails fast would look fast. For a stream it must be the first event, not the head, which vLLM sends before
   the first token;
4. `finished` exactly once for each lease, however the attempt ended; repeated calls are ignored.

Not admission, not the race between attempts, not ejection: those cores stand beside this one.
"""

from __future__ import annotations

import math
import statistics

from xxhash import xxh3_64_intdigest

from infermesh.core.model.names import ModelName, TargetKey
from infermesh.core.model.nodes import NodeState
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.ports import Rng
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import LoadHint
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView, Target
from infermesh.core.routing.load import Lease
from infermesh.core.routing.plan import Candidate, Plan, empty_plan
from infermesh.core.routing.policy import make_policy
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.core.routing.score import Scorer
from infermesh.core.routing.track import Ask, Offer, Pool, Track, decode_speed

_KV_FULL = 0.95  # A target with less free KV memory than this leaves gets no hedge.
_FLEET_EVERY_S = 1.0
# Whole answers of one target that end closer together than this teach the same: the first of them is enough.
_LEARN_EVERY_S = 0.005
_FAILED = frozenset({Verdict.SERVER_ERROR, Verdict.CONNECT_FAILED, Verdict.BROKEN, Verdict.TIMED_OUT})
_CENSORED = frozenset({Verdict.CANCELLED, Verdict.TIMED_OUT})


class Router:
    def __init__(self, config: RoutingConfig, rng: Rng) -> None:
        config.validate()
        self._config = config
        self._rng = rng
        self._scorer = Scorer(config)
        self._policy = make_policy(config, self._scorer)
        self._view = EMPTY_VIEW
        self._pools: dict[ModelName, Pool] = {}
        self._tracks: dict[TargetKey, Track] = {}
        self._fleet_at = -math.inf

    # -- what is known of targets -------------------------------------------------------------------------

    def install(self, view: RoutingView, now: float) -> None:
        """Choose by this view from now on. Costs what changed, and one look at every target."""
        if view is self._view:
            return
        tracks = self._tracks
        for key, target in view.targets.items():
            track = tracks.get(key)
            if track is None:
                self._take(target, now)
            elif track.target is not target:
                self._note_absence(track, target, view)
                self._update(track, target, now)
        gone = [key for key in tracks if key not in view.targets and not tracks[key].load.own]
        for key in gone:
            track = tracks.pop(key)
            self._pools[track.target.model].drop(track)
        for model, eligible in view.eligible.items():
            self._pool(model).offer_from([tracks[target.key] for target in eligible])
        for model in [model for model in self._pools if model not in view.eligible]:
            pool = self._pools[model]
            pool.offer_from([])
            if not pool.by_bit:  # Nothing is left of it, neither a target nor an attempt.
                del self._pools[model]
        self._view = view
        if now - self._fleet_at >= _FLEET_EVERY_S:
            self._fleet_at = now
            self._compare_fleet(now)

    def on_hint(self, key: TargetKey, hint: LoadHint, now: float) -> None:
        """The load that came with a response. Ignored for a target that is gone, or from an engine before."""
        track = self._tracks.get(key)
        if track is None or hint.incarnation < track.incarnation:
            return
        self._notice_restart(track, hint.incarnation)
        track.load.report(hint.queue_len, hint.running, hint.kv_usage, at=now, rtt_s=track.target.rtt_s)

    def inflight(self, key: TargetKey) -> int:
        """Own attempts now running at a target."""
        track = self._tracks.get(key)
        return track.load.own if track is not None else 0

    # -- choice -------------------------------------------------------------------------------------------

    def plan(self, facts: RequestFacts, now: float) -> Plan:
        """Where to send this request: best first, () when no target is eligible."""
        pool = self._pools.get(facts.model)
        if pool is None or not pool.tracks:
            return empty_plan(self._policy.name)
        pool.arrived(now)
        ask = Ask(pool, facts, now)
        rng = self._rng
        appraise = self._scorer.appraise
        offers = [appraise(track, ask) for track in self._policy.draw(ask, rng)]
        if len(offers) > 1:
            offers = self._policy.order(offers, ask, rng)
        hedged = facts.may_hedge and self._place_backup(offers)
        if ask.key:
            pool.heat.note(ask.key)
        candidate, count = self._scorer.candidate, self._config.candidates_max
        chosen = [candidate(offer, ask) for offer in offers[:count]]
        for track in pool.suspects[: count - len(chosen)]:
            chosen.append(candidate(appraise(track, ask), ask))
        hedge_after_s = self._hedge_after_s(chosen[0], facts) if hedged else math.inf
        return Plan(tuple(chosen), hedge_after_s, self._policy.name)

    def score_all(self, facts: RequestFacts, now: float) -> Plan:
        """Every eligible target by predicted milliseconds, whatever the policy. Changes nothing; for people."""
        pool = self._pools.get(facts.model)
        if pool is None or not pool.tracks:
            return empty_plan(self._policy.name)
        ask = Ask(pool, facts, now)
        offers = [self._scorer.appraise(track, ask) for track in (*pool.tracks, *pool.suspects)]
        offers.sort(key=lambda offer: (offer.track.target.suspect, offer.score_ms, offer.track.target.key))
        candidates = [self._scorer.candidate(offer, ask) for offer in offers]
        hedged = facts.may_hedge and self._place_backup(offers[: len(pool.tracks)])
        hedge_after_s = self._hedge_after_s(candidates[0], facts) if hedged else math.inf
        return Plan(tuple(candidates), hedge_after_s, self._policy.name)

    def _place_backup(self, offers: list[Offer]) -> bool:
        """Move the best target that is not as loaded as the first to the second place. False: there is none."""
        if len(offers) < 2 or not self._config.hedge_enabled:
            return False
        first = offers[0]
        # The first will have this request, too, by the time a hedge is thought of.
        load = (first.total + 1) / first.track.slots
        for index in range(1, len(offers)):
            offer = offers[index]
            track = offer.track
            slots = track.slots
            if offer.total < slots and offer.total / slots < load and track.load.kv_usage < _KV_FULL:
                if index > 1:
                    offers.insert(1, offers.pop(index))
                return True
        return False

    def _hedge_after_s(self, first: Candidate, facts: RequestFacts) -> float:
        seen = first.prediction
        late_ms = seen.p95_ttft_ms
        if not facts.stream:
            # Of a whole answer the first byte is the last.
            late_ms += seen.decode_ms * late_ms / max(seen.ttft_ms, 1e-9)
        return max(late_ms, self._config.hedge_floor_ms) * 1e-3

    # -- the life of an attempt ---------------------------------------------------------------------------

    def dispatched(self, candidate: Candidate, facts: RequestFacts, now: float) -> Lease:
        """An attempt begins: it counts as load at once, and its prompt as held by the target."""
        target = candidate.target
        track = self._tracks.get(target.key)
        if track is None:
            track = self._take(target, now)  # Forgotten between plan and dispatch.
        lease = Lease(target, facts, candidate.prediction, now)
        track.load.dispatched(lease, now)
        pool = self._pools[target.model]
        pool.fleet.dispatched(lease.uncached_tokens)
        if facts.blocks:
            index = pool.index
            config = self._config
            share = config.prefix_blocks_max // max(1, len(self._view.eligible.get(target.model, ())))
            bytes_max = track.kv_capacity_tokens * config.prefix_capacity_share * pool.fleet.bytes_per_token
            index.place(track.holding, facts.blocks, bytes_max=int(bytes_max), blocks_max=share)
        return lease

    def first_byte(self, lease: Lease, now: float, hint: LoadHint | None = None) -> None:
        """The answer began. For a stream its time is what the prediction is measured by."""
        if lease.finished or lease.first_byte_at is not None:
            return
        lease.first_byte_at = now
        track = self._tracks.get(lease.target.key)
        assert track is not None  # Kept while it has leases.
        track.load.first_byte(lease, now)
        if lease.facts.stream:
            ttft_ms = (now - lease.dispatched_at) * 1e3
            track.learner.answered(ttft_ms)
            self._learn_ttft(track, lease, ttft_ms, now)
        if hint is not None:
            self.on_hint(lease.target.key, hint, now)

    def finished(
        self, lease: Lease, now: float, verdict: Verdict, output_tokens: int = 0, prompt_tokens: int = 0
    ) -> None:
        """The attempt ended. Tokens as the runtime counted them; 0 unknown."""
        if lease.finished:
            return
        track = self._tracks.get(lease.target.key)
        assert track is not None  # Kept while it has leases.
        track.load.finished(lease, now)
        half_life_s = self._config.correction_half_life_s
        if verdict in _FAILED or verdict is Verdict.OK:
            track.learner.ended(now, failed=verdict in _FAILED, half_life_s=half_life_s)
        took_ms = (now - lease.dispatched_at) * 1e3
        if lease.first_byte_at is None and verdict in _CENSORED:
            # It would have taken longer still: all that is known, and enough to find a stuck target slow.
            if took_ms > lease.prediction.p95_ttft_ms:
                self._learn_ttft(track, lease, took_ms, now)
        elif verdict is Verdict.OK and now >= track.learns_at:
            track.learns_at = now + _LEARN_EVERY_S
            fleet = self._pools[lease.target.model].fleet
            fleet.answered(lease.facts.prompt_bytes, prompt_tokens, output_tokens)
            if lease.facts.stream:
                self._learn_speed(track, lease, output_tokens, now)
            else:
                track.learner.answered(took_ms)
                if output_tokens:
                    self._learn_whole(track, lease, took_ms, output_tokens, now)

    # -- learning -----------------------------------------------------------------------------------------

    def _learn_ttft(self, track: Track, lease: Lease, ttft_ms: float, now: float) -> None:
        prediction, config, learner = lease.prediction, self._config, track.learner
        computed_ms = max(prediction.queue_ms + prediction.prefill_ms, 1e-3)
        residual = math.log(max(ttft_ms - prediction.network_ms, 1e-3) / computed_ms)
        for spread in (learner.spread, self._pools[lease.target.model].fleet.spread):
            spread.learn(residual, config.quantile)
        bound = math.log(config.correction_ratio_max)
        learner.ttft_factor.learn(
            min(bound, max(-bound, math.log(prediction.correction) + residual)),
            now,
            half_life_s=config.correction_half_life_s,
            weight_max=config.correction_weight_max,
        )
        learner.touch()

    def _learn_whole(self, track: Track, lease: Lease, took_ms: float, output_tokens: int, now: float) -> None:
        """From an answer that came whole: no first token was seen, so one ratio for all of it.

        Where the engine reports its gap, the decode is known apart, and only an answer that was mostly prefill says
        something. Where it does not, prefill and decode move together.
        """
        prediction = lease.prediction
        decode_ms = prediction.decode_ms * output_tokens / max(1, prediction.output_tokens)
        first_ms = prediction.queue_ms + prediction.prefill_ms
        ratio = (took_ms - prediction.network_ms) / max(first_ms + decode_ms, 1e-3)
        if not track.target.state.itl_ms:
            self._note_speed(track, track.learner.speed * ratio, now)
        elif decode_ms > first_ms:
            return
        self._learn_ttft(track, lease, prediction.network_ms + first_ms * ratio, now)

    def _learn_speed(self, track: Track, lease: Lease, output_tokens: int, now: float) -> None:
        """From one stream's own pace, for engines that do not report their inter-token gap."""
        if track.target.state.itl_ms or output_tokens < 16 or lease.first_byte_at is None:
            return
        prior = self._config.prior
        gap_ms = (now - lease.first_byte_at) * 1e3 / (output_tokens - 1)
        step_ms = prior.step_base_ms + prior.per_sequence_ms * max(1, track.load.total())
        self._note_speed(track, gap_ms / step_ms, now)

    def _note_speed(self, track: Track, ratio: float, now: float) -> None:
        if not ratio > 0.0:
            return
        config = self._config
        bound = math.log(config.correction_ratio_max)
        track.learner.decode_speed.learn(
            min(bound, max(-bound, math.log(ratio))),
            now,
            half_life_s=config.correction_half_life_s,
            weight_max=config.correction_weight_max,
        )
        track.learner.touch()

    def _compare_fleet(self, now: float) -> None:
        """Medians over the targets of each model: what an unproven one is taken for."""
        half_life_s = self._config.correction_half_life_s
        for pool in self._pools.values():
            factors = [track.learner.ttft_factor for track in pool.tracks]
            known = [factor.log for factor in factors if factor.faded(now, half_life_s) >= 0.5]
            if known:
                pool.fleet.correction_log = statistics.median(known)
            factors = [track.learner.decode_speed.pace for track in pool.tracks]
            known = [factor.log for factor in factors if factor.faded(now, half_life_s) >= 0.5]
            if known:
                pool.fleet.speed_log = statistics.median(known)

    # -- tracks -------------------------------------------------------------------------------------------

    def _pool(self, model: ModelName) -> Pool:
        pool = self._pools.get(model)
        if pool is None:
            pool = self._pools[model] = Pool(self._config)
        return pool

    def _take(self, target: Target, now: float) -> Track:
        salt = xxh3_64_intdigest(target.key.encode())
        track = Track(target, self._pool(target.model), salt, self._config)
        self._tracks[target.key] = track
        self._report(track, target, now)
        return track

    def _update(self, track: Track, target: Target, now: float) -> None:
        fresh = target.state is not track.target.state
        if fresh and target.state.incarnation < track.incarnation:
            fresh = False  # A hint told of a newer engine than this state does.
        track.take(target, self._config)
        if fresh:
            self._notice_restart(track, target.state.incarnation)
            self._report(track, target, now)

    def _note_absence(self, track: Track, target: Target, view: RoutingView) -> None:
        """A node that was dead is met as new, though its engine ran on: nothing but its absence was learnt last."""
        node = view.nodes.get(target.node)
        if target.unavailable:
            track.absent = track.absent or (node is not None and node.state is NodeState.DEAD)
        elif track.absent:
            track.absent = False
            track.learner.restart()

    def _report(self, track: Track, target: Target, now: float) -> None:
        state = target.state
        track.load.report(state.queue_len, state.running, state.kv_usage, at=target.received_at, rtt_s=target.rtt_s)
        self._note_speed(track, decode_speed(state, self._config), now)

    def _notice_restart(self, track: Track, incarnation: int) -> None:
        if incarnation > track.incarnation:
            track.incarnation = incarnation
            self._pools[track.target.model].index.forget(track.holding)
            track.load.restart()
            track.learner.restart()
