"""The loop itself, by connections that only count: turns end in time, nobody starves, defects stay where they are."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from infermesh.net.reactor import READ, Reactor

TURN_S = 0.004


class Flow:
    """Always readable. `serve` is called for each event."""

    def __init__(self, reactor: Reactor, serve: Callable[[Flow], None]) -> None:
        self.sock, self._other = socket.socketpair()
        self._other.send(b"x")
        self.fd = self.sock.fileno()
        self.events = 0
        self.closed = False
        self._reactor = reactor
        self._serve = serve
        reactor.add(self, READ)

    def on_event(self, mask: int) -> None:
        self.events += 1
        self._serve(self)

    def lose(self, why: str) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._reactor.remove(self)
            self.sock.close()
            self._other.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("infermesh.net.reactor.time", SimpleNamespace(perf_counter=lambda: now.s))
    return now


@contextmanager
def flows(count: int, serve: Callable[[Flow], None]) -> Iterator[tuple[Reactor, list[Flow]]]:
    reactor = Reactor(turn_max_s=TURN_S)
    made = [Flow(reactor, serve) for _ in range(count)]
    yield reactor, made
    for flow in made:
        flow.abort()
    reactor._epoll.close()


def test_a_turn_ends_in_time_although_a_batch_of_slow_events_is_ready(clock: SimpleNamespace) -> None:
    def handshake(flow: Flow) -> None:
        clock.s += 0.002

    with flows(100, handshake) as (reactor, _):
        reactor._turn()
        assert clock.s <= TURN_S + 8 * 0.002


def test_whoever_a_turn_had_no_time_for_comes_first_in_the_next(clock: SimpleNamespace) -> None:
    def handshake(flow: Flow) -> None:
        clock.s += 0.002

    with flows(40, handshake) as (reactor, made):
        for _ in range(10):
            reactor._turn()
        assert {flow.events for flow in made} == {2}


def test_a_late_event_is_not_told_to_the_next_owner_of_the_descriptor(clock: SimpleNamespace) -> None:
    def handshake(flow: Flow) -> None:
        clock.s += 0.002

    with flows(16, handshake) as (reactor, made):
        reactor._turn()
        late = [flow for flow in made if not flow.events]
        for flow in late:
            flow.abort()
        ours, theirs = socket.socketpair()
        assert ours.fileno() in {flow.fd for flow in late}
        quiet = Flow.__new__(Flow)
        quiet.fd, quiet.events = ours.fileno(), 0
        reactor.add(quiet, READ)
        reactor._turn()
        assert quiet.events == 0
        reactor.remove(quiet)
        ours.close()
        theirs.close()


def test_a_turn_stays_with_busy_connections_and_ends_once_a_task_was_woken() -> None:
    def serve(flow: Flow) -> None:
        reactor.woken = flow.events == 5

    with flows(1, serve) as (reactor, made):
        reactor._turn()
        assert made[0].events == 5
        reactor._turn()
        assert made[0].events > 6  # Until its time was over.


def test_a_defect_and_a_second_one_in_ending_are_reported_and_the_others_are_served() -> None:
    crashes: list[Exception] = []

    def serve(flow: Flow) -> None:
        if flow is made[0]:
            raise ZeroDivisionError("a defect")

    def lose(why: str) -> None:
        made[0].abort()
        raise ValueError("another one")

    with flows(3, serve) as (reactor, made):
        reactor.on_crash = crashes.append
        made[0].lose = lose  # type: ignore[method-assign]
        reactor._turn()
        assert made[0].events == 1
        assert all(flow.events for flow in made)
        assert made[0].closed
        assert [type(error) for error in crashes] == [ValueError, ZeroDivisionError]


class Gathering(Flow):
    """Says something with each event, and writes it out when it is told to."""

    def __init__(self, reactor: Reactor, serve: Callable[[Flow], None], log: list[str], name: str) -> None:
        super().__init__(reactor, serve)
        self.log = log
        self.name = name

    def flush(self) -> None:
        self.log.append(f"{self.name} flushed")
        if self.name == "broken":
            raise ZeroDivisionError("a defect")


def test_what_is_gathered_goes_out_once_the_batch_is_served_and_a_defect_there_is_one_connections(
    clock: SimpleNamespace,
) -> None:
    log: list[str] = []
    crashes: list[Exception] = []
    reactor = Reactor(turn_max_s=TURN_S, on_crash=crashes.append)

    def serve(flow: Flow) -> None:
        assert isinstance(flow, Gathering)
        log.append(f"{flow.name} served")
        assert reactor.flush_after_batch(flow)
        clock.s += TURN_S

    made = [Gathering(reactor, serve, log, name) for name in ("broken", "sound")]
    assert not reactor.flush_after_batch(made[0])  # Nothing is being served: whoever asks does it at once.
    reactor._turn()
    assert sorted(log[:2]) == ["broken served", "sound served"]
    assert sorted(log[2:]) == ["broken flushed", "sound flushed"]
    assert (made[0].closed, made[1].closed) == (True, False)
    assert [type(error) for error in crashes] == [ZeroDivisionError]
    for flow in made:
        flow.abort()
    reactor._epoll.close()
