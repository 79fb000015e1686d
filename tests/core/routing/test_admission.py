import math
import random
from typing import Any

import pytest

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import Priority
from infermesh.core.routing.admission import Admission, AdmissionConfig, Arrival
from infermesh.core.routing.effects import AdmissionEffect, Admit, RefusalReason, Refuse

MODEL = ModelName("m")
SYSTEM, INTERACTIVE, DEFAULT, BULK = Priority


def arrival(ticket: int, **fields: Any) -> Arrival:
    defaults: dict[str, Any] = {"ticket": ticket, "model": MODEL, "work_ms": 1000.0}
    return Arrival(**(defaults | fields))


def admission(slots: int, **config: Any) -> Admission:
    core = Admission(AdmissionConfig(**config), random.Random(0))
    assert core.set_capacity(MODEL, slots, now=0.0) == []
    return core


def refusal(effect: AdmissionEffect | None) -> tuple[int, str]:
    assert isinstance(effect, Refuse)
    return (effect.ticket, effect.reason)


def fill(core: Admission, tickets: range, now: float = 0.0, **fields: Any) -> None:
    for ticket in tickets:
        effect = core.on_arrival(arrival(ticket, **fields), now)
        assert effect is None or effect == Admit(ticket)


def admitted_in_order(core: Admission, first: int, now: float) -> list[int]:
    """Let the running request end, then each admitted one in its turn."""
    order: list[int] = []
    running = [first]
    while running:
        for effect in core.on_departure(running.pop(0), now):
            assert isinstance(effect, Admit)
            order.append(effect.ticket)
            running.append(effect.ticket)
    return order


def test_a_request_that_finds_room_is_admitted_at_once() -> None:
    core = admission(slots=2)
    assert core.on_arrival(arrival(1), now=0.0) == Admit(1)
    assert core.on_arrival(arrival(2), now=0.0) == Admit(2)
    assert core.inflight(MODEL) == 2
    assert core.wake_at == math.inf


def test_a_request_that_finds_no_room_waits_and_takes_the_next_slot() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(1), now=0.0)
    assert core.on_arrival(arrival(2), now=0.0) is None
    assert core.queue_len(MODEL) == 1
    assert core.on_departure(1, now=1.0) == [Admit(2)]
    assert core.queue_len(MODEL) == 0
    assert core.inflight(MODEL) == 1


def test_more_capacity_admits_the_waiters_in_their_order() -> None:
    core = admission(slots=1)
    fill(core, range(1, 5))
    assert core.set_capacity(MODEL, 3, now=0.5) == [Admit(2), Admit(3)]


def test_less_capacity_lets_the_running_finish_and_admits_nobody_meanwhile() -> None:
    core = admission(slots=3)
    fill(core, range(1, 5))
    assert core.set_capacity(MODEL, 1, now=0.5) == []
    assert core.on_departure(1, now=0.6) == []
    assert core.on_departure(2, now=0.6) == []
    assert core.on_departure(3, now=0.6) == [Admit(4)]


def test_overcommit_admits_more_than_the_slots_and_never_less_than_one() -> None:
    core = admission(slots=10, overcommit=1.5)
    fill(core, range(20))
    assert core.inflight(MODEL) == 15
    assert admission(slots=1, overcommit=0.1).on_arrival(arrival(1), now=0.0) == Admit(1)


def test_the_higher_class_goes_first_and_equals_go_in_order_of_arrival() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(0), now=0.0)
    for ticket, priority in enumerate([BULK, DEFAULT, SYSTEM, DEFAULT, INTERACTIVE, SYSTEM], start=1):
        assert core.on_arrival(arrival(ticket, priority=priority), now=0.0) is None
    assert admitted_in_order(core, 0, now=1.0) == [3, 6, 5, 2, 4, 1]


def test_inside_a_class_a_tenants_earliest_deadline_goes_first() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(0), now=0.0)
    for ticket, deadline in enumerate([20.0, 10.0, math.inf, 10.0, 15.0], start=1):
        assert core.on_arrival(arrival(ticket, deadline=deadline), now=0.0) is None
    assert admitted_in_order(core, 0, now=1.0) == [2, 4, 5, 1, 3]


def test_a_short_deadline_does_not_let_one_tenant_take_the_line() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(0), now=0.0)
    fill(core, range(1, 4), tenant="hasty", deadline=10.0)
    fill(core, range(11, 14), tenant="calm")
    assert admitted_in_order(core, 0, now=1.0) == [1, 11, 2, 12, 3, 13]


