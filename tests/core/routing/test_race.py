import math

import pytest

from infermesh.core.routing.effects import Cancel, Dispatch, Settle
from infermesh.core.routing.race import Race


def test_a_slow_first_attempt_is_hedged_and_the_loser_is_cancelled() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=0.05)
    assert race.start(now=10.0) == [Dispatch(0, "gpu-a")]
    assert race.on_wake(now=10.05) == [Dispatch(1, "gpu-b")]
    assert race.live == (0, 1)
    assert race.on_head(1, now=10.06) == [Cancel(0), Settle(winner=1)]
    assert race.on_head(0, now=10.07) == []
    assert race.wake_at == math.inf


def test_an_early_wake_changes_nothing() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=0.05)
    race.start(now=10.0)
    assert race.on_wake(now=10.04) == []
    assert race.wake_at == 10.05


def test_a_failed_attempt_is_retried_on_the_next_target() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=1.0)
    race.start(now=10.0)
    assert race.on_failed(0, now=10.2) == [Dispatch(1, "gpu-b")]
    assert race.on_failed(0, now=10.3) == []
    assert race.on_failed(1, now=10.4) == [Settle(winner=None)]


def test_a_failure_while_another_attempt_runs_is_no_reason_to_give_up() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.on_wake(now=10.05)
    assert race.on_failed(0, now=10.06) == []
    assert race.on_head(1, now=10.07) == [Settle(winner=1)]


def test_at_most_two_attempts_run_at_once_however_long_it_takes() -> None:
    race = Race(["gpu-a", "gpu-b", "gpu-c"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.on_wake(now=10.05)
    assert race.wake_at == math.inf
    assert race.on_wake(now=99.0) == []


def test_a_hedge_that_failed_fast_makes_room_for_another_after_a_full_wait() -> None:
    race = Race(["gpu-a", "gpu-b", "gpu-c"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.on_wake(now=10.05)
    assert race.on_failed(1, now=10.06) == []
    assert race.wake_at == pytest.approx(10.11)
    assert race.on_wake(now=10.12) == [Dispatch(2, "gpu-c")]
    assert race.on_head(0, now=10.13) == [Cancel(2), Settle(winner=0)]


def test_a_failure_before_the_hedge_does_not_postpone_the_hedge_of_its_successor() -> None:
    race = Race(["gpu-a", "gpu-b", "gpu-c"], hedge_after_s=0.05)
    race.start(now=10.0)
    assert race.on_failed(0, now=10.04) == [Dispatch(1, "gpu-b")]
    assert race.wake_at == pytest.approx(10.09)


def test_a_forbidden_hedge_leaves_the_retry_allowed() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.forbid_hedge()
    assert race.wake_at == math.inf
    assert race.on_wake(now=10.06) == []
    assert race.on_failed(0, now=10.1) == [Dispatch(1, "gpu-b")]
    assert race.wake_at == math.inf


def test_a_refused_retry_settles_the_race_without_a_winner() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.forbid_retry()
    assert race.on_failed(0, now=10.01) == [Settle(winner=None)]
    assert race.on_wake(now=11.0) == []


def test_a_refused_retry_does_not_fail_a_race_that_is_still_running() -> None:
    race = Race(["gpu-a", "gpu-b", "gpu-c"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.on_wake(now=10.05)
    race.forbid_retry()
    assert race.on_failed(0, now=10.06) == []
    assert race.on_head(1, now=10.07) == [Settle(winner=1)]


def test_a_race_tells_whether_a_retry_would_find_a_target() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=1.0)
    race.start(now=10.0)
    before = race.may_launch
    race.on_failed(0, now=10.1)
    assert (before, race.may_launch) == (True, False)
    other = Race(["gpu-a", "gpu-b"], hedge_after_s=1.0)
    other.forbid_retry()
    assert not other.may_launch


def test_a_race_tells_where_its_next_attempt_would_go() -> None:
    race = Race(["gpu-a", "gpu-b", "gpu-c"], hedge_after_s=1.0)
    seen = [race.next_target]
    race.start(now=10.0)
    race.on_failed(0, now=10.1)
    seen.append(race.next_target)
    race.on_wake(now=11.1)
    seen.append(race.next_target)
    assert seen == ["gpu-a", "gpu-c", None]


def test_the_owner_cancels_everything_that_runs_and_hears_nothing_more() -> None:
    race = Race(["gpu-a", "gpu-b", "gpu-c"], hedge_after_s=0.05)
    race.start(now=10.0)
    race.on_wake(now=10.05)
    assert race.on_cancel(now=10.06) == [Cancel(0), Cancel(1)]
    assert race.on_cancel(now=10.07) == []
    assert race.on_head(0, now=10.08) == []
    assert race.on_failed(1, now=10.08) == []
    assert race.on_wake(now=99.0) == []


def test_a_race_cancelled_before_its_start_has_nothing_to_cancel() -> None:
    race = Race(["gpu-a"], hedge_after_s=0.05)
    assert race.on_cancel(now=10.0) == []
    with pytest.raises(AssertionError):
        race.start(now=10.0)


def test_an_infinite_patience_never_hedges() -> None:
    race = Race(["gpu-a", "gpu-b"], hedge_after_s=math.inf)
    race.start(now=10.0)
    assert race.wake_at == math.inf


def test_targets_may_be_of_any_type() -> None:
    race = Race([("gpu-a", 1), ("gpu-b", 2)], hedge_after_s=0.0)
    assert race.start(now=0.0) == [Dispatch(0, ("gpu-a", 1))]
    assert race.on_wake(now=0.0) == [Dispatch(1, ("gpu-b", 2))]


@pytest.mark.parametrize(
    ("targets", "hedge_after_s", "live_max"), [([], 1.0, 2), (["a"], -0.1, 2), (["a"], math.nan, 2), (["a"], 1.0, 0)]
)
def test_a_race_that_cannot_be_run_is_refused_at_once(targets: list[str], hedge_after_s: float, live_max: int) -> None:
    with pytest.raises(ValueError):
        Race(targets, hedge_after_s=hedge_after_s, live_max=live_max)
