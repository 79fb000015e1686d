"""What the router answers: predictions with their breakdown, candidates, a plan. Values only."""

from __future__ import annotations

import math

import msgspec

from infermesh.core.model.targets import Target


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """One target's answer to one request, in predicted milliseconds.

    `ttft_ms = network_ms + queue_ms + prefill_ms` and `total_ms = ttft_ms + decode_ms + penalty_ms`.
    `low_ms` and `high_ms` bound the candidate's score: not what the request may take, but how far the
    comparison with another target can be trusted.
    """

    ttft_ms: float
    total_ms: float
    network_ms: float  # One round trip.
    queue_ms: float  # Until the engine begins this prompt: the step under way, prompts before it, a free slot.
    prefill_ms: float  # The part of the prompt that is not cached, and the step that gives the first token.
    decode_ms: float  # The expected output at the current batch.
    penalty_ms: float  # KV pressure, failures, loading, an unproven target: probability times cost, each.
    low_ms: float
    high_ms: float
    p95_ttft_ms: float  # Quantile of the time to the first byte, from the target's own residuals.
    cached_tokens: int
    uncached_tokens: int
    signal_age_s: float
    own_inflight: int
    correction: float  # Learnt factor on this target's queue and prefill; 1.0 is the prior's speed.
    others_ms: float = 0.0  # What it costs the requests beside it: they wait while this prompt is computed.
    output_tokens: int = 0  # Expected: what `decode_ms` is for.


class Candidate(msgspec.Struct, frozen=True, gc=False):
    target: Target
    prediction: Prediction
    score_ms: float  # ttft + decode_weight * decode + penalty + others_weight * others; see RoutingConfig.


class Plan(msgspec.Struct, frozen=True):
    """`candidates` best first; the second is the backup for a hedge when `hedge_after_s` is finite."""

    candidates: tuple[Candidate, ...]
    hedge_after_s: float  # From dispatch; inf: never hedge this request.
    policy: str


def empty_plan(policy: str) -> Plan:
    return Plan((), math.inf, policy)