def test_tenants_are_served_the_same_work_not_the_same_number_of_requests() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(0), now=0.0)
    fill(core, range(1, 4), tenant="long", work_ms=4000.0)
    fill(core, range(11, 22), tenant="short", work_ms=1000.0)
    order = admitted_in_order(core, 0, now=1.0)
    assert order[:10] == [1, 11, 12, 13, 14, 2, 15, 16, 17, 18]


def test_a_tenant_that_was_idle_has_saved_nothing_up() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(0), now=0.0)
    fill(core, range(1, 10), tenant="busy")
    running = 0
    for expected in range(1, 5):
        assert core.on_departure(running, now=1.0) == [Admit(expected)]
        running = expected
    fill(core, range(21, 25), now=1.0, tenant="late")
    assert admitted_in_order(core, running, now=1.0)[:4] in ([5, 21, 6, 22], [21, 5, 22, 6])


def test_a_full_queue_refuses_the_newcomer_of_the_same_class() -> None:
    core = admission(slots=1, queue_len_max=2)
    fill(core, range(3))
    assert refusal(core.on_arrival(arrival(3), now=0.0)) == (3, "queue_full")
    assert core.queue_len(MODEL) == 2


def test_a_full_queue_sheds_the_newest_of_the_lowest_class_for_a_higher_one() -> None:
    core = admission(slots=1, queue_len_max=3)
    core.on_arrival(arrival(0), now=0.0)
    fill(core, range(1, 3), priority=BULK)
    fill(core, range(3, 4), priority=DEFAULT)
    assert refusal(core.on_arrival(arrival(4, priority=SYSTEM), now=0.0)) == (2, "shed")
    assert refusal(core.on_arrival(arrival(5, priority=BULK), now=0.0)) == (5, "queue_full")
    assert refusal(core.on_arrival(arrival(6, priority=INTERACTIVE), now=0.0)) == (1, "shed")
    assert refusal(core.on_arrival(arrival(7, priority=INTERACTIVE), now=0.0)) == (3, "shed")
    assert refusal(core.on_arrival(arrival(8, priority=DEFAULT), now=0.0)) == (8, "queue_full")
    assert admitted_in_order(core, 0, now=1.0) == [4, 6, 7]


def test_one_tenants_flood_makes_room_for_another_tenant_of_its_class() -> None:
    core = admission(slots=1, queue_len_max=4)
    core.on_arrival(arrival(0), now=0.0)
    fill(core, range(1, 5), tenant="flood")
    assert refusal(core.on_arrival(arrival(11, tenant="small"), now=0.0)) == (4, "shed")
    assert refusal(core.on_arrival(arrival(12, tenant="small"), now=0.0)) == (3, "shed")
    assert refusal(core.on_arrival(arrival(13, tenant="small"), now=0.0)) == (13, "queue_full")
    assert refusal(core.on_arrival(arrival(5, tenant="flood"), now=0.0)) == (5, "queue_full")


def test_what_cannot_meet_its_deadline_is_refused_at_once() -> None:
    core = admission(slots=2)
    # Two run, four wait: two seconds of work before a newcomer, and half a second for its own slot.
    fill(core, range(6), priority=INTERACTIVE)
    late = arrival(10, deadline=2.4)
    assert refusal(core.on_arrival(late, now=0.0)) == (10, "deadline")
    assert core.on_arrival(arrival(11, deadline=2.6), now=0.0) is None
    assert refusal(core.on_arrival(arrival(12, deadline=3.3, predicted_ttft_ms=500.0), now=0.0)) == (12, "deadline")


def test_a_deadline_that_even_an_idle_fleet_misses_is_refused_although_there_is_room() -> None:
    core = admission(slots=2)
    hopeless = arrival(1, deadline=0.4, predicted_ttft_ms=500.0)
    assert refusal(core.on_arrival(hopeless, now=0.0)) == (1, "deadline")
    assert core.on_arrival(arrival(2, deadline=0.6, predicted_ttft_ms=500.0), now=0.0) == Admit(2)
    assert refusal(core.on_arrival(arrival(3, deadline=-1.0), now=0.0)) == (3, "deadline")


def test_a_higher_class_does_not_count_the_work_of_the_lower_ones_as_ahead() -> None:
    core = admission(slots=1)
    fill(core, range(9), priority=BULK)
    assert core.on_arrival(arrival(10, priority=SYSTEM, deadline=1.5), now=0.0) is None


def test_a_wait_beyond_the_longest_allowed_is_refused_at_once() -> None:
    core = admission(slots=1, queue_wait_max_s=3.0)
    fill(core, range(4))
    assert refusal(core.on_arrival(arrival(4), now=0.0)) == (4, "queue_full")


