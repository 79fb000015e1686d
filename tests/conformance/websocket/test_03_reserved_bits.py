"""Section 3: reserved bits, which nothing has given a meaning to."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import BINARY, CLOSE, PING, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse, names

HELLO = b"Hello, world!"


def between(name: str, rsv: int, *, chop: int = 0) -> Case:
    """A good message before the bad one is still answered, the ping behind it is not."""
    sends = [client_frame(TEXT, HELLO) + client_frame(TEXT, HELLO, rsv=rsv) + client_frame(PING)]
    return Case(name, sends, [Frame(TEXT, HELLO)], close=1002, chop=chop)


CASES = [
    Case("3.1 text", [client_frame(TEXT, HELLO, rsv=1)], close=1002),
    between("3.2 text after text", 2),
    Case(
        "3.3 text after text, by the frame",
        [client_frame(TEXT, HELLO), client_frame(TEXT, HELLO, rsv=3), client_frame(PING)],
        [Frame(TEXT, HELLO)],
        close=1002,
    ),
    between("3.4 text after text, by the byte", 4, chop=1),
    Case("3.5 binary", [client_frame(BINARY, bytes(8), rsv=5)], close=1002),
    Case("3.6 ping", [client_frame(PING, HELLO, rsv=6)], close=1002),
    Case("3.7 close", [client_frame(CLOSE, rsv=7)], close=1002),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
async def test_a_reserved_bit_is_a_protocol_error(case: Case) -> None:
    await converse(case)
