"""How much extra work hedges and retries may cause: a share of each model's requests, counted exactly.

Each request of a model earns `share` of a credit; each hedge (or retry) spends a whole one. The credit starts
at `burst` and never exceeds `credit_max`. From that follow, for every model and without a clock,
- over the whole life: spent <= burst + share * requests;
- over any run of N requests: spent <= credit_max + share * N, so a long quiet history cannot fund a storm.
Credits are kept in whole millionths: twenty times 5 % is one hedge, not one less a rounding error.

Not a rate limiter, and not a decision to hedge. Duties of the caller: `on_request` once for each request
that was admitted, `may_*` and then `on_*` with nothing between, `forget` when a model leaves the fleet. Only
models that the fleet serves are passed in, so the table is as small as the fleet's list of models.
"""

from __future__ import annotations

from infermesh.core.model.names import ModelName

_CREDIT = 1_000_000  # One hedge or retry, in millionths.


class _ShareBudget:
    """The account behind both budgets."""

    def __init__(self, share: float, *, burst: int, credit_max: int) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"budget share is {share}: it must lie between 0 (never) and 1 (each request)")
        if not 0 <= burst <= credit_max:
            raise ValueError(f"budget burst is {burst}: it must lie between 0 and credit_max {credit_max}")
        self._earned = int(share * _CREDIT)
        self._start = burst * _CREDIT if share > 0.0 else 0
        self._credit_max = credit_max * _CREDIT
        self._credits: dict[ModelName, int] = {}

    def on_request(self, model: ModelName) -> None:
        credit = self._credits.get(model, self._start) + self._earned
        self._credits[model] = credit if credit < self._credit_max else self._credit_max

    def forget(self, model: ModelName) -> None:
        self._credits.pop(model, None)

    def _may_spend(self, model: ModelName) -> bool:
        return self._credits.get(model, self._start) >= _CREDIT

    def _spend(self, model: ModelName) -> None:
        credit = self._credits.get(model, self._start)
        assert credit >= _CREDIT, "ask may_hedge or may_retry first, and spend only after a yes"
        self._credits[model] = credit - _CREDIT


class HedgeBudget(_ShareBudget):
    """Second copies while the first still runs: each may waste GPU time, so the share is small."""

    def __init__(self, share: float = 0.05, *, burst: int = 1, credit_max: int = 10) -> None:
        super().__init__(share, burst=burst, credit_max=credit_max)

    def may_hedge(self, model: ModelName) -> bool:
        return self._may_spend(model)

    def on_hedge(self, model: ModelName) -> None:
        self._spend(model)


class RetryBudget(_ShareBudget):
    """New attempts after a failure, so that a failing fleet is not hit several times for each request.

    The burst is the batch of one engine (256 slots): a node that dies strands up to that many requests at
    one moment, and each of them needs its one retry, or a single death would fail requests that another node
    could have answered. Past that burst, retries come from the share of new requests only.
    """

    def __init__(self, share: float = 0.2, *, burst: int = 256, credit_max: int = 256) -> None:
        super().__init__(share, burst=burst, credit_max=credit_max)

    def may_retry(self, model: ModelName) -> bool:
        return self._may_spend(model)

    def on_retry(self, model: ModelName) -> None:
        self._spend(model)