def test_a_waiter_that_can_no_longer_start_in_time_is_refused_when_its_time_is_up() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(1), now=0.0)
    assert core.on_arrival(arrival(2, deadline=5.0, predicted_ttft_ms=500.0), now=0.0) is None
    assert core.wake_at == 4.5
    assert core.on_wake(now=4.4) == []
    assert [refusal(effect) for effect in core.on_wake(now=4.5)] == [(2, "expired")]
    assert core.wake_at == math.inf


def test_a_waiter_without_a_deadline_waits_as_long_as_the_config_says() -> None:
    core = admission(slots=1, queue_wait_max_s=30.0)
    fill(core, range(2))
    assert core.wake_at == 30.0
    assert [refusal(effect) for effect in core.on_wake(now=30.0)] == [(1, "expired")]


def test_a_slot_that_comes_free_is_not_wasted_on_an_expired_waiter() -> None:
    core = admission(slots=1)
    core.on_arrival(arrival(1), now=0.0)
    core.on_arrival(arrival(2, deadline=5.0), now=0.0)
    core.on_arrival(arrival(3), now=0.0)
    effects = core.on_departure(1, now=6.0)
    assert refusal(effects[0]) == (2, "expired")
    assert effects[1:] == [Admit(3)]


def test_an_overdue_bulk_request_gets_one_admission_of_eight() -> None:
    core = admission(slots=1, aging_after_s=5.0, aging_every=8)
    core.on_arrival(arrival(0), now=0.0)
    core.on_arrival(arrival(1, priority=BULK, deadline=25.0), now=0.0)
    fill(core, range(10, 30), now=4.0, priority=INTERACTIVE)
    order = admitted_in_order(core, 0, now=6.0)
    assert order.index(1) == 7


def test_a_gone_waiter_leaves_the_queue_and_is_never_admitted() -> None:
    core = admission(slots=1)
    fill(core, range(4))
    assert core.on_gone(2, now=0.5) == []
    assert core.queue_len(MODEL) == 2
    assert admitted_in_order(core, 0, now=1.0) == [1, 3]


def test_a_client_that_goes_just_after_it_was_admitted_gives_its_slot_back() -> None:
    core = admission(slots=1)
    fill(core, range(2))
    assert core.on_gone(0, now=0.5) == [Admit(1)]
    assert core.inflight(MODEL) == 1


def test_late_repeated_and_unknown_tickets_are_ignored() -> None:
    core = admission(slots=1)
    fill(core, range(2))
    assert core.on_departure(99, now=0.1) == []
    assert core.on_gone(99, now=0.1) == []
    assert core.on_departure(0, now=0.5) == [Admit(1)]
    assert core.on_departure(0, now=0.6) == []
    assert core.inflight(MODEL) == 1


def test_a_ticket_is_used_once() -> None:
    core = admission(slots=1)
    fill(core, range(2))
    with pytest.raises(AssertionError):
        core.on_arrival(arrival(0), now=0.1)
    with pytest.raises(AssertionError):
        core.on_arrival(arrival(1), now=0.1)


def test_a_model_nobody_announced_is_refused_and_leaves_no_trace() -> None:
    core = Admission(AdmissionConfig(), random.Random(0))
    assert refusal(core.on_arrival(arrival(1), now=0.0)) == (1, "no_capacity")
    assert core.queue_len(MODEL) == 0
    assert core.inflight(MODEL) == 0


def test_without_any_target_a_request_waits_briefly_and_is_then_refused() -> None:
    core = admission(slots=0, no_capacity_wait_s=2.0)
    assert core.on_arrival(arrival(1), now=1.0) is None
    assert core.wake_at == 2.0
    assert [refusal(effect) for effect in core.on_wake(now=2.0)] == [(1, "no_capacity")]
    assert refusal(core.on_arrival(arrival(2), now=3.0)) == (2, "no_capacity")


def test_a_target_that_comes_back_in_time_serves_those_who_waited_for_it() -> None:
    core = admission(slots=1)
    fill(core, range(2))
    assert core.set_capacity(MODEL, 0, now=1.0) == []
    assert core.on_departure(0, now=1.5) == []
    assert core.set_capacity(MODEL, 4, now=2.0) == [Admit(1)]
    assert core.wake_at == math.inf


def test_the_outage_is_counted_from_its_beginning_however_often_it_is_told() -> None:
    core = admission(slots=1, no_capacity_wait_s=2.0)
    fill(core, range(2))
    core.set_capacity(MODEL, 0, now=1.0)
    core.set_capacity(MODEL, 0, now=2.5)
    assert core.wake_at == 3.0


