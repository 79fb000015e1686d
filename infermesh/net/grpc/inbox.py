"""Messages that came on one call and wait to be taken, whichever side we are on.

What the peer may send ahead is bounded: while more than `_HIGH_BYTES` of whole messages wait, the stream is paused,
and the peer may fill its window and no more. An unfinished message never pauses, since it may be larger than the
window. Few messages are kept apart; what lies beyond stays raw, because a window full of empty messages would take
twenty times its bytes as objects.

Not here: what a message means, and how a call ended.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from infermesh.net.http2.stream import Http2Stream
from wire.grpc import Encoding, MessageReader, RpcError, inflate
from wire.grpc.framing import PLAIN, PREFIX_BYTES

_HIGH_BYTES: Final = 65_536
_MESSAGES_APART_MAX: Final = 64
_RAW_TURN_BYTES: Final = 16_384
# A task that finds its messages waiting gives trio its turn once in so many of them.
_MESSAGES_PER_TURN: Final = 16


class Inbox:
    """Fed by plain calls; one task at a time waits."""

    __slots__ = (
        "_arrived",
        "_message_bytes_max",
        "_messages",
        "_raw",
        "_reader",
        "_stream",
        "_taken",
        "_waiting_bytes",
        "encoding",
        "ended",
        "error",
    )

    def __init__(self, stream: Http2Stream, message_bytes_max: int) -> None:
        self._stream = stream
        self._message_bytes_max = message_bytes_max
        self._reader = MessageReader(message_bytes_max=message_bytes_max)
        self._messages: deque[tuple[int, bytes]] = deque()  # Flag and message, as they came.
        self._raw = bytearray()
        self._waiting_bytes = 0
        self._arrived: trio.Event | None = None
        self._taken = 0
        self.encoding = Encoding.IDENTITY
        self.ended = False  # Nothing more will come.
        self.error: RpcError | None = None

    @property
    def waiting(self) -> int:
        """Messages that `take` would give, as far as they are told apart."""
        return len(self._messages)

    def feed(self, data: bytes) -> None:
        """Content that came. Raises RpcError when it breaks the framing; the call must end then."""
        if self._raw or len(self._messages) >= _MESSAGES_APART_MAX:
            self._raw += data
            self._waiting_bytes += len(data)
        else:
            self._split(data)
        if self._waiting_bytes > _HIGH_BYTES:
            self._stream.pause()
        if self._messages and self._arrived is not None:
            self.wake()

    def finish(self) -> None:
        """The peer has said all. Raises RpcError when that cuts a message in two."""
        self.ended = True
        if not self._raw:
            self._reader.finish()
        self.wake()

    def fail(self, error: RpcError) -> None:
        """The call is over: what waits is dropped, and whoever takes is told. The first error counts."""
        if self.error is None:
            self.error = error
            self._messages.clear()
            self._raw = bytearray()
            self.wake()

    def take(self) -> bytes | None:
        """The next message, inflated; None: not there yet, or no more. Raises RpcError."""
        if self.error is not None:
            raise self.error
        while self._raw and not self._messages:
            self._split_raw()
        if not self._messages:
            return None
        flag, message = self._messages.popleft()
        self._waiting_bytes -= len(message) + PREFIX_BYTES
        if self._stream.paused and self._waiting_bytes <= _HIGH_BYTES:
            self._stream.resume()
        if flag == PLAIN:
            return message
        return inflate(message, self.encoding, message_bytes_max=self._message_bytes_max)

    async def receive(self) -> bytes | None:
        """The next message; None: the peer has said all. Raises RpcError."""
        while True:
            message = self.take()
            if message is not None:
                self._taken += 1
                await pass_turn(self._taken)
                return message
            if self.ended:
                await trio.lowlevel.checkpoint_if_cancelled()
                return None
            await self.wait_change()

    async def wait_change(self) -> None:
        """Until something comes, or `wake`."""
        if self._arrived is None:
            self._arrived = trio.Event()
        await self._arrived.wait()

    def wake(self) -> None:
        """Have whoever waits look again."""
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.set()
            self._stream.endpoint.reactor.woken = True

    def _split(self, data: bytes) -> None:
        messages = self._reader.feed(data)
        self._messages += messages
        for _, message in messages:
            self._waiting_bytes += len(message) + PREFIX_BYTES

    def _split_raw(self) -> None:
        """Raw bytes become messages, a part at a time."""
        piece = bytes(self._raw[:_RAW_TURN_BYTES])
        del self._raw[:_RAW_TURN_BYTES]
        self._waiting_bytes -= len(piece)
        self._split(piece)
        if self.ended and not self._raw:
            self._reader.finish()


async def pass_turn(count: int) -> None:
    """A checkpoint for the `count`-th message of a stream: a full one now and then, a cheap one in between."""
    if count % _MESSAGES_PER_TURN:
        await trio.lowlevel.checkpoint_if_cancelled()
    else:
        await trio.lowlevel.checkpoint()
