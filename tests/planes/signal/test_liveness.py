from __future__ import annotations

import math

import pytest

from infermesh.core.model.nodes import NodeState
from infermesh.planes.signal.liveness import Backoff, Change, LivenessTiming, PeerLiveness, SmoothedRtt

TIMING = LivenessTiming(heartbeat_s=0.5, suspect_after_s=1.5, dead_after_s=3.0)


def test_a_peer_is_alive_from_its_first_frame_on() -> None:
    peer = PeerLiveness(TIMING, now=10.0)
    assert (peer.state, peer.wake_at) == (NodeState.JOINING, 13.0)
    assert peer.on_frame(now=10.2) == [Change(NodeState.ALIVE, "")]
    assert peer.on_frame(now=10.7) == []
    assert peer.wake_at == 10.7 + 1.5


def test_silence_makes_it_suspect_and_then_dead() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    peer.on_frame(now=0.0)
    assert peer.on_wake(now=1.4) == []
    assert peer.on_wake(now=1.5) == [Change(NodeState.SUSPECT, "no state for 1.5 s")]
    assert peer.wake_at == 3.0
    assert peer.on_wake(now=3.0) == [Change(NodeState.DEAD, "no state for 3.0 s")]
    assert peer.wake_at == math.inf
    assert peer.on_wake(now=100.0) == []


def test_a_long_sleep_of_the_daemon_itself_skips_no_state() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    peer.on_frame(now=0.0)
    assert [change.state for change in peer.on_wake(now=9.0)] == [NodeState.SUSPECT, NodeState.DEAD]


def test_a_frame_after_a_suspicion_clears_it() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    peer.on_frame(now=0.0)
    peer.on_wake(now=2.0)
    assert peer.on_frame(now=2.1) == [Change(NodeState.ALIVE, "")]


def test_a_refused_dial_after_a_broken_stream_is_death_at_once() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    peer.on_frame(now=0.0)
    assert peer.on_failed("connection reset", proven=False) == []
    assert peer.on_failed("connection refused", proven=True) == [Change(NodeState.DEAD, "connection refused")]
    assert peer.on_frame(now=0.5) == [Change(NodeState.ALIVE, "")]


def test_a_dial_that_times_out_proves_nothing_and_the_silence_goes_on_being_counted() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    peer.on_frame(now=0.0)
    assert peer.on_failed("no answer within 2 s", proven=False) == []
    assert peer.on_wake(now=1.5) == [Change(NodeState.SUSPECT, "no state for 1.5 s; no answer within 2 s")]
    assert peer.on_wake(now=3.0) == [Change(NodeState.DEAD, "no state for 3.0 s; no answer within 2 s")]


def test_a_peer_never_heard_from_is_dead_after_the_same_time() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    assert peer.on_failed("no answer", proven=False) == []
    assert peer.on_wake(now=3.0) == [Change(NodeState.DEAD, "no state for 3.0 s; no answer")]


def test_a_dead_peer_is_told_again_only_when_the_reason_changes() -> None:
    peer = PeerLiveness(TIMING, now=0.0)
    assert peer.on_failed("refused", proven=True) == [Change(NodeState.DEAD, "refused")]
    assert peer.on_failed("refused", proven=True) == []
    assert peer.on_failed("wrong node", proven=True) == [Change(NodeState.DEAD, "wrong node")]
    assert peer.on_failed("no answer", proven=False) == [Change(NodeState.DEAD, "no answer")]


@pytest.mark.parametrize("timing", [(0.0, 1.5, 3.0), (1.0, 1.5, 3.0), (0.5, 4.0, 3.0), (0.5, 1.5, float("nan"))])
def test_times_that_contradict_each_other_are_refused_with_all_three(timing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"heartbeat_s is .*suspect_after_s .*dead_after_s"):
        LivenessTiming(heartbeat_s=timing[0], suspect_after_s=timing[1], dead_after_s=timing[2]).validate()


def test_round_trips_are_smoothed() -> None:
    rtt = SmoothedRtt()
    assert rtt.rtt_s == 0.0
    rtt.guess(0.5)
    assert rtt.rtt_s == 0.5
    assert rtt.take(0.008) == 0.008
    assert rtt.take(0.016) == pytest.approx(0.009)
    rtt.guess(0.5)
    for _ in range(100):
        rtt.take(0.001)
    assert rtt.rtt_s == pytest.approx(0.001, rel=0.01)


def test_waits_double_up_to_the_longest_and_are_at_least_half() -> None:
    backoff = Backoff(first_s=0.1, longest_s=2.0)
    assert [round(backoff.next_s(1.0), 3) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    backoff.reset()
    assert backoff.next_s(0.0) == 0.05
