import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.routing.learner import DecodeSpeed, Factor, FleetLearner, Spread, TargetLearner

HALF_LIFE_S = 60.0


def _learn(factor: Factor, *ratios: float, now: float = 0.0) -> None:
    for ratio in ratios:
        factor.learn(math.log(ratio), now, half_life_s=HALF_LIFE_S, weight_max=6.0)


def test_the_first_answer_counts_whole_and_the_next_ones_less() -> None:
    factor = Factor()
    _learn(factor, 2.0)
    assert math.exp(factor.log) == pytest.approx(2.0)
    _learn(factor, 2.0 * math.e**0.3)
    assert factor.log == pytest.approx(math.log(2.0) + 0.3 / 2)
    assert factor.weight == 2.0


def test_the_memory_is_bounded_so_that_a_target_may_change() -> None:
    factor = Factor()
    _learn(factor, *[1.0] * 50)
    assert factor.weight == 6.0
    _learn(factor, 1.5)
    assert factor.log == pytest.approx(math.log(1.5) / 7)


def test_three_surprises_in_a_row_overturn_what_was_known() -> None:
    factor = Factor()
    _learn(factor, *[1.0] * 50)
    _learn(factor, 10.0, 10.0)
    assert math.exp(factor.log) < 2.0
    _learn(factor, 10.0)
    assert math.exp(factor.log) > 4.0
    _learn(factor, 10.0)
    assert math.exp(factor.log) > 6.0


def test_surprises_in_both_directions_are_noise() -> None:
    factor = Factor()
    _learn(factor, *[1.0] * 50)
    _learn(factor, *[3.0, 1 / 3] * 10)
    assert factor.weight == 6.0
    assert 0.7 < math.exp(factor.log) < 1.4


def test_what_was_learnt_fades_to_what_is_known_without_it() -> None:
    factor = Factor()
    _learn(factor, 4.0)
    assert factor.value(0.0, 0.0, HALF_LIFE_S) == pytest.approx(math.log(4.0))
    assert factor.value(0.0, 60.0, HALF_LIFE_S) == pytest.approx(math.log(2.0))
    assert factor.value(0.0, 600.0, HALF_LIFE_S) == pytest.approx(0.0, abs=0.01)
    assert factor.faded(60.0, HALF_LIFE_S) == pytest.approx(0.5)


def test_nothing_learnt_is_the_prior() -> None:
    assert Factor().value(0.7, 5.0, HALF_LIFE_S) == 0.7


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=40))
def test_a_factor_stays_within_what_was_seen(ratios: list[float]) -> None:
    factor = Factor()
    _learn(factor, *ratios)
    assert math.log(min(ratios)) - 1e-9 <= factor.log <= math.log(max(ratios)) + 1e-9


def test_the_engine_is_as_fast_as_its_second_smallest_gap_and_paces_at_the_mean() -> None:
    speed = DecodeSpeed()
    for ratio in (2.0, 9.0, 2.1, 7.0, 2.2):
        speed.learn(math.log(ratio), 0.0, half_life_s=HALF_LIFE_S, weight_max=6.0)
    assert math.exp(speed.best.log) == pytest.approx(2.1)
    assert math.exp(speed.pace.log) == pytest.approx((2.0 * 9.0 * 2.1 * 7.0 * 2.2) ** 0.2)


def test_an_engine_that_became_slow_is_slow_once_its_good_gaps_are_gone() -> None:
    speed = DecodeSpeed()
    for ratio in [1.0] * 8 + [5.0] * 7:
        speed.learn(math.log(ratio), 0.0, half_life_s=HALF_LIFE_S, weight_max=6.0)
    assert math.exp(speed.best.log) == pytest.approx(5.0)


def test_the_quantile_needs_some_answers_and_is_then_one_of_them() -> None:
    spread = Spread()
    for number in range(15):
        spread.learn(math.log(1.0 + number / 10), 0.95)
    assert spread.ratio == 0.0
    spread.learn(math.log(2.5), 0.95)
    assert spread.ratio == pytest.approx(2.5)  # ceil(0.95 * 16) = 16: the largest of 16.


