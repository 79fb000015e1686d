"""Section 5: messages in pieces, and control frames, which have none."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import CONTINUATION, PING, PONG, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse, names

FIRST = client_frame(TEXT, b"fragment1", fin=False)
LAST = client_frame(CONTINUATION, b"fragment2")
WHOLE = Frame(TEXT, b"fragment1fragment2")
ASK = client_frame(PING, b"ping")
ASKED = Frame(PONG, b"ping")
STRAY = client_frame(CONTINUATION, b"stray")
STRAY_BEGIN = client_frame(CONTINUATION, b"stray", fin=False)
FIVE = [
    client_frame(TEXT, b"fragment1", fin=False),
    client_frame(CONTINUATION, b"fragment2", fin=False),
    client_frame(PING, b"one"),
    client_frame(CONTINUATION, b"fragment3", fin=False),
    client_frame(CONTINUATION, b"fragment4", fin=False),
    client_frame(PING, b"two"),
    client_frame(CONTINUATION, b"fragment5"),
]
FIVE_ANSWERS = [Frame(PONG, b"one"), Frame(PONG, b"two"), Frame(TEXT, b"fragment1fragment2fragment3fragment4fragment5")]

CASES = [
    Case("5.1 ping in two", [client_frame(PING, b"a", fin=False), client_frame(CONTINUATION, b"b")], close=1002),
    Case("5.2 pong in two", [client_frame(PONG, b"a", fin=False), client_frame(CONTINUATION, b"b")], close=1002),
    Case("5.3 text in two, one write", [FIRST + LAST], [WHOLE]),
    Case("5.4 text in two, two writes", [FIRST, LAST], [WHOLE]),
    Case("5.5 text in two, by the byte", [FIRST + LAST], [WHOLE], chop=1),
    Case("5.6 a ping between, one write", [FIRST + ASK + LAST], [ASKED, WHOLE]),
    Case("5.7 a ping between, three writes", [FIRST, ASK, LAST], [ASKED, WHOLE]),
    Case("5.8 a ping between, by the byte", [FIRST + ASK + LAST], [ASKED, WHOLE], chop=1),
    Case("5.9 nothing to continue", [STRAY + client_frame(TEXT, b"x")], close=1002),
    Case("5.10 nothing to continue, two writes", [STRAY, client_frame(TEXT, b"x")], close=1002),
    Case("5.11 nothing to continue, by the byte", [STRAY + client_frame(TEXT, b"x")], close=1002, chop=1),
    Case("5.12 no end of nothing", [STRAY_BEGIN + client_frame(TEXT, b"x")], close=1002),
    Case("5.13 no end of nothing, two writes", [STRAY_BEGIN, client_frame(TEXT, b"x")], close=1002),
    Case("5.14 no end of nothing, by the byte", [STRAY_BEGIN + client_frame(TEXT, b"x")], close=1002, chop=1),
    Case(
        "5.15 a message, then nothing to continue",
        [FIRST + LAST + STRAY_BEGIN + client_frame(TEXT, b"x")],
        [WHOLE],
        1002,
    ),
    Case("5.16 text after no end of nothing, twice", [(STRAY_BEGIN + FIRST + LAST) * 2], close=1002),
    Case("5.17 text after nothing to continue, twice", [(STRAY + FIRST + LAST) * 2], close=1002),
    Case("5.18 a message inside a message", [FIRST + client_frame(TEXT, b"fragment2")], close=1002),
    Case("5.19 five pieces and two pings", FIVE, FIVE_ANSWERS),
    Case("5.20 five pieces and two pings, one write", [b"".join(FIVE)], FIVE_ANSWERS),
    Case(
        "empty pieces",
        [client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) + LAST],
        [Frame(TEXT, b"fragment2")],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
async def test_pieces_make_a_message_and_nothing_else(case: Case) -> None:
    await converse(case)
