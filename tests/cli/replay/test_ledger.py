"""The books add up, or nothing is shown."""

from __future__ import annotations

import pytest

from infermesh.cli.replay.ledger import ConservationError, Ledger, Passage, Status


def _settled(statuses: list[Status]) -> Ledger:
    ledger = Ledger()
    for number, status in enumerate(statuses):
        passage = ledger.open(number=number, at_s=float(number), prompt_tokens=1)
        ledger.settle(passage, status, at_s=number + 0.5)
    return ledger


def test_books_that_add_up_pass() -> None:
    ledger = _settled(list(Status))
    ledger.check(sent=len(Status))
    assert ledger.in_flight == 0
    assert ledger.ended_s == len(Status) - 0.5
    assert [passage.total_s for passage in ledger.passages] == [0.5] * len(Status)


def test_an_arrival_that_never_ended_is_found() -> None:
    ledger = _settled([Status.COMPLETED])
    ledger.open(number=7, at_s=0.0, prompt_tokens=1)
    assert ledger.in_flight == 1
    with pytest.raises(ConservationError, match="1 never ended"):
        ledger.check(sent=2)


def test_an_arrival_that_is_missing_or_twice_in_the_books_is_found() -> None:
    ledger = _settled([Status.COMPLETED, Status.FAILED])
    with pytest.raises(ConservationError, match="3 were due and 2 are in the books"):
        ledger.check(sent=3)
    ledger.passages[1].number = 0
    with pytest.raises(ConservationError, match="1 are in the books twice"):
        ledger.check(sent=2)


def test_a_count_that_differs_from_a_recount_is_found() -> None:
    ledger = _settled([Status.COMPLETED])
    ledger.passages[0].status = Status.FAILED
    with pytest.raises(ConservationError, match="recounted"):
        ledger.check(sent=1)


def test_an_answer_before_its_request_is_found() -> None:
    ledger = _settled([Status.COMPLETED])
    ledger.first_token(ledger.passages[0], -0.1)
    with pytest.raises(ConservationError, match="answered before they were sent"):
        ledger.check(sent=1)


def test_nothing_settles_twice() -> None:
    ledger = _settled([Status.COMPLETED])
    with pytest.raises(AssertionError, match="settled twice"):
        ledger.settle(ledger.passages[0], Status.FAILED, at_s=1.0)


def test_forgetting_keeps_the_counts_and_all_that_is_under_way() -> None:
    ledger = Ledger()
    under_way: Passage = ledger.open(number=0, at_s=0.0, prompt_tokens=1)
    for number in range(1, 11):
        passage = ledger.open(number=number, at_s=0.0, prompt_tokens=1)
        ledger.first_token(passage, number / 10)
        ledger.settle(passage, Status.COMPLETED if number % 2 else Status.REJECTED, at_s=1.0)
    ledger.gaps_s.extend([0.5] * 9)
    ledger.forget(keep=3)
    assert [passage.number for passage in ledger.passages] == [0, 8, 9, 10]
    assert (ledger.arrived, ledger.in_flight, len(ledger.first_tokens_s), len(ledger.gaps_s)) == (11, 1, 3, 3)
    ledger.settle(under_way, Status.CANCELLED, at_s=2.0)
    ledger.check(sent=11)
    assert dict(ledger.settled) == {Status.COMPLETED: 5, Status.REJECTED: 5, Status.CANCELLED: 1}
