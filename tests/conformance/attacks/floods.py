"""Attacks that are many frames: each a stream of octets that goes on until the server has had enough.

Frames are legal one by one, or cost the attacker a stream at most; what is wrong is their number. `reason` is what
the server counts when it ends the connection, with ENHANCE_YOUR_CALM. CVE numbers name where the attack is known
from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.conformance.http2.frames import (
    ACK,
    FRAME_BYTES,
    PADDED,
    WINDOW_MAX,
    Code,
    Kind,
    Setting,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    priority,
    priority_fields,
    rst_stream,
    settings,
    settings_ack,
    window_update,
)
from tests.conformance.http2.raw_peer import RawPeer
from tests.conformance.http2.representations import indexed, not_kept

_MANY: Final = 20_000


@dataclass(frozen=True, slots=True)
class Flood:
    name: str
    frames: Callable[[RawPeer], Iterator[bytes]]
    reason: str
    code: Code = Code.ENHANCE_YOUR_CALM

    def __str__(self) -> str:
        return self.name


# --- requests, cheap to send ---


def _blocks(peer: RawPeer, method: bytes, *extra: tuple[bytes, bytes]) -> Iterator[bytes]:
    """The field block of a request, from the second on all of it by index: some ten octets."""
    fields = peer.fields(method, *extra)
    yield peer.block(fields)
    again = peer.block(fields)
    while True:
        yield again


def _opened(peer: RawPeer, *extra: tuple[bytes, bytes], method: bytes = b"POST") -> Iterator[tuple[int, bytes]]:
    """Streams whose request is begun and not ended."""
    blocks = _blocks(peer, method, *extra)
    for stream_id in range(1, 2 * _MANY, 2):
        yield stream_id, headers(stream_id, next(blocks))


# --- resets ---


def rapid_reset(peer: RawPeer) -> Iterator[bytes]:
    """CVE-2023-44487: a request and its reset, again and again."""
    blocks = _blocks(peer, b"GET")
    for stream_id in range(1, 2 * _MANY, 2):
        yield headers(stream_id, next(blocks), end=True) + rst_stream(stream_id)


def rapid_reset_of_bodies(peer: RawPeer) -> Iterator[bytes]:
    for stream_id, head in _opened(peer):
        yield head + data(stream_id, b"{") + rst_stream(stream_id)


def reset_in_batches(peer: RawPeer) -> Iterator[bytes]:
    """As many streams as may be open, then all their resets at once."""
    blocks = _blocks(peer, b"GET")
    for first in range(1, 2 * _MANY, 200):
        batch = range(first, first + 200, 2)
        yield b"".join(headers(stream_id, next(blocks), end=True) for stream_id in batch)
        yield b"".join(map(rst_stream, batch))


def reset_of_closed_streams(peer: RawPeer) -> Iterator[bytes]:
    """One stream, reset as often as one likes: each crosses its end, for all the server knows."""
    yield peer.post(1) + rst_stream(1)
    for _ in range(_MANY):
        yield rst_stream(1)


# --- MadeYouReset (CVE-2025-8671): the server is made to send the resets ---


def made_by_window_of_nothing(peer: RawPeer) -> Iterator[bytes]:
    for stream_id, head in _opened(peer):
        yield head + window_update(stream_id, 0)


def made_by_window_overflow(peer: RawPeer) -> Iterator[bytes]:
    for stream_id, head in _opened(peer):
        yield head + window_update(stream_id, WINDOW_MAX)


def made_by_data_after_the_end(peer: RawPeer) -> Iterator[bytes]:
    yield settings((Setting.INITIAL_WINDOW_SIZE, 0))
    blocks = _blocks(peer, b"GET")
    for stream_id in range(1, 2 * _MANY, 2):
        yield headers(stream_id, next(blocks), end=True) + data(stream_id, b"x")


def made_by_headers_after_the_end(peer: RawPeer) -> Iterator[bytes]:
    yield settings((Setting.INITIAL_WINDOW_SIZE, 0))
    blocks = _blocks(peer, b"GET")
    for stream_id in range(1, 2 * _MANY, 2):
        yield headers(stream_id, next(blocks), end=True) + headers(stream_id, next(blocks), end=True)


def made_by_priority_of_a_wrong_size(peer: RawPeer) -> Iterator[bytes]:
    for stream_id, head in _opened(peer):
        yield head + frame(Kind.PRIORITY, 0, stream_id, bytes(4))


def made_by_dependence_on_itself(peer: RawPeer) -> Iterator[bytes]:
    blocks = _blocks(peer, b"GET")
    for stream_id in range(1, 2 * _MANY, 2):
        yield frame(Kind.HEADERS, 0x25, stream_id, stream_id.to_bytes(4, "big") + b"\x10" + next(blocks))


def made_by_a_false_length(peer: RawPeer) -> Iterator[bytes]:
    for stream_id, head in _opened(peer, (b"content-length", b"1")):
        yield head + data(stream_id, b"more")


def made_by_malformed_requests(peer: RawPeer) -> Iterator[bytes]:
    blocks = _blocks(peer, b"GET", (b"X-Upper", b"1"))
    for stream_id in range(1, 2 * _MANY, 2):
        yield headers(stream_id, next(blocks), end=True)


def made_by_trailers_that_do_not_end(peer: RawPeer) -> Iterator[bytes]:
    for stream_id, head in _opened(peer):
        yield head + headers(stream_id, b"")


# --- field blocks ---


def continuation_flood(peer: RawPeer) -> Iterator[bytes]:
    """CVE-2024-27316: a field block that never ends."""
    block = peer.block(peer.fields())
    yield headers(1, block, end=True, whole=False)
    more = peer.block([(b"x-more", b"m" * 200)])
    for _ in range(_MANY):
        yield continuation(1, more, whole=False)


def continuation_flood_of_nothing(peer: RawPeer) -> Iterator[bytes]:
    yield headers(1, b"", end=True, whole=False)
    for _ in range(_MANY):
        yield continuation(1, b"", whole=False)


def continuation_flood_of_full_frames(peer: RawPeer) -> Iterator[bytes]:
    yield headers(1, peer.block(peer.fields()), end=True, whole=False)
    for _ in range(_MANY):
        yield continuation(1, bytes(FRAME_BYTES), whole=False)


def hpack_bomb(peer: RawPeer) -> Iterator[bytes]:
    """A field of 4,000 octets in the table, then blocks of thousands of octets that each name it once."""
    fields = peer.block([*peer.fields(), (b"x-bomb", b"b" * 3_900)])
    yield headers(1, fields, end=True)
    block = peer.block(peer.fields()) + indexed(62) * 8_000  # The youngest entry.
    for stream_id in range(3, 2 * _MANY, 2):
        yield headers(stream_id, block, end=True)


def small_hpack_bombs(peer: RawPeer) -> Iterator[bytes]:
    """As many fields as are taken, each of them large."""
    yield headers(1, peer.block([*peer.fields(), (b"x-bomb", b"b" * 3_900)]), end=True)
    block = peer.block(peer.fields()) + indexed(62) * 120
    for stream_id in range(3, 2 * _MANY, 2):
        yield headers(stream_id, block, end=True)


def many_small_fields(peer: RawPeer) -> Iterator[bytes]:
    """Thousands of empty fields: little to carry and much to keep."""
    block = peer.block(peer.fields()) + not_kept(b"x", b"") * 4_000
    for stream_id in range(1, 2 * _MANY, 2):
        yield headers(stream_id, block, end=True)


def header_lists_too_large(peer: RawPeer) -> Iterator[bytes]:
    """More than the 64 KiB that nodes take of each other, 32 for each field counted, in a block of less than that."""
    block = peer.block(peer.fields())
    part = not_kept(b"x", b"v" * 505) * 25
    for stream_id in range(1, 2 * _MANY, 2):
        parts = [continuation(stream_id, part, whole=number == 4) for number in range(5)]
        yield headers(stream_id, block, end=True, whole=False) + b"".join(parts)


# --- streams ---


def streams_over_the_limit(peer: RawPeer) -> Iterator[bytes]:
    for _, head in _opened(peer):
        yield head


# --- frames that want an answer, or want to be looked at ---


def ping_flood(peer: RawPeer) -> Iterator[bytes]:
    """CVE-2019-9512."""
    for number in range(_MANY):
        yield ping(b"%08d" % number)


def ping_ack_flood(peer: RawPeer) -> Iterator[bytes]:
    for number in range(_MANY):
        yield ping(b"%08d" % number, ack=True)


def settings_flood(peer: RawPeer) -> Iterator[bytes]:
    """CVE-2019-9515."""
    for number in range(_MANY):
        yield settings((Setting.INITIAL_WINDOW_SIZE, number))


def settings_flood_of_many_values(peer: RawPeer) -> Iterator[bytes]:
    for _ in range(_MANY):
        yield settings(*[(Setting.INITIAL_WINDOW_SIZE, number) for number in range(FRAME_BYTES // 6)])


def settings_ack_flood(peer: RawPeer) -> Iterator[bytes]:
    for _ in range(_MANY):
        yield settings_ack()


def priority_flood(peer: RawPeer) -> Iterator[bytes]:
    """CVE-2019-9513: streams that are shuffled and never used."""
    for number in range(_MANY):
        yield priority(2 * number + 1, 2 * number + 3, exclusive=True)


def priority_1001(peer: RawPeer) -> Iterator[bytes]:
    """Exactly 1,001 of them: a public trio server dies whole of the last one."""
    for number in range(1_001):
        yield priority(2 * number + 1)


def priority_of_one_stream(peer: RawPeer) -> Iterator[bytes]:
    yield peer.post(1)
    for number in range(_MANY):
        yield frame(Kind.PRIORITY, 0, 1, priority_fields(2 * number + 3))


def priority_update_flood(peer: RawPeer) -> Iterator[bytes]:
    """RFC 9218's frame, which we do not know."""
    for _ in range(_MANY):
        yield frame(0x10, 0, 0, b"\0\0\0\1u=7")


