"""A client that sends what it is told, octet by octet, and holds what comes back against RFC 9113.

    async with port.peer() as peer:
        await peer.greet()
        await peer.send(peer.get(1))
        assert (await peer.response(1)).status == 200

It is honest only where a test says so: it acknowledges the server's settings in `greet`, and gives back no window
unless `response(feed=True)`. What it expects is strict: a connection error is a GOAWAY with that code and then the
end of the connection; a stream error is a RST_STREAM with that code, and the connection goes on.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import hpack
import trio

from tests.conformance.http2.frames import (
    END_HEADERS,
    PADDED,
    PREFACE,
    Code,
    Frame,
    Kind,
    continuation,
    headers,
    ping,
    settings,
    settings_ack,
    take_frame,
    window_update,
)

ANSWER_S = 5.0
_READ_BYTES = 65_536
_BATCH_FRAMES = 20

Pairs = Sequence[tuple[bytes, bytes]]
Predicate = Callable[[Frame], bool]


@dataclass(slots=True)
class Response:
    """What came on one stream until its end."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(dict(self.fields)[b":status"])


class RawPeer:
    """One connection. `scheme`, `authority` and `path` are what its requests ask for unless told otherwise, `status`
    is of their answers. `patience_s`: for whatever it waits for."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        status: int = 200,
        patience_s: float = ANSWER_S,
    ) -> None:
        self.scheme = scheme
        self.authority = authority
        self.path = path
        self.status = status
        self.patience_s = patience_s
        self.encoder = hpack.Encoder()
        self.server_settings: dict[int, int] = {}
        self.seen: list[Frame] = []
        self.read_ends = False
        self._stream = stream
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 2**32 - 1
        self._buffer = bytearray()
        self._block = b""
        self._block_at = 0
        self._lists: dict[int, list[tuple[bytes, bytes]]] = {}  # By where in `seen` their HEADERS is.
        self._pings = itertools.count(1)

    # --- sending ---

    async def send(self, *frames: bytes) -> None:
        """In one write. A server that has closed the connection already is no error here: what it said is."""
        with trio.fail_after(self.patience_s):
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.send_all(b"".join(frames))

    async def flood(self, frames: Iterable[bytes], *, within_s: float = 20.0) -> int:
        """Frames, some at a time, until all are sent or the server takes no more: how many went out.

        What the server says meanwhile is read, for a connection that was reset has nothing left to read.
        """
        sent = 0
        each = iter(frames)
        with trio.move_on_after(within_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_on)
                with contextlib.suppress(trio.BrokenResourceError):
                    while batch := list(itertools.islice(each, _BATCH_FRAMES)):
                        await self._stream.send_all(b"".join(batch))
                        sent += len(batch)
                nursery.cancel_scope.cancel()
        return sent

    async def send_unread(self, frames: Iterable[bytes]) -> None:
        """Frames, with nothing read meanwhile, until the server has closed the connection."""
        each = iter(frames)
        with contextlib.suppress(trio.BrokenResourceError):
            while batch := list(itertools.islice(each, _BATCH_FRAMES)):
                await self._stream.send_all(b"".join(batch))

    async def drip(self, pieces: Iterable[bytes], *, every_s: float) -> None:
        """A piece now and then, until all are sent or the server has closed the connection."""
        async with trio.open_nursery() as nursery:

            async def stop_at_the_end() -> None:
                await self._read_on()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_at_the_end)
            for piece in pieces:
                await self.send(piece)
                await trio.sleep(every_s)
            nursery.cancel_scope.cancel()

    async def _read_on(self) -> None:
        while await self._read():
            pass

    def fields(self, method: bytes = b"GET", *extra: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """The field list of a request that nothing is wrong with."""
        return [
            (b":method", method),
            (b":scheme", self.scheme),
            (b":path", self.path),
            (b":authority", self.authority),
            *extra,
        ]

    def block(self, fields: Pairs) -> bytes:
        return self.encoder.encode(fields, huffman=False)

    def get(self, stream_id: int, *extra: tuple[bytes, bytes], method: bytes = b"GET") -> bytes:
        """A whole request in one HEADERS frame."""
        return headers(stream_id, self.block(self.fields(method, *extra)), end=True)

    def post(self, stream_id: int, *extra: tuple[bytes, bytes]) -> bytes:
        """The head of a request whose body follows."""
        return headers(stream_id, self.block(self.fields(b"POST", *extra)))

    def pieces(self, stream_id: int, fields: Pairs, size: int, *, end: bool = True) -> list[bytes]:
        """A request whose field block is cut into frames of `size` octets."""
        block = self.block(fields)
        cut = [block[at : at + size] for at in range(0, len(block), size)]
        last = len(cut) - 1
        return [
            headers(stream_id, piece, end=end, whole=not last)
            if number == 0
            else continuation(stream_id, piece, whole=number == last)
            for number, piece in enumerate(cut)
        ]

    async def greet(self, *pairs: tuple[int, int]) -> None:
        """The connection preface of both sides, each settings frame acknowledged by the other."""
        await self.send(PREFACE, settings(*pairs))
        first = await self.next_frame()
        assert first is not None, "the server closed the connection instead of greeting"
        assert first.kind == Kind.SETTINGS, f"the server began with {first}"
        assert not first.is_ack, "the server began with an acknowledgement"
        self.server_settings = read_settings(first.payload)
        await self.send(settings_ack())
        await self.until(lambda each: each.kind == Kind.SETTINGS and each.is_ack)

    # --- receiving ---

    async def next_frame(self) -> Frame | None:
        """None: the server has closed the connection."""
        with trio.move_on_after(self.patience_s):
            while (found := take_frame(self._buffer)) is None:
                if not await self._read():
                    return None
            self.seen.append(found)
            self._note_block(found)
            return found
        raise AssertionError(f"nothing came for {self.patience_s:g} s, before that: {self.story()}")

    async def until(self, wanted: Predicate) -> list[Frame]:
        """The frames up to and with the first that is wanted. The end of the connection is a failure."""
        found: list[Frame] = []
        while not found or not wanted(found[-1]):
            each = await self.next_frame()
            assert each is not None, f"the server closed the connection, before that: {self.story()}"
            assert each.kind != Kind.GOAWAY or wanted(each), f"the connection ends: {self.story()}"
            found.append(each)
        return found

    async def response(self, stream_id: int, *, feed: bool = False) -> Response:
        """All that has come and comes on a stream, up to its end. `feed`: give back what it uses of the windows."""
        found = Response()
        at = 0
        while True:
            while at == len(self.seen):
                await self.until(lambda each: True)
            each, at = self.seen[at], at + 1
            if each.stream_id != stream_id:
                continue
            if each.kind == Kind.RST_STREAM:
                found.reset = each.code
                return found
            if each.kind == Kind.DATA:
                found.body += unpadded(each)
                if feed and (size := len(each.payload)):
                    await self.send(window_update(0, size), b"" if each.ends_stream else window_update(stream_id, size))
            if each.kind == Kind.HEADERS:
                while at - 1 not in self._lists:
                    await self.until(lambda each: each.kind == Kind.CONTINUATION)
                self._add_list(found, self._lists[at - 1])
            if each.ends_stream:
                return found

    async def barrier(self) -> list[Frame]:
        """All that the server has to say to what was sent before: what comes up to the answers of two PINGs.

        Two, for the answer of a PING may overtake other frames (section 6.7), but not those of the turn before.
        """
        found: list[Frame] = []
        for _ in range(2):
            payload = struct.pack(">Q", next(self._pings))
            await self.send(ping(payload))
            found += await self.until(partial(_answers_ping, payload))
        return found

    def forget(self) -> None:
        """Drop the frames seen so far: for a peer that goes on for long."""
        self.seen.clear()
        self._lists.clear()

    # --- verdicts ---

    async def connection_error(self, *codes: Code) -> Frame:
        """The server says GOAWAY with one of these codes and closes the connection."""
        last: Frame | None = None
        while (each := await self.next_frame()) is not None:
            if each.kind == Kind.GOAWAY:
                last = each
        names = " or ".join(code.name for code in codes)
        assert last is not None, f"closed without a GOAWAY ({names}): {self.story()}"
        assert last.code in codes, f"{last}, not {names}"
        return last

    async def stream_error(self, stream_id: int, *codes: Code) -> None:
        """The server resets that stream with one of these codes, and goes on."""
        names = " or ".join(code.name for code in codes)
        (*_, reset) = await self.until(lambda each: each.kind == Kind.RST_STREAM and each.stream_id == stream_id)
        assert reset.code in codes, f"{reset}, not {names}"
        await self.barrier()

    async def any_error(self, stream_id: int, *codes: Code) -> None:
        """A stream error, or a connection error instead: where the RFC leaves the choice."""
        names = " or ".join(code.name for code in codes)
        while (each := await self.next_frame()) is not None:
            if each.kind == Kind.GOAWAY or (each.kind == Kind.RST_STREAM and each.stream_id == stream_id):
                assert each.code in codes, f"{each}, not {names}"
                return
        raise AssertionError(f"closed without {names}: {self.story()}")

    async def line_block(self) -> bytes:
        """A head of HTTP/1.1, up to its empty line."""
        end = b"\r\n\r\n"
        with trio.move_on_after(self.patience_s):
            while end not in self._buffer and await self._read():
                pass
        head, found, rest = bytes(self._buffer).partition(end)
        assert found, f"no head of HTTP/1.1: {head[:200]!r}"
        self._buffer[:] = rest
        return head

    async def bytes_end(self) -> bytes:
        """All that the server says, whatever it is, until it closes the connection."""
        with trio.move_on_after(self.patience_s):
            while await self._read():
                pass
            return bytes(self._buffer)
        raise AssertionError(f"still open after {self.patience_s:g} s, having said {bytes(self._buffer[:200])!r}")

    def story(self) -> str:
        return "; ".join(map(str, self.seen[-12:])) or "nothing"

    # --- inside ---

    async def _read(self) -> bool:
        if self.read_ends:
            return False
        try:
            received = await self._stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            received = b""
        self._buffer += received
        self.read_ends = not received
        return bool(received)

    def _note_block(self, each: Frame) -> None:
        """Every field block must be read, in order: the decoder's table is of the connection."""
        if each.kind == Kind.HEADERS:
            assert not each.flags & 0x28, f"this peer does not read padded or prioritised {each}"
            self._block = each.payload
            self._block_at = len(self.seen) - 1
        elif each.kind == Kind.CONTINUATION:
            self._block += each.payload
        else:
            return
        if each.flags & END_HEADERS:
            fields = self._decoder.decode(self._block, raw=True)
            self._lists[self._block_at] = [(bytes(name), bytes(value)) for name, value in fields]

    @staticmethod
    def _add_list(found: Response, fields: list[tuple[bytes, bytes]]) -> None:
        if found.fields and found.status >= 200:
            found.trailers = fields
        else:
            found.fields = fields  # A final head takes the place of an interim one.


def _answers_ping(payload: bytes, each: Frame) -> bool:
    return each.kind == Kind.PING and each.is_ack and each.payload == payload


def read_settings(payload: bytes) -> dict[int, int]:
    return dict(struct.iter_unpack(">HI", payload))


def unpadded(each: Frame) -> bytes:
    if not each.flags & PADDED:
        return each.payload
    return each.payload[1 : len(each.payload) - each.payload[0]]
