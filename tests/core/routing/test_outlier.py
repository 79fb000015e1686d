from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import ModelName, TargetKey
from infermesh.core.model.outcome import Verdict
from infermesh.core.routing.outlier import (
    Ejected,
    OutlierConfig,
    OutlierEffect,
    Outliers,
    Readmitted,
    Spared,
    Standing,
)

MODEL = ModelName("m")
A, B, C, D = (TargetKey(f"gpu-{name}/m") for name in "abcd")
FAILURES = [Verdict.SERVER_ERROR, Verdict.CONNECT_FAILED, Verdict.BROKEN, Verdict.TIMED_OUT]


def outliers(*keys: TargetKey, **config: Any) -> Outliers:
    core = Outliers(OutlierConfig(**config))
    assert core.on_pool(MODEL, keys, now=0.0) == []
    return core


def tell(core: Outliers, key: TargetKey, verdict: Verdict, times: int = 1, now: float = 1.0) -> list[OutlierEffect]:
    effects: list[OutlierEffect] = []
    for _ in range(times):
        effects += core.on_outcome(key, verdict, now, dispatched_at=now)
    return effects


def ejection(effects: list[OutlierEffect]) -> tuple[TargetKey, float]:
    assert len(effects) == 1
    assert isinstance(effects[0], Ejected)
    return effects[0].target, effects[0].for_s


def test_five_failures_in_a_row_eject_a_target() -> None:
    core = outliers(A, B)
    assert tell(core, A, Verdict.SERVER_ERROR, times=4) == []
    assert tell(core, A, Verdict.SERVER_ERROR) == [
        Ejected(A, 5.0, "5 failures in a row, the last one server_error"),
    ]
    assert core.standing(A) is Standing.EJECTED
    assert core.ejected_until(A) == 6.0
    assert core.ejected_until(B) is None


@pytest.mark.parametrize("verdict", FAILURES)
def test_every_failure_of_the_target_counts(verdict: Verdict) -> None:
    assert ejection(tell(outliers(A, B), A, verdict, times=5 if verdict is not Verdict.CONNECT_FAILED else 2))


def test_two_refused_connections_in_a_row_suffice() -> None:
    core = outliers(A, B)
    assert tell(core, A, Verdict.CONNECT_FAILED) == []
    assert tell(core, A, Verdict.CONNECT_FAILED) == [Ejected(A, 5.0, "2 connections refused in a row")]


def test_a_success_between_failures_starts_the_count_anew() -> None:
    core = outliers(A, B)
    for _ in range(3):
        assert tell(core, A, Verdict.BROKEN, times=4) == []
        assert tell(core, A, Verdict.OK) == []


@pytest.mark.parametrize("verdict", [Verdict.CLIENT_ERROR, Verdict.CANCELLED])
def test_what_is_not_the_targets_fault_neither_counts_nor_excuses(verdict: Verdict) -> None:
    core = outliers(A, B)
    assert tell(core, A, verdict, times=1000) == []
    tell(core, A, Verdict.BROKEN, times=4)
    assert tell(core, A, verdict, times=10) == []
    assert ejection(tell(core, A, Verdict.BROKEN)) == (A, 5.0)


def test_a_target_that_fails_part_of_the_time_is_ejected_for_its_share() -> None:
    core = outliers(A, B, C)
    effects: list[OutlierEffect] = []
    for _ in range(20):
        for key in (B, C):
            tell(core, key, Verdict.OK, times=3)
        effects += tell(core, A, Verdict.OK) + tell(core, A, Verdict.SERVER_ERROR)
    assert effects[0] == Ejected(A, 5.0, "10 of 20 requests failed, the last one server_error")


def test_a_share_out_of_a_few_requests_says_nothing() -> None:
    core = outliers(A, B)
    for _ in range(9):
        assert tell(core, A, Verdict.OK) == []
        assert tell(core, A, Verdict.SERVER_ERROR) == []


