"""Means and rates over the last few seconds, from counters that only ever grow.

Pure. A runtime exports totals since its start; a router needs what happened lately. Kept are the totals of the
last `window_s` seconds, and the answer is the difference between the newest and the oldest. A mean stays what
it was when the window saw no traffic (the last known is better than none); a rate falls to zero, which is true.
"""

from __future__ import annotations

from collections import deque

import msgspec


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of one model at one moment. A total that the runtime does not export stays 0."""

    ttft_s_sum: float = 0.0
    ttft_count: float = 0.0
    itl_s_sum: float = 0.0
    itl_count: float = 0.0
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    prefix_hits: float = 0.0
    prefix_queries: float = 0.0


class Recent(msgspec.Struct, frozen=True, kw_only=True):
    """What the window says. 0 where nothing is known yet."""

    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    prompt_tokens_per_s: float = 0.0
    generation_tokens_per_s: float = 0.0
    prefix_hit_rate: float = 0.0


class CounterWindow:
    """The totals of one model over the last `window_s`."""

    def __init__(self, window_s: float) -> None:
        assert window_s > 0
        self._window_s = window_s
        self._kept: deque[tuple[float, Totals]] = deque()
        self._recent = Recent()

    @property
    def kept_len(self) -> int:
        """Totals kept now."""
        return len(self._kept)

    def restart(self) -> None:
        """Forget everything: the engine is another one."""
        self._kept.clear()
        self._recent = Recent()

    def ran_backwards(self, totals: Totals) -> bool:
        """Whether a total is below the newest one, which only a restarted engine can cause."""
        if not self._kept:
            return False
        newest = self._kept[-1][1]
        return any(getattr(totals, name) < getattr(newest, name) for name in Totals.__struct_fields__)

    def add(self, totals: Totals, now: float) -> Recent:
        """Take the newest totals; `now` must not go backwards."""
        kept = self._kept
        kept.append((now, totals))
        # The second oldest is allowed to leave the window only when it still covers it alone.
        while len(kept) > 2 and kept[1][0] <= now - self._window_s:
            kept.popleft()
        began, oldest = kept[0]
        elapsed_s = now - began
        if elapsed_s <= 0.0:
            return self._recent
        before = self._recent
        self._recent = Recent(
            ttft_ms=_mean_ms(
                totals.ttft_s_sum - oldest.ttft_s_sum, totals.ttft_count - oldest.ttft_count, before.ttft_ms
            ),
            itl_ms=_mean_ms(totals.itl_s_sum - oldest.itl_s_sum, totals.itl_count - oldest.itl_count, before.itl_ms),
            prompt_tokens_per_s=(totals.prompt_tokens - oldest.prompt_tokens) / elapsed_s,
            generation_tokens_per_s=(totals.generation_tokens - oldest.generation_tokens) / elapsed_s,
            prefix_hit_rate=_share(
                totals.prefix_hits - oldest.prefix_hits,
                totals.prefix_queries - oldest.prefix_queries,
                before.prefix_hit_rate,
            ),
        )
        return self._recent


def _mean_ms(sum_s: float, count: float, otherwise_ms: float) -> float:
    return sum_s / count * 1000.0 if count > 0 else otherwise_ms


def _share(hits: float, queries: float, otherwise: float) -> float:
    # Hits and queries are two counters read at two moments: their quotient may pass 1 by a hair.
    return min(1.0, hits / queries) if queries > 0 else otherwise
