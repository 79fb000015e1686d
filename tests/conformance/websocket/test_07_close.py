"""Section 7: the closing handshake, codes and reasons."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import CLOSE, CONTINUATION, PING, TEXT, Frame, client_frame, close_payload
from tests.conformance.websocket.conversation import Case, converse, names

HELLO = b"Hello World!"
CLOSING = client_frame(CLOSE, close_payload(1000))
ALLOWED = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
FORBIDDEN = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535]

CASES = [
    Case("7.1.1 a message, then close", [client_frame(TEXT, HELLO) + CLOSING], [Frame(TEXT, HELLO)], 1000),
    Case("7.1.2 two closes", [CLOSING * 2], close=1000),
    Case("7.1.3 a ping after close", [CLOSING + client_frame(PING)], close=1000),
    Case("7.1.4 text after close", [CLOSING + client_frame(TEXT, HELLO)], close=1000),
    Case(
        "7.1.5 close inside a message",
        [client_frame(TEXT, HELLO, fin=False) + CLOSING + client_frame(CONTINUATION, b"2")],
        close=1000,
    ),
    Case(
        "7.1.6 a large message, then close",
        [client_frame(TEXT, b"x" * 262_144) + CLOSING + client_frame(PING)],
        [Frame(TEXT, b"x" * 262_144)],
        1000,
    ),
    Case("7.3.1 no code", [client_frame(CLOSE)], close=1005),
    Case("7.3.2 half a code", [client_frame(CLOSE, b"\x03")], close=1002),
    Case("7.3.3 a code", [CLOSING], close=1000),
    Case("7.3.4 a reason", [client_frame(CLOSE, close_payload(1000, HELLO))], close=1000),
    Case("7.3.5 the longest reason", [client_frame(CLOSE, close_payload(1000, b"*" * 123))], close=1000),
    Case("7.3.6 a longer one", [client_frame(CLOSE, close_payload(1000, b"*" * 124))], close=1002),
    Case(
        "7.5.1 a reason that is no text",
        [client_frame(CLOSE, close_payload(1000, b"\xce\xba\xed\xa0\x80"))],
        close=1007,
    ),
    Case("a close in pieces", [client_frame(CLOSE, close_payload(1000), fin=False)], close=1002),
]
CASES += [Case(f"7.7 code {code}", [client_frame(CLOSE, close_payload(code))], close=code) for code in ALLOWED]
CASES += [Case(f"7.9 code {code}", [client_frame(CLOSE, close_payload(code))], close=1002) for code in FORBIDDEN]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
async def test_every_close_gets_its_answer_and_then_nothing(case: Case) -> None:
    await converse(case)