def test_failures_of_the_distant_past_do_not_count_into_the_share() -> None:
    core = outliers(A, B, window_s=20.0)
    for second in range(200):
        verdict = Verdict.SERVER_ERROR if second % 10 < 4 else Verdict.OK
        assert tell(core, A, verdict, now=second * 7.0) == []


def test_where_all_targets_fail_alike_the_share_ejects_nobody() -> None:
    core = outliers(A, B, C, D)
    for _ in range(50):
        for key in (A, B, C, D):
            assert tell(core, key, Verdict.OK) == []
            assert tell(core, key, Verdict.SERVER_ERROR) == []


@pytest.mark.parametrize(("count", "ejected_max"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_at_most_half_of_a_model_is_ejected_at_once(count: int, ejected_max: int) -> None:
    keys = [TargetKey(f"gpu-{number}/m") for number in range(count)]
    core = outliers(*keys)
    effects = [effect for key in keys for effect in tell(core, key, Verdict.BROKEN, times=20)]
    assert [type(effect) for effect in effects] == [Ejected] * ejected_max + [Spared] * (count - ejected_max)


def test_a_spared_target_is_told_once_and_ejected_as_soon_as_there_is_room() -> None:
    core = outliers(A, B)
    tell(core, A, Verdict.BROKEN, times=5)
    assert tell(core, B, Verdict.BROKEN, times=9, now=2.0) == [
        Spared(B, "5 failures in a row, the last one broken"),
    ]
    assert core.on_wake(now=6.0) == [Readmitted(A, early=False)]
    assert ejection(tell(core, B, Verdict.BROKEN, now=7.0)) == (B, 5.0)


def test_a_readmitted_target_is_ejected_by_its_first_failure_for_twice_the_time() -> None:
    core = outliers(A, B)
    tell(core, A, Verdict.BROKEN, times=5, now=0.0)
    now, lengths = 0.0, []
    for _ in range(6):
        assert core.wake_at > now
        assert core.on_wake(now=core.wake_at - 0.1) == []
        now = core.wake_at
        assert core.on_wake(now) == [Readmitted(A, early=False)]
        assert core.standing(A) is Standing.PROBATION
        lengths.append(ejection(tell(core, A, Verdict.SERVER_ERROR, now=now))[1])
    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


def test_a_target_that_proves_itself_is_trusted_again_and_forgiven_slowly() -> None:
    core = outliers(A, B)
    tell(core, A, Verdict.BROKEN, times=5, now=0.0)
    core.on_wake(now=5.0)
    tell(core, A, Verdict.OK, times=3, now=6.0)
    assert core.standing(A) is Standing.TRUSTED
    assert ejection(tell(core, A, Verdict.BROKEN, times=5, now=7.0)) == (A, 10.0)
    core.on_wake(now=17.0)
    tell(core, A, Verdict.OK, times=40, now=18.0)
    assert ejection(tell(core, A, Verdict.BROKEN, times=5, now=19.0)) == (A, 5.0)


def test_late_news_from_before_the_ejection_ended_is_ignored() -> None:
    core = outliers(A, B)
    tell(core, A, Verdict.BROKEN, times=5, now=0.0)
    assert core.on_outcome(A, Verdict.BROKEN, 1.0, dispatched_at=-1.0) == []
    core.on_wake(now=5.0)
    assert core.on_outcome(A, Verdict.TIMED_OUT, 6.0, dispatched_at=4.0) == []
    assert core.on_outcome(A, Verdict.OK, 6.0, dispatched_at=4.0) == []
    assert core.standing(A) is Standing.PROBATION


def test_a_pool_that_shrinks_takes_back_the_one_that_was_nearest_to_its_end() -> None:
    core = outliers(A, B, C, D)
    tell(core, B, Verdict.BROKEN, times=5, now=0.0)
    tell(core, A, Verdict.BROKEN, times=5, now=1.0)
    assert core.on_pool(MODEL, [A, B, C], now=2.0) == [Readmitted(B, early=True)]
    assert core.on_pool(MODEL, [A], now=3.0) == [Readmitted(A, early=True)]
    assert core.wake_at == float("inf")


def test_the_last_target_left_is_never_ejected_however_it_fails() -> None:
    core = outliers(A)
    assert tell(core, A, Verdict.CONNECT_FAILED, times=2) == [Spared(A, "2 connections refused in a row")]
    assert core.ejected_until(A) is None


def test_an_ejected_target_that_left_the_pool_takes_no_place_in_the_share() -> None:
    core = outliers(A, B, C, D)
    tell(core, A, Verdict.BROKEN, times=5)
    assert core.on_pool(MODEL, [B, C, D], now=2.0) == []
    assert ejection(tell(core, B, Verdict.BROKEN, times=5, now=2.0)) == (B, 5.0)


def test_a_restart_ends_the_ejection_but_not_the_doubt() -> None:
    core = outliers(A, B)
    tell(core, A, Verdict.CONNECT_FAILED, times=2, now=0.0)
    assert core.on_restart(A, now=1.0) == [Readmitted(A, early=True)]
    assert core.on_restart(A, now=1.0) == []
    assert core.standing(A) is Standing.PROBATION
    assert ejection(tell(core, A, Verdict.BROKEN, now=2.0)) == (A, 10.0)


def test_models_are_counted_apart() -> None:
    core = outliers(A, B)
    other = ModelName("other")
    core.on_pool(other, [C, D], now=0.0)
    assert ejection(tell(core, A, Verdict.BROKEN, times=5)) == (A, 5.0)
    assert ejection(tell(core, C, Verdict.BROKEN, times=5)) == (C, 5.0)


def test_forgotten_and_unknown_targets_are_ignored() -> None:
    core = outliers(A, B)
    tell(core, A, Verdict.BROKEN, times=5)
    core.on_pool(MODEL, [B], now=2.0)
    core.forget(A)
    core.forget(A)
    assert core.wake_at == float("inf")
    assert tell(core, A, Verdict.BROKEN, times=9) == []
    assert core.standing(A) is Standing.TRUSTED


def test_an_empty_pool_forgets_the_model() -> None:
    core = outliers(A)
    assert core.on_pool(MODEL, [], now=1.0) == []
    assert tell(core, A, Verdict.BROKEN, times=5) == [Spared(A, "5 failures in a row, the last one broken")]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"failures_in_row": 0}, "failures_in_row"),
        ({"window_s": 0.0}, "window_s"),
        ({"ejected_share_max": 1.5}, "ejected_share_max"),
        ({"failure_share_max": -0.1}, "failure_share_max"),
        ({"peer_factor": 0.5}, "peer_factor"),
        ({"eject_base_s": 61.0}, "eject_longest_s"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Outliers(OutlierConfig(**config))


_STEP = st.tuples(
    st.sampled_from(["outcome", "pool", "wake", "restart"]),
    st.integers(0, 5),
    st.sampled_from(list(Verdict)),
    st.floats(0.0, 4.0),
)


@given(st.lists(_STEP, max_size=150), st.integers(1, 6))
def test_in_any_history_the_share_holds_and_every_effect_fits_the_standing(
    steps: Sequence[tuple[str, int, Verdict, float]], count: int
) -> None:
    keys = [TargetKey(f"gpu-{number}/m") for number in range(6)]
    pool = set(keys[:count])
    core = outliers(*pool)
    out: set[TargetKey] = set()
    now = 0.0
    for kind, number, verdict, wait_s in steps:
        now += wait_s
        effects: list[OutlierEffect] = []
        if kind == "outcome":
            effects = tell(core, keys[number], verdict, times=3, now=now)
        elif kind == "pool":
            pool ^= {keys[number]}
            effects = core.on_pool(MODEL, pool, now)
        elif kind == "restart":
            effects = core.on_restart(keys[number], now)
        else:
            effects = core.on_wake(now)
            assert core.wake_at > now
        for effect in effects:
            if isinstance(effect, Ejected):
                assert effect.target not in out
                assert verdict in FAILURES
                out.add(effect.target)
            elif isinstance(effect, Readmitted):
                out.remove(effect.target)
        assert len(out & pool) <= len(pool) // 2
        assert out == {key for key in keys if core.ejected_until(key) is not None}