def test_a_forgotten_model_refuses_its_waiters_and_lets_the_admitted_finish() -> None:
    core = admission(slots=1)
    fill(core, range(2))
    assert [refusal(effect) for effect in core.forget(MODEL, now=1.0)] == [(1, "no_capacity")]
    assert core.forget(MODEL, now=1.0) == []
    assert core.on_departure(0, now=2.0) == []
    assert core.wake_at == math.inf
    assert refusal(core.on_arrival(arrival(5), now=2.0)) == (5, "no_capacity")


def test_models_do_not_wait_for_each_other() -> None:
    core = admission(slots=1)
    other = ModelName("other")
    core.set_capacity(other, 1, now=0.0)
    fill(core, range(2))
    assert core.on_arrival(arrival(9, model=other), now=0.0) == Admit(9)
    assert core.on_departure(9, now=0.5) == []


def test_models_past_the_limit_of_the_table_are_refused() -> None:
    core = admission(slots=1, models_max=1)
    assert core.set_capacity(ModelName("other"), 5, now=0.0) == []
    assert refusal(core.on_arrival(arrival(1, model=ModelName("other")), now=0.0)) == (1, "no_capacity")


def test_a_queue_of_no_length_admits_or_refuses_and_never_waits() -> None:
    core = admission(slots=1, queue_len_max=0)
    assert core.on_arrival(arrival(1), now=0.0) == Admit(1)
    assert refusal(core.on_arrival(arrival(2, priority=SYSTEM), now=0.0)) == (2, "queue_full")


def test_absurd_predictions_are_bounded() -> None:
    core = admission(slots=1)
    fill(core, range(1), work_ms=math.nan)
    fill(core, range(1, 2), work_ms=-5.0)
    fill(core, range(2, 3), work_ms=math.inf)
    assert refusal(core.on_arrival(arrival(3), now=0.0)) == (3, "queue_full")
    assert admitted_in_order(core, 0, now=1.0) == [1, 2]


def test_retry_after_is_the_work_ahead_over_the_measured_drain_rate() -> None:
    core = admission(slots=2, queue_len_max=4, retry_after_jitter=0.0)
    fill(core, range(2), work_ms=1000.0)
    for ticket in range(2, 200):  # Each holds its slot twice as long as predicted: one second of work takes two.
        now = float(ticket // 2 * 2)
        core.on_departure(ticket - 2, now)
        core.on_arrival(arrival(ticket), now)
    fill(core, range(200, 204), now=198.0)
    effect = core.on_arrival(arrival(999), now=198.0)
    assert isinstance(effect, Refuse)
    assert effect.reason is RefusalReason.QUEUE_FULL
    # Four waiting and one for the own slot, at one second of work per second.
    assert effect.retry_after_s == pytest.approx(5.0, rel=0.05)
    assert core.completions_per_s(MODEL, now=198.0) == pytest.approx(1.0, rel=0.05)


def test_each_refused_client_is_told_a_later_place_in_the_line() -> None:
    core = admission(slots=1, queue_len_max=4, retry_after_jitter=0.0)
    fill(core, range(5))
    told = [core.on_arrival(arrival(ticket), now=0.0) for ticket in range(10, 13)]
    assert [effect.retry_after_s for effect in told if isinstance(effect, Refuse)] == [5.0, 6.0, 7.0]


def test_retry_after_stays_inside_its_bounds_jitter_included() -> None:
    core = admission(slots=1, queue_len_max=1, retry_after_min_s=2.0, retry_after_max_s=10.0)
    fill(core, range(2), work_ms=1.0)
    told = [core.on_arrival(arrival(ticket, work_ms=100.0), now=0.0) for ticket in range(10, 400)]
    waits = [effect.retry_after_s for effect in told if isinstance(effect, Refuse)]
    assert len(waits) == 390
    assert min(waits) >= 2.0
    assert max(waits) <= 10.0
    assert len(set(waits)) > 380


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"queue_len_max": -1}, "queue_len_max"),
        ({"queue_wait_max_s": 0.0}, "queue_wait_max_s"),
        ({"overcommit": math.nan}, "overcommit"),
        ({"aging_every": 1}, "aging_every"),
        ({"aging_after_s": math.inf}, "aging_after_s"),
        ({"retry_after_jitter": 1.5}, "retry_after_jitter"),
        ({"no_capacity_wait_s": 31.0}, "queue_wait_max_s"),
        ({"retry_after_min_s": 10.0, "retry_after_max_s": 10.5}, "retry_after_min_s"),
        ({"drain_window": 0}, "drain_window"),
        ({"models_max": 0}, "models_max"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Admission(AdmissionConfig(**config), random.Random(0))
