"""Streams of one connection: their states as a table, who is open, and what is remembered of those that ended.

RFC 9113 section 5.1, without the reserved states: push is refused, so that no stream is ever reserved. A stream that
is in no state here is idle (it has not been used) or closed. Of closed ones the last HTTP2_CLOSED_STREAMS_KEPT_MAX
are remembered with how they ended, for that decides what a late frame means:

- both sides had finished: a late frame is a connection error of type STREAM_CLOSED;
- the peer had reset it: a stream error of type STREAM_CLOSED;
- we had reset it while the peer could still send: what was on its way passes, as far as the window had room for it;
- nobody ever used it, because a higher number came first: a connection error of type PROTOCOL_ERROR (5.1.1);
- forgotten: it passes, and is counted (wire.http2.abuse).
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from wire.http1.fields import Field
from wire.http2.flow import Windows
from wire.limits import HTTP2_CLOSED_STREAMS_KEPT_MAX


class State(enum.IntEnum):
    IDLE = 0
    OPEN = 1
    HALF_CLOSED_LOCAL = 2  # We have sent our last.
    HALF_CLOSED_REMOTE = 3  # The peer has sent its last.
    CLOSED = 4


IDLE: Final = State.IDLE
OPEN: Final = State.OPEN
HALF_CLOSED_LOCAL: Final = State.HALF_CLOSED_LOCAL
HALF_CLOSED_REMOTE: Final = State.HALF_CLOSED_REMOTE
CLOSED: Final = State.CLOSED

# From IDLE, OPEN, HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE, CLOSED; None is an error of whoever takes the step.
AFTER_HEAD: Final = (OPEN, OPEN, HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE, None)
AFTER_SENT_END: Final = (None, HALF_CLOSED_LOCAL, None, CLOSED, None)
AFTER_RECEIVED_END: Final = (None, HALF_CLOSED_REMOTE, CLOSED, None, None)


class End(enum.IntEnum):
    """How the sending side ends once its queue is empty."""

    NONE = 0
    DATA = 1  # END_STREAM on the last DATA frame.
    TRAILERS = 2


class SendQueue:
    """Content of one stream that waits for windows or for its turn, and the end behind it."""

    __slots__ = (
        "above_high",
        "chunks",
        "end",
        "queued_bytes",
        "sent_bytes",
        "stalled_at",
        "stalled_bytes",
        "taken",
        "trailers",
    )

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.taken = 0  # Bytes of the first chunk that are out.
        self.queued_bytes = 0
        self.end = End.NONE
        self.trailers: list[Field] = []
        self.above_high = False
        # For the watch on stalled streams: bytes let out so far; when and at how many it was found stalled.
        self.sent_bytes = 0
        self.stalled_at = -1.0
        self.stalled_bytes = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes, of which there are so many. A large chunk is cut from, not copied again and again."""
        chunks = self.chunks
        self.queued_bytes -= size
        self.sent_bytes += size
        parts = []
        left = size
        while left:
            first = chunks[0]
            part = first[self.taken : self.taken + left]
            left -= len(part)
            self.taken += len(part)
            if self.taken == len(first):
                chunks.popleft()
                self.taken = 0
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Stream(Windows):
    __slots__ = (
        "bodiless",
        "ending",
        "head_received",
        "head_sent",
        "interims",
        "length_left",
        "queue",
        "state",
        "stream_id",
    )

    def __init__(self, stream_id: int, state: State, *, send_window: int, receive_window: int) -> None:
        self.stream_id = stream_id
        self.state = state
        self.send_window = send_window
        self.receive_window = receive_window
        self.uncredited = 0
        self.head_received = False  # Our caller knows it: a request (server), or a final response (client).
        self.head_sent = False
        self.ending = False  # Our end is sent, or queued: nothing may be added.
        self.bodiless = False  # Client: the answer to a HEAD request has no content, whatever its length says.
        self.interims = 0
        self.length_left = -1  # Content still to come by content-length; -1: not stated.
        self.queue: SendQueue | None = None


FINISHED: Final = -1
RESET_BY_PEER: Final = -2
# Zero and above: we reset it, and the peer may still have so many bytes on their way.
UNUSED: Final = -3
FORGOTTEN: Final = -4


class StreamTable:
    """Who is open. `highest` is the highest stream id that the peer, on a server, or we, on a client, have used."""

    __slots__ = ("_ended", "_forgotten_below", "finished", "highest", "live")

    def __init__(self) -> None:
        self.live: dict[int, Stream] = {}
        self.highest = 0
        self.finished = 0  # Streams that both sides brought to their end.
        self._ended: dict[int, int] = {}  # In the order in which they ended.
        self._forgotten_below = 0

    def is_idle(self, stream_id: int) -> bool:
        """Never used, and not passed over either. Ids of the wrong parity are idle for ever: nobody may use them."""
        return stream_id > self.highest or not (stream_id & 1)

    def finish(self, stream: Stream) -> None:
        """Both sides are through."""
        self.finished += 1
        self._end(stream.stream_id, FINISHED)

    def reset_by_peer(self, stream: Stream) -> None:
        self._end(stream.stream_id, RESET_BY_PEER)

    def reset_by_us(self, stream: Stream) -> None:
        may_send = stream.state is OPEN or stream.state is HALF_CLOSED_LOCAL
        self._end(stream.stream_id, max(stream.receive_window, 0) if may_send else FINISHED)

    def refuse(self, stream_id: int, receive_window: int) -> None:
        """A stream that was never let in, of which more may be on its way."""
        self._end(stream_id, receive_window)

    def how_it_ended(self, stream_id: int) -> int:
        """For an id that is neither live nor idle."""
        how = self._ended.get(stream_id)
        if how is not None:
            return how
        return FORGOTTEN if stream_id <= self._forgotten_below else UNUSED

    def spend_after_reset(self, stream_id: int, flow_bytes: int) -> bool:
        """Bytes on a stream that we reset; False when its window never had room for so many."""
        left = self._ended[stream_id] - flow_bytes
        if left < 0:
            return False
        self._ended[stream_id] = left
        return True

    def ended_after_reset(self, stream_id: int) -> None:
        """The peer's END_STREAM came on a stream that we had reset: nothing more may come."""
        if stream_id in self._ended:
            self._ended[stream_id] = FINISHED

    def _end(self, stream_id: int, how: int) -> None:
        self.live.pop(stream_id, None)
        ended = self._ended
        ended[stream_id] = how
        if len(ended) > HTTP2_CLOSED_STREAMS_KEPT_MAX:
            oldest = next(iter(ended))
            del ended[oldest]
            self._forgotten_below = max(self._forgotten_below, oldest)
