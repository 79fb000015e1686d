from __future__ import annotations

from infermesh.planes.signal.adapters.stamps import Incarnation, SequenceSource


class _Clock:
    def __init__(self, unix_s: float) -> None:
        self.unix_s = unix_s

    def __call__(self) -> float:
        return self.unix_s


def test_sequences_grow_also_when_the_clock_stands_or_falls_back() -> None:
    clock = _Clock(1000.0)
    sequences = SequenceSource(clock)
    assert [sequences.next(), sequences.next()] == [1_000_000, 1_000_001]
    clock.unix_s = 900.0
    assert sequences.next() == 1_000_002
    clock.unix_s = 1001.0
    assert sequences.next() == 1_001_000


def test_a_restarted_reporter_goes_on_above_the_one_before() -> None:
    clock = _Clock(1000.0)
    before = [SequenceSource(clock).next() for _ in range(3)]
    clock.unix_s = 1005.0
    assert SequenceSource(clock).next() > max(before)


def test_an_engine_is_known_by_its_start_time() -> None:
    incarnation = Incarnation(_Clock(5000.0))
    assert not incarnation.take(1000.5, ran_backwards=False)
    assert incarnation.number == 1_000_500
    assert not incarnation.take(1000.5, ran_backwards=False)
    assert incarnation.take(2000.0, ran_backwards=True)
    assert incarnation.number == 2_000_000


def test_an_engine_whose_clock_fell_back_is_still_newer_than_the_one_before() -> None:
    incarnation = Incarnation(_Clock(5000.0))
    incarnation.take(2000.0, ran_backwards=False)
    assert incarnation.take(1000.0, ran_backwards=False)
    assert incarnation.number == 2_000_001


def test_without_a_start_time_counters_that_fall_mark_the_new_engine() -> None:
    clock = _Clock(5000.0)
    incarnation = Incarnation(clock)
    assert not incarnation.take(0.0, ran_backwards=False)
    clock.unix_s = 5001.0
    assert not incarnation.take(0.0, ran_backwards=False)
    assert incarnation.number == 5_000_000
    assert incarnation.take(0.0, ran_backwards=True)
    assert incarnation.number == 5_001_000
