import pytest

from infermesh.core.routing.drain import DrainMeter, ReturnTimes


def measured(work_ms: float, held_s: float, times: int = 200) -> DrainMeter:
    meter = DrainMeter(window=32)
    for _ in range(times):
        meter.on_departure(work_ms, held_s, now=100.0)
    return meter


def test_before_the_first_completion_the_predictions_are_believed() -> None:
    meter = DrainMeter(window=32)
    assert meter.work_ms_per_s(4, now=1e9) == 4000.0
    assert meter.completions_per_s(4, now=0.0) == 0.0


def test_what_takes_twice_as_long_as_predicted_drains_half_as_fast() -> None:
    meter = measured(work_ms=500.0, held_s=1.0)
    assert meter.work_ms_per_s(10, now=100.0) == pytest.approx(5000.0, rel=0.01)
    assert meter.completions_per_s(10, now=100.0) == pytest.approx(10.0, rel=0.01)


def test_the_rate_follows_the_slots_at_once() -> None:
    meter = measured(work_ms=1000.0, held_s=1.0)
    assert meter.work_ms_per_s(30, now=100.0) == pytest.approx(3 * meter.work_ms_per_s(10, now=100.0))


def test_a_few_odd_completions_do_not_outweigh_the_prediction() -> None:
    meter = measured(work_ms=1000.0, held_s=0.001, times=1)
    assert meter.work_ms_per_s(1, now=100.0) < 1500.0


def test_the_meter_forgets_how_fast_it_was() -> None:
    meter = measured(work_ms=1000.0, held_s=1.0)
    for _ in range(100):
        meter.on_departure(1000.0, 4.0, now=100.0)
    assert meter.work_ms_per_s(1, now=100.0) == pytest.approx(250.0, rel=0.2)


def test_slots_that_fell_silent_are_not_praised_for_their_past() -> None:
    meter = measured(work_ms=1000.0, held_s=1.0)
    assert meter.work_ms_per_s(1, now=101.9) == pytest.approx(1000.0, rel=0.01)
    assert meter.work_ms_per_s(1, now=120.0) == pytest.approx(50.0, rel=0.01)


def test_a_completion_in_no_time_does_not_divide_by_zero() -> None:
    assert measured(work_ms=1.0, held_s=0.0).work_ms_per_s(1, now=100.0) > 0.0


def returns(jitter: float = 0.0) -> ReturnTimes:
    return ReturnTimes(min_s=1.0, max_s=60.0, jitter=jitter)


def test_places_in_the_line_are_one_request_apart() -> None:
    line = returns()
    assert [line.promise_s(5.0, 0.5, now=10.0, draw=0.0) for _ in range(3)] == [5.0, 5.5, 6.0]


def test_a_line_that_has_come_true_is_no_line_any_more() -> None:
    line = returns()
    line.promise_s(5.0, 0.5, now=10.0, draw=0.0)
    assert line.promise_s(2.0, 0.5, now=12.0, draw=0.0) == 3.5
    assert line.promise_s(2.0, 0.5, now=30.0, draw=0.0) == 2.0


def test_waits_are_bounded_and_jitter_only_lengthens_them_inside_the_bounds() -> None:
    line = returns(jitter=0.5)
    assert line.promise_s(0.0, 0.0, now=10.0, draw=0.0) == 1.0
    assert line.promise_s(8.0, 0.0, now=10.0, draw=0.5) == 10.0
    assert line.promise_s(1e9, 1.0, now=10.0, draw=1.0) == 60.0
    assert line.jittered_s(4.0, draw=1.0) == 6.0


def test_a_slower_drain_moves_the_promised_places_back() -> None:
    line = returns()
    line.promise_s(5.0, 1.0, now=10.0, draw=0.0)
    line.rescale(2.0, now=10.0)
    assert line.promise_s(0.0, 1.0, now=10.0, draw=0.0) == 12.0
    line.rescale(2.0, now=100.0)
    assert line.promise_s(0.0, 1.0, now=100.0, draw=0.0) == 1.0
