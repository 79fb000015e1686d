"""The sending side of a connection: frames in the order in which they must leave, and DATA in fair turns.

Control frames whose place does not matter (PING, its ACK, WINDOW_UPDATE) leave first, so that a bulk transfer holds
up no peer. All else leaves in the order in which it was made: heads at once, for they wait for no window; DATA
straight away while windows and room allow, else from the queue of its stream, one frame a turn. Trailers and
END_STREAM stand behind the content of their stream. Header blocks are encoded only when they are placed, for HPACK
needs them to arrive in the order of encoding; RST_STREAM and the ACK of SETTINGS keep their place among them.

Not here: what a stream may still do (wire.http2.connection checks), and sockets. Output that is not taken stays
bounded: at most OUTPUT_BYTES_MAX of content leaves its queue before it is taken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from wire.http1.fields import Field
from wire.http2.abuse import AbuseLedger
from wire.http2.config import Http2Config
from wire.http2.events import Drained
from wire.http2.faults import UNSENT_CONTROL, ConnectionFault, flow_fault
from wire.http2.flow import Windows
from wire.http2.frames import (
    END_STREAM,
    FRAME_BYTES_DEFAULT,
    FRAME_HEAD,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    ErrorCode,
    encode_block,
    encode_data,
    encode_rst_stream,
)
from wire.http2.hpack import Encoder
from wire.http2.streams import AFTER_SENT_END, CLOSED, End, SendQueue, Stream, StreamTable
from wire.limits import HTTP2_STALLED_BYTES_MAX, HTTP2_UNSENT_CONTROL_BYTES_MAX

# Enough to fill a socket's buffer; more would only take the turn from streams that become ready meanwhile.
OUTPUT_BYTES_MAX: Final = 65_536
# One turn of one stream. Larger frames than the default are never needed, and would make others wait.
_TURN_BYTES_MAX: Final = FRAME_BYTES_DEFAULT

_pack = FRAME_HEAD.pack


class Outbox:
    __slots__ = (
        "_config",
        "_control",
        "_control_bytes",
        "_data_bytes",
        "_encoder",
        "_frames",
        "_head_bytes",
        "_ledger",
        "_ready",
        "_streams",
        "blocked",
        "drained",
        "peer_frame_bytes_max",
        "windows",
    )

    def __init__(self, config: Http2Config, streams: StreamTable, windows: Windows, ledger: AbuseLedger) -> None:
        self._config = config
        self._streams = streams
        self._ledger = ledger
        self._encoder = Encoder(table_bytes_max=config.table_bytes_max)
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._frames: list[bytes] = []
        self._data_bytes = 0  # Content among the frames.
        self._head_bytes = 0
        self._ready: OrderedDict[int, Stream] = OrderedDict()  # Queued, with window; whose turn is next comes first.
        self.windows = windows
        self.peer_frame_bytes_max = FRAME_BYTES_DEFAULT
        self.drained: list[Drained] = []
        self.blocked = False  # Since the watch last looked, content had to wait for a window.

    # --- what leaves ---

    def has_output(self) -> bool:
        if self._frames or self._control:
            return True
        return bool(self._ready) and self.windows.send_window > 0

    def take(self) -> bytes:
        """What may leave now, at most about OUTPUT_BYTES_MAX of content; more may remain."""
        if self._ready:
            self._take_turns()
        output = b"".join([*self._control, *self._frames])
        if output:
            self._control.clear()
            self._frames.clear()
            self._control_bytes = 0
            self._data_bytes = 0
            self._head_bytes = 0
        return output

    def unsent_bytes(self) -> int:
        return self._control_bytes + self._head_bytes + self._data_bytes

    def control(self, frame: bytes) -> None:
        """A frame that may overtake."""
        self._control.append(frame)
        self._control_bytes += len(frame)

    def ordered(self, frame: bytes) -> None:
        """A control frame that keeps its place behind what was made before it."""
        self._frames.append(frame)
        self._control_bytes += len(frame)

    def check_unsent(self) -> None:
        """Raises ConnectionFault when the peer makes us answer and does not read the answers."""
        if self._control_bytes > HTTP2_UNSENT_CONTROL_BYTES_MAX:
            why = f"{self._control_bytes} bytes of answers to control frames that are not read"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, UNSENT_CONTROL, why)

    # --- messages ---

    def head(self, stream: Stream, fields: Iterable[Field], flags: int) -> None:
        frames = encode_block(stream.stream_id, self._encoder.encode(fields), flags, self.peer_frame_bytes_max)
        self._frames.append(frames)
        self._head_bytes += len(frames)
        self._ledger.frames_sent += 1
        if flags:
            self._sent_end(stream)

    def data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        size = len(data)
        windows = self.windows
        if (
            stream.queue is None
            and size <= stream.send_window
            and size <= windows.send_window
            and size <= _TURN_BYTES_MAX
            and self._data_bytes < OUTPUT_BYTES_MAX
            and not self._ready
        ):
            if not size and not end:
                return
            stream.send_window -= size
            windows.send_window -= size
            self._data_bytes += size
            frames = self._frames
            frames.append(_pack(size << 8, end, stream.stream_id))  # The type of DATA is 0, END_STREAM is 1.
            frames.append(data)
            self._ledger.frames_sent += 1
            if end:
                self._sent_end(stream)
        elif size:
            self._queue(stream, data, End.DATA if end else End.NONE)
        elif end:
            self._end(stream, End.DATA)

    def trailers(self, stream: Stream, fields: Iterable[Field]) -> None:
        if stream.queue is None:
            self.head(stream, fields, END_STREAM)
        else:
            stream.queue.trailers = list(fields)
            stream.queue.end = End.TRAILERS

    def reset(self, stream_id: int, code: int) -> None:
        self.ordered(encode_rst_stream(stream_id, code))

    def forget(self, stream: Stream) -> None:
        """The stream was reset: what it had queued is gone."""
        stream.queue = None
        self._ready.pop(stream.stream_id, None)

    # --- what the peer allows ---

    def on_connection_window(self, increment: int) -> None:
        if not self.windows.widen(increment):
            raise flow_fault(f"the connection's window would pass {WINDOW_MAX}")

    def on_stream_window(self, stream: Stream) -> None:
        """The stream's window has grown."""
        if stream.queue is not None and stream.send_window > 0:
            self._ready[stream.stream_id] = stream  # Keeps its turn if it has one.

    def on_initial_window(self, change: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE changed by so much, for all streams (section 6.9.2)."""
        for stream in self._streams.live.values():
            if not stream.widen(change):
                raise flow_fault(f"SETTINGS_INITIAL_WINDOW_SIZE makes the window of a stream pass {WINDOW_MAX}")
            if stream.queue is None:
                continue
            if stream.send_window > 0:
                self.on_stream_window(stream)
            else:
                self._ready.pop(stream.stream_id, None)
                self.blocked = True

    def on_table_size(self, table_bytes: int) -> None:
        self._encoder.set_table_bytes_max(min(table_bytes, self._config.table_bytes_max))

    def stalled(self, now: float) -> list[Stream]:
        """Streams whose content has waited `stalled_s` for the peer's windows. To be asked every so often."""
        closed = self.windows.send_window <= 0
        found = []
        self.blocked = False
        for stream in self._streams.live.values():
            queue = stream.queue
            if queue is None:
                continue
            if not closed and stream.send_window > 0:
                queue.stalled_at = -1.0  # It waits for its turn, or for our own socket.
                continue
            self.blocked = True
            if queue.stalled_at < 0.0 or queue.sent_bytes - queue.stalled_bytes >= HTTP2_STALLED_BYTES_MAX:
                queue.stalled_at = now
                queue.stalled_bytes = queue.sent_bytes
            elif now - queue.stalled_at >= self._config.stalled_s:
                found.append(stream)
        return found

    # --- turns ---

    def _queue(self, stream: Stream, data: bytes, end: End) -> None:
        queue = stream.queue
        if queue is None:
            queue = stream.queue = SendQueue()
            if stream.send_window > 0:
                self._ready[stream.stream_id] = stream
        queue.chunks.append(data)
        queue.queued_bytes += len(data)
        queue.end = end
        if queue.queued_bytes > self._config.high_bytes:
            queue.above_high = True
        if stream.send_window <= 0 or self.windows.send_window <= 0:
            self.blocked = True

    def _end(self, stream: Stream, end: End) -> None:
        if stream.queue is not None:
            stream.queue.end = end
            return
        # An empty frame needs no window (section 6.9.1).
        self._frames.append(encode_data(stream.stream_id, b"", END_STREAM))
        self._ledger.frames_sent += 1
        self._sent_end(stream)

    def _take_turns(self) -> None:
        ready = self._ready
        windows = self.windows
        while ready and windows.send_window > 0 and self._data_bytes < OUTPUT_BYTES_MAX:
            stream = ready.popitem(last=False)[1]
            queue = stream.queue
            assert queue is not None
            size = min(queue.queued_bytes, stream.send_window, windows.send_window, _TURN_BYTES_MAX)
            assert size > 0
            payload = queue.take(size)
            stream.send_window -= size
            windows.send_window -= size
            self._data_bytes += size
            self._ledger.frames_sent += 1
            ended = not queue.queued_bytes and queue.end is End.DATA
            self._frames.append(encode_data(stream.stream_id, payload, END_STREAM if ended else 0))
            if queue.above_high and queue.queued_bytes < self._config.low_bytes:
                queue.above_high = False
                self.drained.append(Drained(stream.stream_id))
            if not queue.queued_bytes:
                stream.queue = None
                if ended:
                    self._sent_end(stream)
                elif queue.end is End.TRAILERS:
                    self.head(stream, queue.trailers, END_STREAM)
            elif stream.send_window > 0:
                ready[stream.stream_id] = stream
            else:
                self.blocked = True
        if ready and windows.send_window <= 0:
            self.blocked = True

    def _sent_end(self, stream: Stream) -> None:
        state = AFTER_SENT_END[stream.state]
        assert state is not None
        stream.state = state
        if state is CLOSED:
            self._ledger.streams_finished += 1
            self._streams.finish(stream)


def first_window() -> Windows:
    """The connection's windows before anybody has widened them."""
    return Windows(WINDOW_DEFAULT, WINDOW_DEFAULT)
