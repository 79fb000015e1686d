"""What answers teach about a target: its speed against the prior, the spread around it, how often it fails.

Factors are kept as logarithms: a target twice as slow and one twice as fast are equally far from the prior.
What was learnt fades: with no answers, a factor moves back to what is known without them (the decode speed
that the engine reports while it works, else the median of the fleet), half the way in each half-life. So a
slow node that recovered looks average again after a minute or two, gets a request, and is known anew.
"""

from __future__ import annotations

import math

SPREAD_SAMPLES = 64
SPREAD_SAMPLES_MIN = 16
_SPREAD_EVERY = 8  # A quantile is sorted out of the ring once in so many answers.
_FAILURE_STEP = 0.25  # Weight of the newest outcome in the failure rate: four failures in a row make 0.68.
_SURPRISE = math.log(2.0)  # An answer twice as slow, or as fast, as known;
_SURPRISES = 3  # and so many of them in a row.
_GAPS = 8  # Reports of the inter-token gap that decode speed is taken from.
_REFRESH_S = 0.25  # Fading is slow: the factors are computed anew this often, or when something was learnt.


class Factor:
    """One learnt factor as a faded, weighted mean of log ratios."""

    __slots__ = ("_surprises", "at", "log", "weight")

    def __init__(self) -> None:
        self.log = 0.0
        self.weight = 0.0
        self.at = 0.0
        self._surprises = 0  # In a row; below 0 when they were faster than known.

    def faded(self, now: float, half_life_s: float) -> float:
        """The weight that is left of what was learnt."""
        return self.weight * math.exp2(-max(0.0, now - self.at) / half_life_s) if self.weight else 0.0

    def value(self, prior_log: float, now: float, half_life_s: float) -> float:
        if not self.weight:
            return prior_log
        # One whole answer outweighs the prior; only age brings the prior back.
        kept = math.exp2(-max(0.0, now - self.at) / half_life_s)
        return prior_log + (self.log - prior_log) * kept

    def learn(self, log_ratio: float, now: float, *, half_life_s: float, weight_max: float) -> None:
        weight = self.faded(now, half_life_s)
        surprise = log_ratio - self.log
        if abs(surprise) < _SURPRISE:
            self._surprises = 0
        else:
            self._surprises = max(1, self._surprises + 1) if surprise > 0.0 else min(-1, self._surprises - 1)
            if abs(self._surprises) >= _SURPRISES:
                weight = min(weight, 1.0)  # The target has changed: what it was before counts no more.
        # The first answer counts whole, the second half, and so on: quick at first, then steady.
        self.log += surprise / (weight + 1.0) if weight else surprise
        self.weight = min(weight + 1.0, weight_max)
        self.at = now


class DecodeSpeed:
    """Decode speed from the gaps between tokens that an engine reports, in two readings.

    `pace` is their mean: how fast tokens come now, contention with prompts of any router included. `best` is the
    second smallest of the latest few: prompts that ran between two tokens only ever make a gap longer, so this
    is how fast the engine itself is.
    """

    __slots__ = ("_logs", "best", "pace")

    def __init__(self) -> None:
        self.pace = Factor()
        self.best = Factor()
        self._logs: list[float] = []

    def learn(self, log_ratio: float, now: float, *, half_life_s: float, weight_max: float) -> None:
        self.pace.learn(log_ratio, now, half_life_s=half_life_s, weight_max=weight_max)
        logs = self._logs
        logs.append(log_ratio)
        if len(logs) > _GAPS:
            del logs[0]
        self.best.log = sorted(logs)[min(1, len(logs) - 1)]
        self.best.weight = 1.0
        self.best.at = now


class Spread:
    """Quantile of actual over predicted, from a ring of the latest log residuals."""

    __slots__ = ("_next", "_ring", "ratio")

    def __init__(self) -> None:
        self._ring: list[float] = []
        self._next = 0
        self.ratio = 0.0  # 0.0: not known yet.

    def learn(self, log_residual: float, quantile: float) -> None:
        ring = self._ring
        if len(ring) < SPREAD_SAMPLES:
            ring.append(log_residual)
        else:
            ring[self._next % SPREAD_SAMPLES] = log_residual
        self._next += 1
        if len(ring) >= SPREAD_SAMPLES_MIN and self._next % _SPREAD_EVERY == 0:
            ordered = sorted(ring)
            # The smallest residual that at least `quantile` of the ring do not exceed.
            self.ratio = math.exp(ordered[min(len(ring) - 1, math.ceil(quantile * len(ring)) - 1)])