def test_the_quantile_is_of_the_latest_answers() -> None:
    spread = Spread()
    for _ in range(64):
        spread.learn(math.log(9.0), 0.95)
    for _ in range(64):
        spread.learn(math.log(1.1), 0.95)
    assert spread.ratio == pytest.approx(1.1)


def test_bytes_per_token_go_to_what_runtimes_count() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    for _ in range(60):
        fleet.answered(prompt_bytes=12_000, prompt_tokens=1_000, output_tokens=0)
    assert fleet.bytes_per_token == pytest.approx(12.0, rel=0.05)
    assert fleet.output_tokens == 256.0


def test_a_runtime_that_counts_nothing_teaches_nothing() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    fleet.answered(prompt_bytes=12_000, prompt_tokens=0, output_tokens=0)
    assert (fleet.bytes_per_token, fleet.output_tokens) == (4.0, 256.0)


def test_absurd_counts_are_bounded() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    for _ in range(200):
        fleet.answered(prompt_bytes=10**9, prompt_tokens=20_000, output_tokens=1)
    assert fleet.bytes_per_token == pytest.approx(64.0)


def _refreshed(learner: TargetLearner, fleet: FleetLearner, now: float) -> TargetLearner:
    learner.touch()
    learner.refresh(fleet, now, half_life_s=HALF_LIFE_S)
    return learner


def test_an_unproven_target_is_taken_for_the_median_of_its_fleet() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    fleet.correction_log = math.log(3.0)
    learner = _refreshed(TargetLearner(), fleet, 0.0)
    assert learner.correction == pytest.approx(3.0)
    assert learner.proof == 0.0


def test_an_unproven_target_that_decodes_for_others_is_taken_for_as_slow_as_it_decodes() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    learner = TargetLearner()
    learner.decode_speed.learn(math.log(5.0), 0.0, half_life_s=HALF_LIFE_S, weight_max=6.0)
    assert _refreshed(learner, fleet, 1.0).correction == pytest.approx(5.0)


def test_a_slow_target_nobody_tried_looks_average_again_after_some_half_lives() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    learner = TargetLearner()
    _learn(learner.ttft_factor, *[10.0] * 6)
    assert _refreshed(learner, fleet, 0.0).correction == pytest.approx(10.0)
    assert _refreshed(learner, fleet, 120.0).correction == pytest.approx(10.0**0.25)
    assert _refreshed(learner, fleet, 300.0).correction < 1.1
    assert learner.proof < 1.0


def test_a_new_engine_is_taken_for_an_average_one() -> None:
    fleet = FleetLearner(bytes_per_token=4.0, output_tokens=256.0)
    fleet.correction_log = math.log(2.0)
    learner = TargetLearner()
    _learn(learner.ttft_factor, *[10.0] * 6)
    learner.decode_speed.learn(math.log(9.0), 0.0, half_life_s=HALF_LIFE_S, weight_max=6.0)
    learner.ended(0.0, failed=True, half_life_s=HALF_LIFE_S)
    learner.restart()
    assert _refreshed(learner, fleet, 0.0).correction == pytest.approx(2.0)
    assert learner.failing == 0.0
    assert learner.proof == 0.0


def test_the_failure_rate_rises_with_failures_and_falls_with_answers_and_time() -> None:
    learner = TargetLearner()
    assert learner.failure_rate(0.0, HALF_LIFE_S) == 0.0
    for _ in range(4):
        learner.ended(0.0, failed=True, half_life_s=HALF_LIFE_S)
    assert learner.failure_rate(0.0, HALF_LIFE_S) == pytest.approx(1 - 0.75**4)
    assert learner.failure_rate(60.0, HALF_LIFE_S) == pytest.approx((1 - 0.75**4) / 2)
    for _ in range(30):
        learner.ended(0.0, failed=False, half_life_s=HALF_LIFE_S)
    assert learner.failing == 0.0
