"""How a connection begins, whatever the peer does before our first bytes have left."""

from __future__ import annotations

import pytest

from wire.http2.config import Http2Config, Role
from wire.http2.connection import Http2Connection
from wire.http2.frames import ACK, FRAME_HEAD, PREFACE, SETTINGS, encode_ping, encode_settings


def kinds(output: bytes) -> list[tuple[int, int]]:
    found = []
    at = 0
    while at < len(output):
        length, flags, _ = FRAME_HEAD.unpack_from(output, at)
        found.append((length & 0xFF, flags))
        at += 9 + (length >> 8)
    return found


@pytest.mark.parametrize("role", list(Role))
def test_our_settings_leave_before_the_answer_to_a_ping_that_came_earlier(role: Role) -> None:
    # Found by fuzzing: the ACK of a PING may overtake, and overtook the preface (RFC 9113 section 3.4).
    connection = Http2Connection(Http2Config(role), 0.0)
    connection.start()
    preface = PREFACE if role is Role.SERVER else b""
    connection.receive(preface + encode_settings({}) + encode_ping(b"12345678"), 0.0)
    output = connection.take_output()
    if role is Role.CLIENT:
        assert output.startswith(PREFACE)
    assert kinds(output.removeprefix(PREFACE))[0] == (SETTINGS, 0)
    assert (SETTINGS, ACK) in kinds(output.removeprefix(PREFACE))
