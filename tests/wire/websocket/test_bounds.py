"""Refusals at a frame's header, which do not depend on how the bytes behind it are cut."""

from __future__ import annotations

import pytest

from wire.websocket import (
    CloseCode,
    DeflateConfig,
    DeflateTerms,
    Event,
    MessageReceived,
    PeerFailed,
    WebSocketLimits,
    WebSocketMachine,
)

_TERMS = DeflateTerms(DeflateConfig(), True, True, None)
# Found by fuzzing: a compressed message, and another inside it whose first byte inflates and whose second does not.
_INSIDE_ANOTHER = bytes.fromhex("428801020304 4b4e1f01220f0304 8282016063626560".replace(" ", ""))


def events_of(data: bytes, size: int) -> list[Event]:
    machine = WebSocketMachine(WebSocketLimits(), _TERMS)
    return [event for at in range(0, len(data), size) for event in machine.receive(data[at : at + size], 0.0)]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_message_inside_another_is_a_protocol_error_however_it_is_cut(size: int) -> None:
    (event,) = events_of(_INSIDE_ANOTHER, size)
    assert isinstance(event, PeerFailed)
    assert event.code == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("size", [1, 1000])
def test_a_message_whose_first_frames_are_empty_is_one_message(size: int) -> None:
    empty, more, last = "0180 01020304", "0080 01020304", "8081 00000000 78"
    data = bytes.fromhex((empty + more + last).replace(" ", ""))
    assert events_of(data, size) == [MessageReceived(b"x", True)]
    inside = bytes.fromhex((empty + "8181 00000000 78").replace(" ", ""))
    assert [event.code for event in events_of(inside, size) if isinstance(event, PeerFailed)] == [1002]
