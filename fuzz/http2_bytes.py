"""What the HTTP/2 targets share: mutations that know frames, and the rules of what we may send.

Not a model of the protocol: `h2` is that. `written_frames` holds what any peer may demand of our output, whatever
it sent: whole frames of known types in allowed sizes, header blocks that decode, nothing on a stream after its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import hpack

from fuzz.target import demand
from wire.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    encode_frame,
)

Frame = tuple[int, int, int, bytes]  # Kind, flags, stream, payload.
FRAMES_MAX = 40

GET = b"\x82\x86\x84\x41\x01a"
POST = b"\x83\x86\x84\x41\x01a"
RESPONSE = b"\x88\x5f\x01t"


def split_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames of `data`, and what is left."""
    frames: list[Frame] = []
    at = 0
    while at + 9 <= len(data):
        length, flags, stream_id = FRAME_HEAD.unpack_from(data, at)
        end = at + 9 + (length >> 8)
        if end > len(data):
            break
        frames.append((length & 0xFF, flags, stream_id & 0x7FFF_FFFF, data[at + 9 : end]))
        at = end
    return frames, data[at:]


def joined(frames: Iterable[Frame]) -> bytes:
    return b"".join(encode_frame(*frame) for frame in frames)


def changed_frames(pieces: Sequence[Frame], blocks: Sequence[bytes]) -> Callable[[bytes, random.Random], bytes]:
    """The mutation of a target whose peers send such frames and header blocks."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        frames, rest = split_frames(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change(frames, rng, pieces, blocks)
        return joined(frames[:FRAMES_MAX]) + (rest if rng.random() < 0.5 else b"")

    return mutate


def _change(frames: list[Frame], rng: random.Random, pieces: Sequence[Frame], blocks: Sequence[bytes]) -> None:
    choice = rng.random()
    if not frames or choice < 0.35:
        kind, flags, stream_id, payload = rng.choice(pieces)
        if stream_id and rng.random() < 0.7:
            stream_id = rng.choice((1, 1, 3, 5, 7, 9))
        frames.insert(rng.choice((len(frames), rng.randrange(len(frames) + 1))), (kind, flags, stream_id, payload))
        return
    number = rng.randrange(len(frames))
    kind, flags, stream_id, payload = frames[number]
    if choice < 0.45:
        del frames[number]
    elif choice < 0.55:
        frames.insert(number, frames[number])
    elif choice < 0.62:
        other = rng.randrange(len(frames))
        frames[number], frames[other] = frames[other], frames[number]
    elif choice < 0.7:
        frames[number] = kind, flags ^ rng.choice((1, 4, 8, 0x20, rng.randrange(256))), stream_id, payload
    elif choice < 0.77:
        frames[number] = kind, flags, rng.choice((0, 1, 2, 3, 5, 7, 0x7FFF_FFFF, rng.randrange(1 << 31))), payload
    elif choice < 0.82:
        frames[number] = rng.choice((*range(11), rng.randrange(256))), flags, stream_id, payload
    elif choice < 0.88 and kind == HEADERS:
        frames[number] = kind, flags & ~(PADDED | PRIORITIZED), stream_id, rng.choice(blocks)
    elif choice < 0.92 and kind == HEADERS:
        at = rng.randrange(len(payload) + 1)
        frames[number : number + 1] = [
            (kind, flags & ~END_HEADERS, stream_id, payload[:at]),
            (CONTINUATION, END_HEADERS, stream_id, payload[at:]),
        ]
    elif choice < 0.95 and kind in (DATA, HEADERS) and not flags & PADDED:
        padding = rng.choice((0, 1, 5, 255))
        frames[number] = kind, flags | PADDED, stream_id, bytes([padding]) + payload + bytes(padding)
    else:
        at = rng.randrange(len(payload) + 1)
        piece = rng.choice((b"", b"\x00", b"\xff\xff\xff\xff", rng.randbytes(3)))
        frames[number] = kind, flags, stream_id, payload[:at] + piece + payload[at + rng.randint(0, 4) :]


CONTROL: Sequence[Frame] = (
    (SETTINGS, 0, 0, b""),
    (SETTINGS, ACK, 0, b""),
    (SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x05"),
    (SETTINGS, 0, 0, b"\x00\x04\x7f\xff\xff\xff"),
    (SETTINGS, 0, 0, b"\x00\x01\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01"),
    (SETTINGS, 0, 0, b"\x00\x05\x00\x00\x40\x00\x00\x06\x00\x00\x00\x40\x00\x09\x00\x00\x00\x01"),
    (SETTINGS, 0, 0, b"\x00\x02\x00\x00\x00\x00"),
    (PING, 0, 0, b"12345678"),
    (PING, ACK, 0, b"draining"),
    (PRIORITY, 0, 1, b"\x00\x00\x00\x03\x10"),
    (RST_STREAM, 0, 1, b"\x00\x00\x00\x08"),
    (WINDOW_UPDATE, 0, 0, b"\x00\x00\x00\x10"),
    (WINDOW_UPDATE, 0, 1, b"\x00\x00\x00\x10"),
    (WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"),
    (GOAWAY, 0, 0, b"\x00\x00\x00\x01\x00\x00\x00\x00bye"),
    (0xBE, 0, 1, b"unknown"),
    (DATA, 0, 1, b"0123456789"),
    (DATA, END_STREAM, 1, b"x"),
    (DATA, 0, 1, b"y" * 90),
    (DATA, END_STREAM, 1, b""),
    (DATA, PADDED, 1, b"\x02x\x00\x00"),
)

_FIXED_SIZES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}


def written_frames(output: bytes) -> list[Frame]:
    """The frames of our output, each a legal one at its place."""
    frames, rest = split_frames(output)
    demand(not rest, "output that ends inside a frame", rest[:40])
    demand(frames and frames[0][:2] == (SETTINGS, 0), "output that does not begin with SETTINGS", frames[:2])
    decoder = hpack.Decoder()
    ended: set[int] = set()
    open_block: list[bytes] = []
    open_id = 0
    for kind, flags, stream_id, payload in frames:
        demand(len(payload) <= 16_384, "a frame over the default size", kind, len(payload))
        demand(kind <= CONTINUATION, "a frame of no known type", kind)
        demand(len(payload) == _FIXED_SIZES.get(kind, len(payload)), "a frame of a wrong size", kind, len(payload))
        if open_id:
            demand(kind == CONTINUATION and stream_id == open_id, "a frame inside a header block", kind, stream_id)
        if kind in (HEADERS, CONTINUATION):
            open_block.append(payload)
            open_id = stream_id
            if flags & END_HEADERS:
                decoder.decode(b"".join(open_block), raw=True)
                open_block, open_id = [], 0
        if kind in (DATA, HEADERS):
            demand(stream_id not in ended, "a frame on a stream that we ended", kind, stream_id)
            if flags & END_STREAM:
                ended.add(stream_id)
        if kind == RST_STREAM:
            demand(stream_id, "RST_STREAM on stream 0")
            ended.add(stream_id)
        if kind == WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            demand(0 < increment < 1 << 31, "a window update of nothing", increment)
    demand(not open_id, "output that ends inside a header block", open_id)
    return frames