def window_update_flood(peer: RawPeer) -> Iterator[bytes]:
    for _ in range(_MANY):
        yield window_update(0, 1)


def window_update_flood_of_a_stream(peer: RawPeer) -> Iterator[bytes]:
    yield peer.post(1)
    for _ in range(_MANY):
        yield window_update(1, 1)


def window_update_flood_of_a_closed_stream(peer: RawPeer) -> Iterator[bytes]:
    yield peer.post(1) + rst_stream(1)
    for _ in range(_MANY):
        yield window_update(1, 1)


def unknown_frame_flood(peer: RawPeer) -> Iterator[bytes]:
    for _ in range(_MANY):
        yield frame(0x16, 0xFF, 0, b"what?")


def goaway_flood(peer: RawPeer) -> Iterator[bytes]:
    yield peer.post(1)
    for _ in range(_MANY):
        yield goaway(debug=b"again")


def empty_data_flood(peer: RawPeer) -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield peer.post(1)
    for _ in range(_MANY):
        yield data(1)


def padding_flood(peer: RawPeer) -> Iterator[bytes]:
    """DATA that is all padding: flow control is busy, and nothing comes."""
    yield peer.post(1)
    for _ in range(_MANY):
        yield frame(Kind.DATA, PADDED, 1, bytes([255]) + bytes(255))