class FleetLearner:
    """What is common to all targets of one model."""

    __slots__ = (
        "bytes_per_token",
        "correction_log",
        "output_tokens",
        "speed_log",
        "spread",
        "uncached_tokens",
    )

    def __init__(self, *, bytes_per_token: float, output_tokens: float) -> None:
        self.bytes_per_token = bytes_per_token
        self.output_tokens = output_tokens  # Mean of answers that were counted.
        self.uncached_tokens = 512.0  # Mean of what was dispatched: what a waiting request of others weighs.
        self.correction_log = 0.0  # Median over the targets with answers.
        self.speed_log = 0.0
        self.spread = Spread()

    def dispatched(self, uncached_tokens: int) -> None:
        self.uncached_tokens += 0.05 * (uncached_tokens - self.uncached_tokens)

    def answered(self, prompt_bytes: int, prompt_tokens: int, output_tokens: int) -> None:
        """Sizes as the runtime counted them; 0 unknown."""
        if prompt_bytes > 0 and prompt_tokens > 0:
            measured = min(64.0, max(0.25, prompt_bytes / prompt_tokens))
            # Weighted by size: long prompts say more, and headers in short ones mislead.
            weight = min(0.2, prompt_tokens / 20_000)
            self.bytes_per_token += weight * (measured - self.bytes_per_token)
        if output_tokens > 0:
            self.output_tokens += 0.05 * (output_tokens - self.output_tokens)


class TargetLearner:
    """What is particular to one target. `correction` scales queue and prefill, `speed` scales decode steps."""

    __slots__ = (
        "_failed_at",
        "correction",
        "decode_speed",
        "failing",
        "fresh_until",
        "latency_ms",
        "proof",
        "speed",
        "spread",
        "ttft_factor",
    )

    def __init__(self) -> None:
        self.ttft_factor = Factor()
        self.decode_speed = DecodeSpeed()
        self.spread = Spread()
        self.latency_ms = 0.0  # Recent time to first byte, EWMA; 0.0 unknown. For policies without a model.
        self.correction = 1.0
        self.speed = 1.0
        self.proof = 0.0  # Answers that the correction still rests on.
        self.failing = 0.0  # Share of failures at the last one's time; 0.0 while all is well.
        self.fresh_until = -math.inf  # `refresh` has nothing to do until then.
        self._failed_at = 0.0

    def refresh(self, fleet: FleetLearner, now: float, *, half_life_s: float) -> None:
        """Bring `correction`, `speed` and `proof` up to date. Call it when `now >= fresh_until`."""
        self.fresh_until = now + _REFRESH_S
        best = self.decode_speed.best
        prior = best.log if best.faded(now, half_life_s) >= 0.5 else fleet.correction_log
        self.speed = math.exp(self.decode_speed.pace.value(fleet.speed_log, now, half_life_s))
        self.correction = math.exp(self.ttft_factor.value(prior, now, half_life_s))
        self.proof = self.ttft_factor.faded(now, half_life_s)

    def touch(self) -> None:
        """Something was learnt: the next `refresh` computes."""
        self.fresh_until = -math.inf

    def restart(self) -> None:
        """A new engine: taken for an average one until it has answered.

        Kept, a factor learnt in its last, bad moments would turn requests away for minutes, and only requests can
        tell better. Taken for too fast, it costs the few requests that may be on trial at once.
        """
        self.ttft_factor = Factor()
        self.decode_speed = DecodeSpeed()
        self.failing = 0.0
        self.touch()

    def answered(self, latency_ms: float) -> None:
        """Time to the first byte of a stream, or to a whole answer."""
        self.latency_ms += (latency_ms - self.latency_ms) * (0.2 if self.latency_ms else 1.0)

    def failure_rate(self, now: float, half_life_s: float) -> float:
        if not self.failing:
            return 0.0
        return self.failing * math.exp2(-max(0.0, now - self._failed_at) / half_life_s)

    def ended(self, now: float, *, failed: bool, half_life_s: float) -> None:
        if failed or self.failing:
            rate = self.failure_rate(now, half_life_s)
            rate += _FAILURE_STEP * (failed - rate)
            self.failing = rate if rate > 0.001 else 0.0
            self._failed_at = now
