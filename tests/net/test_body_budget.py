"""All bodies of a process in one account: what does not fit is not taken, and what was taken is given back once."""

from __future__ import annotations

import pytest

from infermesh.net.body_budget import BodyBudget


def test_what_does_not_fit_whole_is_not_taken() -> None:
    budget = BodyBudget(10)
    assert [budget.take(size) for size in (6, 5, 4, 1, 0)] == [True, False, True, False, True]
    assert budget.held_bytes == 10
    budget.give(4)
    assert budget.take(4)


def test_giving_back_more_than_was_taken_is_a_defect() -> None:
    budget = BodyBudget(10)
    assert budget.take(1)
    with pytest.raises(AssertionError, match="more is given back"):
        budget.give(2)


def test_a_refusal_names_the_setting() -> None:
    budget = BodyBudget(10)
    assert budget.take(9)
    assert budget.refusal.startswith("this node keeps 9 bytes of request bodies and takes 10 (client.bodies_bytes_max)")
