import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import Priority
from infermesh.core.routing.arrival import Arrival, Waiter
from infermesh.core.routing.queue import WaitingLine

MODEL = ModelName("m")


def waiter(number: int, *, start_by: float = 1e6, arrived_at: float = 0.0, **fields: Any) -> Waiter:
    defaults: dict[str, Any] = {"ticket": number, "model": MODEL, "work_ms": 1000.0}
    return Waiter(Arrival(**(defaults | fields)), number, arrived_at, start_by)


def line(*waiters: Waiter, aging_after_s: float = 1e9, aging_every: int = 8) -> WaitingLine:
    made = WaitingLine(aging_after_s=aging_after_s, aging_every=aging_every)
    for each in waiters:
        made.push(each)
    return made


def numbers(made: WaitingLine, now: float = 0.0) -> list[int]:
    found = []
    while (each := made.pop(now)) is not None:
        found.append(each.number)
    return found


def test_an_empty_line_has_nobody_and_no_expiry() -> None:
    made = line()
    assert (len(made), made.pop(0.0), made.pop_expired(1e9), made.oldest()) == (0, None, None, None)
    assert made.next_expiry == math.inf


def test_one_that_leaves_from_the_middle_leaves_the_order_of_the_others() -> None:
    middle = waiter(2)
    made = line(waiter(1), middle, waiter(3), waiter(4, tenant="b"))
    made.remove(middle)
    assert numbers(made) == [1, 4, 3]


def test_the_expired_come_out_by_their_time() -> None:
    made = line(waiter(1, start_by=5.0), waiter(2, start_by=3.0), waiter(3, start_by=9.0))
    assert made.next_expiry == 3.0
    expired = [made.pop_expired(5.0), made.pop_expired(5.0), made.pop_expired(5.0)]
    assert [each.number for each in expired if each is not None] == [2, 1]
    assert len(made) == 1


def test_work_ahead_counts_higher_classes_whole_and_the_own_class_by_turns() -> None:
    made = line(
        waiter(1, priority=Priority.SYSTEM, work_ms=100.0),
        waiter(2, priority=Priority.BULK, work_ms=9000.0),
        waiter(3, tenant="a", work_ms=1000.0),
        waiter(4, tenant="b", work_ms=50_000.0),
    )
    # Its own tenant's 1,000, as much again for the rival until both are served through the newcomer's 500.
    assert made.work_ahead_ms(waiter(9, tenant="a", work_ms=500.0)) == 100.0 + 1000.0 + 1500.0
    assert made.work_ahead_ms(waiter(9, priority=Priority.SYSTEM)) == 100.0
    assert made.work_up_to_ms(Priority.DEFAULT) == 51_100.0


def test_an_earlier_start_passes_the_own_tenants_later_ones_only() -> None:
    made = line(waiter(1, start_by=10.0), waiter(2, start_by=20.0), waiter(3, start_by=20.0))
    assert made.work_ahead_ms(waiter(9, start_by=15.0)) == 1000.0
    assert made.work_ahead_ms(waiter(9, start_by=20.0)) == 3000.0


def test_a_tenant_keeps_its_debt_while_others_wait() -> None:
    made = line(waiter(1, tenant="big", work_ms=5000.0), waiter(2, tenant="b"), waiter(3, tenant="b"))
    first = made.pop(0.0)
    assert first is not None and first.number == 1
    made.push(waiter(4, tenant="big"))
    assert numbers(made) == [2, 3, 4]


def test_a_debt_is_forgotten_when_nobody_waits_any_more() -> None:
    made = line(waiter(1, tenant="big", work_ms=5000.0))
    assert numbers(made) == [1]
    made.push(waiter(2, tenant="big"))
    made.push(waiter(3, tenant="b"))
    assert numbers(made) == [2, 3]


def test_tenants_that_come_and_go_do_not_fill_the_memory() -> None:
    made = line(waiter(0, tenant="stays", start_by=1e9, work_ms=1e6), waiter(1, tenant="stays", work_ms=1e6))
    for number in range(2, 3000):
        made.push(waiter(number, tenant=f"t{number}", priority=Priority.DEFAULT))
        made.pop(0.0)
    debts = made._classes[Priority.DEFAULT]._debts
    assert len(debts) <= 1024


def test_the_guard_takes_the_oldest_only_when_it_is_overdue() -> None:
    old = [waiter(number, priority=Priority.BULK, arrived_at=0.0) for number in (1, 2)]
    young = [waiter(number, arrived_at=4.0) for number in range(3, 12)]
    made = line(*old, *young, aging_after_s=5.0, aging_every=3)
    assert [each.number for each in (made.pop(4.5) for _ in range(4)) if each] == [3, 4, 5, 6]
    assert [each.number for each in (made.pop(5.5) for _ in range(5)) if each] == [1, 7, 8, 2, 9]


def test_nobody_gives_way_to_one_of_the_lowest_class() -> None:
    made = line(waiter(1), waiter(2, priority=Priority.BULK))
    assert made.victim_for(Arrival(ticket=9, model=MODEL, priority=Priority.BULK)) is None


_STEP = st.tuples(
    st.sampled_from(["push", "push", "pop", "remove"]),
    st.sampled_from(list(Priority)),
    st.sampled_from("abc"),
    st.floats(1.0, 5000.0),
    st.floats(0.0, 100.0),
)


@given(st.lists(_STEP, max_size=80))
def test_in_any_history_the_line_agrees_with_a_plain_list(
    steps: Sequence[tuple[str, Priority, str, float, float]],
) -> None:
    made = line()
    plain: list[Waiter] = []
    for number, (kind, priority, tenant, work_ms, start_by) in enumerate(steps):
        if kind == "push":
            new = waiter(number, priority=priority, tenant=tenant, work_ms=work_ms, start_by=start_by)
            made.push(new)
            plain.append(new)
        elif kind == "pop":
            found = made.pop(0.0)
            assert (found is None) == (not plain)
            if found is not None:
                peers = [each for each in plain if each.arrival.tenant == found.arrival.tenant]
                assert found.arrival.priority == min(each.arrival.priority for each in plain)
                same = [each for each in peers if each.arrival.priority == found.arrival.priority]
                assert found is min(same, key=lambda each: (each.start_by, each.number))
                plain.remove(found)
        elif plain:
            made.remove(plain.pop(number % len(plain)))
        assert len(made) == len(plain)
        assert made.oldest() is (plain[0] if plain else None)
        assert made.next_expiry == min((each.start_by for each in plain), default=math.inf)
        assert made.work_up_to_ms(Priority.BULK) == pytest.approx(sum(each.work_ms for each in plain), abs=1e-3)


@given(st.integers(0, 2**32), st.floats(1.0, 1000.0))
def test_two_tenants_that_always_wait_are_served_equal_work_within_one_request_each(seed: int, top_ms: float) -> None:
    rng = random.Random(seed)
    requests = [(rng.random() < 0.5, rng.uniform(1.0, top_ms)) for _ in range(80)]
    made = line(*(waiter(n, tenant="ab"[mine], work_ms=work_ms) for n, (mine, work_ms) in enumerate(requests)))
    left = [sum(1 for mine, _ in requests if not mine), sum(1 for mine, _ in requests if mine)]
    served_ms = [0.0, 0.0]
    while min(left) > 0:
        each = made.pop(0.0)
        assert each is not None
        mine = each.arrival.tenant == "b"
        served_ms[mine] += each.work_ms
        left[mine] -= 1
        assert abs(served_ms[0] - served_ms[1]) <= top_ms + 1e-6
