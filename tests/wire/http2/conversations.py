"""Random conversations of a client with a server: legal ones, as steps, and ones in which a frame was spoilt.

A step is either bytes of the client or a command of the server's application. `legal` keeps to the rules by a small
model of its own, so that nothing in it may be a fault.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hypothesis import strategies as st

from tests.wire.http2.raw_peer import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITIZED,
    PRIORITY,
    block,
    content,
    frame,
    goaway,
    head,
    rst,
    settings,
    window_update,
)
from wire.http1 import Field

LATE: Final[list[Field]] = [(b"grpc-status", b"0"), (b"x-note", b"later")]
REQUESTS: Final[list[list[Field]]] = [
    GET,
    POST,
    [*POST, (b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"x-bin", b"\x80\xff")],
    [*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"accept", b"*/*")],
    [*GET, (b"host", b"mesh.test")],
    [(b":method", b"CONNECT"), (b":authority", b"mesh.test:443")],
]


@dataclass
class Command:
    """What the application does: `answer`, `body`, `late` (trailers) or `reset`, on a stream."""

    what: str
    stream_id: int
    size: int = 0
    end: bool = False


Step = bytes | Command


@dataclass
class _Talk:
    """Who may still send on which stream, and how much room the client's content has."""

    draw: st.DrawFn
    steps: list[Step] = field(default_factory=list)
    next_id: int = 1
    asking: dict[int, int] = field(default_factory=dict)  # Streams on which the client may send -> their room.
    answering: dict[int, bool] = field(default_factory=dict)  # ... on which the server may -> its head is out.
    room: int = 65_535
    used: list[int] = field(default_factory=list)

    def pick(self, among: dict[int, int] | dict[int, bool]) -> int | None:
        return self.draw(st.sampled_from(sorted(among))) if among else None

    def ask(self) -> None:
        if len(set(self.asking) | set(self.answering)) >= 6:
            return
        stream_id = self.next_id
        self.next_id += 2 * self.draw(st.integers(1, 2))
        self.used.append(stream_id)
        fields = self.draw(st.sampled_from(REQUESTS))
        end = self.draw(st.booleans())
        self.steps += self._heads(stream_id, fields, end=end)
        if not end:
            self.asking[stream_id] = 60_000
        self.answering[stream_id] = False

    def _heads(self, stream_id: int, fields: list[Field], *, end: bool) -> list[Step]:
        way = self.draw(st.sampled_from(["plain", "parts", "padded", "prioritized"]))
        whole = block(fields)
        flags = END_STREAM if end else 0
        if way == "parts":
            cut = self.draw(st.integers(0, len(whole)))
            return [
                frame(HEADERS, flags, stream_id, whole[:cut]),
                frame(CONTINUATION, END_HEADERS, stream_id, whole[cut:]),
            ]
        if way == "padded":
            return [frame(HEADERS, flags | END_HEADERS | PADDED, stream_id, b"\x05" + whole + bytes(5))]
        if way == "prioritized":
            rank = struct.pack(">IB", 0, 7)
            return [frame(HEADERS, flags | END_HEADERS | PRIORITIZED, stream_id, rank + whole)]
        return [head(stream_id, fields, end=end)]

    def content(self) -> None:
        stream_id = self.pick(self.asking)
        if stream_id is None:
            return
        padding = self.draw(st.sampled_from([None, 0, 9]))
        size = self.draw(st.sampled_from([0, 1, 200, 9_000]))
        flow_bytes = size + (0 if padding is None else padding + 1)
        if flow_bytes > min(self.room, self.asking[stream_id]):
            return
        end = self.draw(st.booleans())
        self.room -= flow_bytes
        self.asking[stream_id] -= flow_bytes
        payload = bytes(size)
        if padding is None:
            self.steps.append(content(stream_id, payload, end=end))
        else:
            flags = PADDED | (END_STREAM if end else 0)
            self.steps.append(frame(DATA, flags, stream_id, bytes((padding,)) + payload + bytes(padding)))
        if end:
            del self.asking[stream_id]

    def trailers(self) -> None:
        stream_id = self.pick(self.asking)
        if stream_id is not None:
            self.steps += self._heads(stream_id, LATE, end=True)
            del self.asking[stream_id]

    def cancel(self) -> None:
        stream_id = self.pick({**self.asking, **self.answering})
        if stream_id is not None:
            self.steps.append(rst(stream_id, self.draw(st.sampled_from([0, 7, 8]))))
            self.asking.pop(stream_id, None)
            self.answering.pop(stream_id, None)

    def widen(self) -> None:
        stream_id = self.draw(st.sampled_from([0, *self.used]))
        self.steps.append(window_update(stream_id, self.draw(st.sampled_from([1, 5_000]))))

    def other(self) -> None:
        self.steps.append(
            self.draw(
                st.sampled_from(
                    [
                        frame(PING, 0, 0, b"12345678"),
                        frame(PRIORITY, 0, self.next_id, struct.pack(">IB", 0, 1)),
                        frame(0x21, 0x55, 3, b"unknown"),
                        settings(window=70_000),
                        settings(window=65_535, x99=1),
                        settings(table=4_096, frame=20_000, list=10_000),
                    ]
                )
            )
        )

    def answer(self) -> None:
        stream_id = self.pick(self.answering)
        if stream_id is None:
            return
        end = self.draw(st.booleans())
        if not self.answering[stream_id]:
            self.steps.append(Command("answer", stream_id, end=end))
            self.answering[stream_id] = True
        else:
            what = self.draw(st.sampled_from(["body", "late"]))
            end = end or what == "late"
            self.steps.append(Command(what, stream_id, self.draw(st.sampled_from([1, 700])), end))
        if end:
            del self.answering[stream_id]

    def give_up(self) -> None:
        stream_id = self.pick(self.answering)
        if stream_id is not None and stream_id not in self.asking:  # Else more may be on its way: see the table.
            self.steps.append(Command("reset", stream_id))
            del self.answering[stream_id]


