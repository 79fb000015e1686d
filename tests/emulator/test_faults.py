"""The fault switches as values."""

from __future__ import annotations

import pytest

from infermesh.emulator.faults import NO_FAULTS, FaultError, Faults


def test_a_change_sets_what_it_names_and_keeps_the_rest() -> None:
    faults = Faults(slow_factor=2.0)
    faults.change(b'{"stuck": true, "reset_after_tokens": 3}')
    assert faults == Faults(slow_factor=2.0, stuck=True, reset_after_tokens=3)
    faults.change(b'{"reset_after_tokens": null}')
    assert faults.reset_after_tokens is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (b"nope", "must be a JSON object"),
        (b"[]", "Expected `object`"),
        (b'{"sluggish": true}', "sluggish.*the switches are: slow_factor, frozen"),
        (b'{"stuck": "yes"}', "stuck"),
        (b'{"slow_factor": 0}', "slow_factor=0.0: must be above 0"),
        (b'{"sinkhole_probability": 1.5}', "sinkhole_probability=1.5: must be from 0 to 1"),
        (b'{"answer_delay_s": -1}', "answer_delay_s=-1.0"),
        (b'{"reset_after_tokens": -1}', "reset_after_tokens=-1"),
        (b'{"requests_left": -1}', "requests_left=-1"),
    ],
)
def test_a_bad_change_is_refused_whole_and_says_why(changes: bytes, words: str) -> None:
    faults = Faults(stuck=True)
    with pytest.raises(FaultError, match=words):
        faults.change(changes)
    assert faults == Faults(stuck=True)


def test_request_faults_hold_for_the_next_requests_only() -> None:
    faults = Faults(garbage_head=True, requests_left=2)
    drawn = [faults.draw(0.5) for _ in range(3)]
    assert [each.garbage_head for each in drawn] == [True, True, False]
    assert drawn[2] == NO_FAULTS
    assert faults.requests_left == 0


def test_requests_are_not_counted_while_no_request_fault_is_on() -> None:
    faults = Faults(slow_factor=3.0, requests_left=1)
    assert faults.draw(0.5) == NO_FAULTS
    assert faults.requests_left == 1


def test_the_sinkhole_takes_its_share() -> None:
    faults = Faults(sinkhole_probability=0.25)
    assert [faults.draw(chance).sinkhole for chance in (0.0, 0.24, 0.25, 0.9)] == [True, True, False, False]


def test_the_first_of_several_stream_faults_decides_where_the_stream_breaks() -> None:
    drawn = Faults(stall_after_tokens=5, reset_after_tokens=3).draw(0.5)
    assert drawn.cut_after_tokens() == 3
    assert NO_FAULTS.cut_after_tokens() is None
