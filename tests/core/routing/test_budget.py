from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import ModelName
from infermesh.core.routing.budget import HedgeBudget, RetryBudget

MODEL = ModelName("m")
OTHER = ModelName("other")


def spend_all(budget: HedgeBudget, model: ModelName) -> int:
    spent = 0
    while budget.may_hedge(model):
        budget.on_hedge(model)
        spent += 1
    return spent


def test_the_first_hedge_is_free_and_the_next_one_needs_twenty_requests() -> None:
    budget = HedgeBudget(share=0.05)
    assert spend_all(budget, MODEL) == 1
    for _ in range(19):
        budget.on_request(MODEL)
    assert not budget.may_hedge(MODEL)
    budget.on_request(MODEL)
    assert spend_all(budget, MODEL) == 1


def test_a_long_quiet_history_cannot_fund_a_storm() -> None:
    budget = HedgeBudget(share=0.05)
    for _ in range(100_000):
        budget.on_request(MODEL)
    assert spend_all(budget, MODEL) == 10


def test_each_model_has_an_account_of_its_own() -> None:
    budget = HedgeBudget()
    assert spend_all(budget, MODEL) == 1
    assert budget.may_hedge(OTHER)


def test_a_share_of_zero_forbids_even_the_first() -> None:
    assert not HedgeBudget(share=0.0).may_hedge(MODEL)
    assert not RetryBudget(share=0.0).may_retry(MODEL)


def test_a_forgotten_model_starts_anew() -> None:
    budget = HedgeBudget()
    spend_all(budget, MODEL)
    budget.forget(MODEL)
    budget.forget(OTHER)
    assert spend_all(budget, MODEL) == 1


def test_the_requests_that_a_dead_engine_strands_may_each_be_retried_once() -> None:
    budget = RetryBudget()
    for _ in range(256):
        assert budget.may_retry(MODEL)
        budget.on_retry(MODEL)
    assert not budget.may_retry(MODEL)
    for _ in range(5):
        budget.on_request(MODEL)
    assert budget.may_retry(MODEL)


def test_spending_without_asking_is_a_fault_of_the_caller() -> None:
    budget = HedgeBudget()
    spend_all(budget, MODEL)
    with pytest.raises(AssertionError):
        budget.on_hedge(MODEL)


@pytest.mark.parametrize(("share", "burst", "credit_max"), [(-0.1, 1, 10), (1.1, 1, 10), (0.5, 11, 10), (0.5, -1, 10)])
def test_a_budget_out_of_range_is_refused_with_its_value(share: float, burst: int, credit_max: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        HedgeBudget(share, burst=burst, credit_max=credit_max)


@given(st.lists(st.integers(0, 40), max_size=60), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5, 1.0]))
def test_no_run_of_requests_is_ever_overspent(bursts: Sequence[int], share: float) -> None:
    budget = HedgeBudget(share=share)
    history: list[tuple[int, int]] = [(0, 0)]  # (requests, hedges) after each burst, the greediest hedging.
    requests = hedges = 0
    for burst in bursts:
        for _ in range(burst):
            budget.on_request(MODEL)
        requests += burst
        hedges += spend_all(budget, MODEL)
        history.append((requests, hedges))
        assert hedges <= 1 + share * requests + 1e-9
        for requests_then, hedges_then in history:
            assert hedges - hedges_then <= 10 + share * (requests - requests_then) + 1e-9
