"""Section 2: pings and pongs."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import PING, PONG, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse, names

BYTES = bytes.fromhex("00fffefdfcfb00ff")
TEN = [b"payload-%d" % number for number in range(10)]


def ponged(name: str, payload: bytes, *, chop: int = 0) -> Case:
    return Case(name, [client_frame(PING, payload)], [Frame(PONG, payload)], chop=chop)


CASES = [
    ponged("2.1 empty", b""),
    ponged("2.2 text", b"Hello, world!"),
    ponged("2.3 bytes", BYTES),
    ponged("2.4 longest", b"\xfe" * 125),
    Case("2.5 too long", [client_frame(PING, b"\xfe" * 126)], close=1002),
    ponged("2.6 longest, by the byte", b"\xfe" * 125, chop=1),
    Case("2.7 unasked pong, empty", [client_frame(PONG)]),
    Case("2.8 unasked pong", [client_frame(PONG, b"unsolicited pong payload")]),
    Case(
        "2.9 unasked pong, then a ping",
        [client_frame(PONG, b"unsolicited") + client_frame(PING, b"ping")],
        [Frame(PONG, b"ping")],
    ),
    Case("2.10 ten", [client_frame(PING, each) for each in TEN], [Frame(PONG, each) for each in TEN]),
    Case(
        "2.11 ten, by the byte", [client_frame(PING, each) for each in TEN], [Frame(PONG, each) for each in TEN], chop=1
    ),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
async def test_pings_are_answered_and_pongs_are_not(case: Case) -> None:
    await converse(case)