@st.composite
def legal(draw: st.DrawFn) -> list[Step]:
    talk = _Talk(draw)
    talk.ask()
    for act in draw(st.lists(st.sampled_from(_ACTS), max_size=25)):
        act(talk)
    if draw(st.booleans()):
        talk.steps.append(goaway(0, 0, b"bye"))
    return talk.steps


_ACTS: Final[list[Callable[[_Talk], None]]] = [
    _Talk.ask,
    _Talk.ask,
    _Talk.content,
    _Talk.content,
    _Talk.trailers,
    _Talk.cancel,
    _Talk.widen,
    _Talk.other,
    _Talk.answer,
    _Talk.answer,
    _Talk.give_up,
]


@st.composite
def spoilt(draw: st.DrawFn) -> list[Step]:
    """A legal conversation with one of its frames changed, doubled, left out or moved."""
    steps = draw(legal())
    places = [place for place, step in enumerate(steps) if isinstance(step, bytes)]
    place = draw(st.sampled_from(places))
    victim = steps[place]
    assert isinstance(victim, bytes)
    way = draw(st.sampled_from(["flags", "type", "stream", "payload", "double", "drop", "move", "cut", "insert"]))
    if way == "double":
        steps.insert(place, victim)
    elif way == "drop":
        del steps[place]
    elif way == "move":
        del steps[place]
        steps.insert(draw(st.integers(0, len(steps))), victim)
    elif way == "insert":
        kind, flags = draw(st.integers(0, 10)), draw(st.sampled_from([0, 1, 4, 5, 8, 0x20]))
        payload = draw(st.binary(max_size=12))
        steps.insert(place, frame(kind, flags, draw(st.integers(0, 9)), payload))
    else:
        steps[place] = _changed(draw, victim, way)
    return steps


def _changed(draw: st.DrawFn, victim: bytes, way: str) -> bytes:
    changed = bytearray(victim)
    if way == "flags":
        changed[4] ^= 1 << draw(st.integers(0, 7))
    elif way == "type":
        changed[3] = draw(st.integers(0, 11))
    elif way == "stream":
        changed[5:9] = struct.pack(">I", draw(st.integers(0, 20)))
    elif way == "cut" and len(victim) > 9:
        # One frame less its last bytes: its length says so.
        return frame(
            victim[3], victim[4], int.from_bytes(victim[5:9], "big"), victim[9 : draw(st.integers(9, len(victim) - 1))]
        )
    elif len(victim) > 9:
        changed[draw(st.integers(9, len(victim) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)
