"""The plan of a pool: no sockets. What dials is tested with the asking side (test_client, test_cancelled)."""

from __future__ import annotations

from dataclasses import dataclass

from infermesh.net.http2.pool import Http2PoolPlan


@dataclass(eq=False)
class Member:
    serial: int
    room: int


def test_the_oldest_connection_with_room_is_picked() -> None:
    plan: Http2PoolPlan[Member] = Http2PoolPlan(4)
    full, first, second = Member(1, 0), Member(2, 1), Member(3, 5)
    plan.members += [full, first, second]
    assert plan.pick() is first
    first.room = 0
    assert plan.pick() is second
    second.room = -1  # The peer has lowered its limit.
    assert plan.pick() is None


def test_only_connections_that_are_young_enough_are_picked() -> None:
    plan: Http2PoolPlan[Member] = Http2PoolPlan(4)
    plan.members += [Member(1, 5), Member(2, 5)]
    assert plan.pick(2) is plan.members[1]
    assert plan.pick(3) is None


def test_what_is_being_opened_counts_to_the_limit() -> None:
    plan: Http2PoolPlan[Member] = Http2PoolPlan(2)
    assert plan.may_open()
    plan.opening = 1
    plan.members.append(Member(1, 0))
    assert not plan.may_open()
    plan.drop(plan.members[0])
    assert plan.may_open()


def test_dropping_a_connection_twice_is_nothing() -> None:
    plan: Http2PoolPlan[Member] = Http2PoolPlan(2)
    member = Member(1, 0)
    plan.members.append(member)
    plan.drop(member)
    plan.drop(member)
    assert plan.members == []