def data_flood_of_a_reset_stream(peer: RawPeer) -> Iterator[bytes]:
    """DATA on a stream that the server itself has reset: to be let pass while it may have been on its way."""
    yield peer.post(1) + window_update(1, 0)
    for _ in range(_MANY):
        yield data(1, bytes(FRAME_BYTES))


def undefined_flags_flood(peer: RawPeer) -> Iterator[bytes]:
    for number in range(_MANY):
        yield frame(Kind.PING, 0xFE & ~ACK, 0, b"%08d" % number)


FLOODS: Final = (
    Flood("rapid reset", rapid_reset, "resets_received"),
    Flood("rapid reset of bodies", rapid_reset_of_bodies, "resets_received"),
    Flood("reset in batches", reset_in_batches, "resets_received"),
    Flood("reset of closed streams", reset_of_closed_streams, "resets_received"),
    Flood("made to reset by a window of nothing", made_by_window_of_nothing, "own_resets"),
    Flood("made to reset by a window overflow", made_by_window_overflow, "own_resets"),
    Flood("made to reset by data after the end", made_by_data_after_the_end, "own_resets"),
    Flood("made to reset by headers after the end", made_by_headers_after_the_end, "own_resets"),
    Flood("made to reset by a PRIORITY of a wrong size", made_by_priority_of_a_wrong_size, "own_resets"),
    Flood("made to reset by dependence on itself", made_by_dependence_on_itself, "own_resets"),
    Flood("made to reset by a false length", made_by_a_false_length, "own_resets"),
    Flood("made to reset by malformed requests", made_by_malformed_requests, "own_resets"),
    Flood("made to reset by trailers that do not end", made_by_trailers_that_do_not_end, "own_resets"),
    Flood("CONTINUATION flood", continuation_flood, "continuations"),
    Flood("CONTINUATION flood of nothing", continuation_flood_of_nothing, "continuations"),
    Flood("CONTINUATION flood of full frames", continuation_flood_of_full_frames, "continuations"),
    Flood("HPACK bomb", hpack_bomb, "header_list"),
    Flood("many small fields", many_small_fields, "header_list"),
    Flood("HPACK bombs of a smaller kind", small_hpack_bombs, "own_resets"),
    Flood("header lists too large", header_lists_too_large, "own_resets"),
    Flood("streams over the limit", streams_over_the_limit, "refused_streams"),
    Flood("PING flood", ping_flood, "pings"),
    Flood("PING ACK flood", ping_ack_flood, "pings"),
    Flood("PING flood with undefined flags", undefined_flags_flood, "pings"),
    Flood("SETTINGS flood", settings_flood, "settings"),
    Flood("SETTINGS flood of many values", settings_flood_of_many_values, "settings"),
    Flood("SETTINGS ACK flood", settings_ack_flood, "settings"),
    Flood("PRIORITY flood", priority_flood, "priorities"),
    Flood("1,001 PRIORITY frames", priority_1001, "priorities"),
    Flood("PRIORITY flood of one stream", priority_of_one_stream, "priorities"),
    Flood("PRIORITY_UPDATE flood", priority_update_flood, "unknown_frames"),
    Flood("WINDOW_UPDATE flood", window_update_flood, "window_updates"),
    Flood("WINDOW_UPDATE flood of a stream", window_update_flood_of_a_stream, "window_updates"),
    Flood("WINDOW_UPDATE flood of a closed stream", window_update_flood_of_a_closed_stream, "window_updates"),
    Flood("unknown frame flood", unknown_frame_flood, "unknown_frames"),
    Flood("GOAWAY flood", goaway_flood, "unknown_frames"),
    Flood("empty DATA flood", empty_data_flood, "empty_data"),
    Flood("padding flood", padding_flood, "empty_data"),
    Flood("DATA flood of a reset stream", data_flood_of_a_reset_stream, "flow_control", Code.FLOW_CONTROL_ERROR),
)
