"""Invariant: a chunked body has one payload and one last byte however cut, those that h11 finds, or is refused.

Differential: a body that we find whole, h11 finds whole with the same payload and the same bytes left over.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence

import h11

from fuzz.target import Target, Violation, agreed, demand
from wire.errors import RemoteProtocolError
from wire.http1 import ChunkedBody

_BLANK_BEFORE_EXTENSION = re.compile(rb"[0-9A-Fa-f][ \t]+;")
Outcome = tuple[str, bytes, int]


def read(pieces: Sequence[bytes]) -> Outcome:
    """("done", payload, bytes taken), ("waiting", payload, taken) or ("refused", nothing)."""
    body = ChunkedBody(keep_payload=True)
    bare = ChunkedBody()
    taken = 0
    payload = b""
    for piece in pieces:
        if body.done:
            break
        try:
            used = body.feed(piece)
        except RemoteProtocolError:
            return "refused", b"", 0
        demand(bare.feed(piece) == used, "keeping the payload moves the end", used)
        demand(used == len(piece) or body.done, "stopped before the end", used, piece)
        taken += used
        payload += body.take_payload()
    demand(body.done == bare.done, "keeping the payload changes the end")
    return "done" if body.done else "waiting", payload, taken


def check(data: bytes) -> Hashable:
    kind, payload, taken = agreed(data, read)
    if kind == "done":
        _same_as_h11(data, payload, taken)
        again = b"".join(b"%x\r\n%b\r\n" % (1, payload[i : i + 1]) for i in range(len(payload))) + b"0\r\n\r\n"
        demand(read([again]) == ("done", payload, len(again)), "framed anew, another payload", again)
    return kind, bool(payload)


def _same_as_h11(data: bytes, payload: bytes, taken: int) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + data)
    theirs = b""
    try:
        connection.next_event()
        while isinstance(event := connection.next_event(), h11.Data):
            theirs += event.data
    except h11.RemoteProtocolError as error:
        if "illegal chunk header" in str(error) and _BLANK_BEFORE_EXTENSION.search(data):
            return  # RFC 9112 section 7.1.1 allows blanks there ("bad whitespace"); h11 does not know them.
        raise Violation(f"accepted by us, refused by h11: {error}") from error
    demand(isinstance(event, h11.EndOfMessage), "h11 sees no end", event)
    demand(theirs == payload, "other payload", theirs, payload)
    left = connection.trailing_data[0]
    demand(left == data[taken:], "another end", left, data[taken:])


def seeds() -> Iterator[bytes]:
    yield b"5\r\nhello\r\n0\r\n\r\nNEXT"
    yield b"0\r\n\r\n"
    yield b"4\r\nWiki\r\n7\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\n\r\n"
    yield b'1;a=b;c="d"\r\nx\r\n00;z\r\na: b\r\nc: d\r\n\r\n'
    yield b"A ;x\r\n0123456789\r\n0\r\n\r\n"
    yield b"000000000000001\r\nx\r\n0\r\n\r\n"
    yield b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in range(1, 40)) + b"0\r\n\r\n"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.http1.framing",),
    words=(b"\r\n", b"0\r\n\r\n", b"0\r\n", b"1\r\nx\r\n", b";", b"ffffffff", b"0x1", b"+1", b"1_0", b"a: b\r\n"),
)
