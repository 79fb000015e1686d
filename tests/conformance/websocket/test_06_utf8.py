"""Section 6: text is UTF-8 (RFC 3629), across pieces, and what is not is found at its first wrong byte."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import CONTINUATION, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse, names

KOSME = "κόσμε".encode()
UNFINISHED = bytes.fromhex("cebae1bdb9cf83cebcceb5f4")  # kosme, and the first byte of four.

# 6.5 to 6.23: what is text, and what is not.
VALID = {
    "6.5 kosme": KOSME,
    "6.7 first of each length": "\x00\x80\u0800\U00010000".encode(),
    "6.9 last of each length": "\x7f\u07ff\uffff\U0010ffff".encode(),
    "6.11 around the surrogates": "\ud7ff\ue000\ufffd".encode(),
    "6.11 the last two": "\U0010fffe\U0010ffff".encode(),
    "6.22 non-characters": "\ufdd0\ufdef\ufffe\uffff\U0001fffe\U0002ffff\U000f0000\U0010fffe".encode(),
    "6.23 replacement character": "\ufffd".encode(),
    "six kinds of greeting": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
}
INVALID = {
    "6.8 first of length 5": "f888808080",
    "6.8 first of length 6": "fc8480808080",
    "6.10 last of length 4": "f7bfbfbf",
    "6.10 last of length 5": "fbbfbfbfbf",
    "6.10 last of length 6": "fdbfbfbfbfbf",
    "6.11 beyond the last": "f4908080",
    "6.12 continuation first": "80",
    "6.12 continuation last": "bf",
    "6.12 two continuations": "80bf",
    "6.12 seven continuations": "80bf80bf80bfbe",
    "6.13 starts of length 2": "c020c120c220df20",
    "6.13 starts of length 3": "e020e120ef20",
    "6.13 starts of length 4": "f020f120f720",
    "6.14 without its last, of 2": "c0",
    "6.14 without its last, of 3": "e080",
    "6.14 without its last, of 4": "f08080",
    "6.14 without its last, of the last of 2": "df",
    "6.14 without its last, of the last of 3": "efbf",
    "6.14 without its last, of the last of 4": "f7bfbf",
    "6.16 fe": "fe",
    "6.16 ff": "ff",
    "6.16 both": "fefeffff",
    "6.17 overlong, of 2": "c0af",
    "6.17 overlong, of 3": "e080af",
    "6.17 overlong, of 4": "f08080af",
    "6.18 last overlong, of 2": "c1bf",
    "6.18 last overlong, of 3": "e09fbf",
    "6.18 last overlong, of 4": "f08fbfbf",
    "6.19 overlong zero, of 2": "c080",
    "6.19 overlong zero, of 3": "e08080",
    "6.19 overlong zero, of 4": "f0808080",
    "6.20 first surrogate": "eda080",
    "6.20 last high surrogate": "edafbf",
    "6.20 first low surrogate": "edb080",
    "6.20 last surrogate": "edbfbf",
    "6.21 a pair of surrogates": "eda080edb080",
    "6.21 the last pair": "edafbfedbfbf",
    "6.6 an unfinished character": UNFINISHED.hex(),
    "6.3 a surrogate between texts": (KOSME + b"\xed\xa0\x80edited").hex(),
}


def in_pieces(payload: bytes) -> bytes:
    """One byte a frame."""
    frames = [client_frame(CONTINUATION if at else TEXT, payload[at : at + 1], fin=False) for at in range(len(payload))]
    return b"".join(frames) + client_frame(CONTINUATION)


GOOD = [Case(name, [client_frame(TEXT, text)], [Frame(TEXT, text)]) for name, text in VALID.items()]
GOOD += [Case(f"{name}, in pieces", [in_pieces(text)], [Frame(TEXT, text)]) for name, text in VALID.items()]
GOOD += [
    Case("6.1.1 empty", [client_frame(TEXT)], [Frame(TEXT, b"")]),
    Case(
        "6.1.2 empty in three",
        [client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) + client_frame(CONTINUATION)],
        [Frame(TEXT, b"")],
    ),
    Case(
        "6.1.3 empty around a middle",
        [client_frame(TEXT, fin=False) + client_frame(CONTINUATION, b"middle", fin=False) + client_frame(CONTINUATION)],
        [Frame(TEXT, b"middle")],
    ),
]
BAD = [Case(name, [client_frame(TEXT, bytes.fromhex(data))], close=1007) for name, data in INVALID.items()]
BAD += [Case(f"{name}, in pieces", [in_pieces(bytes.fromhex(data))], close=1007) for name, data in INVALID.items()]
# 6.4: nothing after the first wrong byte is waited for.
EARLY = [
    Case("6.4.1 in the first of two frames", [client_frame(TEXT, KOSME + b"\xf4\x90", fin=False)], close=1007),
    Case(
        "6.4.2 at the end of the first",
        [client_frame(TEXT, UNFINISHED, fin=False), client_frame(CONTINUATION, b"\x90")],
        close=1007,
    ),
    Case("6.4.3 in the first bytes of a frame", [client_frame(TEXT, KOSME + b"\xf4\x90", declared=1000)], close=1007),
    Case("6.4.4 by the byte", [client_frame(TEXT, KOSME + b"\xf4\x90", declared=1000)], close=1007, chop=1),
]


@pytest.mark.parametrize("case", GOOD, ids=names(GOOD))
async def test_text_comes_back(case: Case) -> None:
    await converse(case)


@pytest.mark.parametrize("case", BAD, ids=names(BAD))
async def test_what_is_no_text_is_a_bad_payload(case: Case) -> None:
    await converse(case)


@pytest.mark.parametrize("case", EARLY, ids=names(EARLY))
async def test_it_is_found_at_once(case: Case) -> None:
    await converse(case)
