"""The receiving side of a connection: bytes to frames, DATA to events, all else to the file that knows its kind.

RFC 9113 sections 3.4, 4.1, 4.2, 6.1 and the rules of 5.1 about frames on streams that have ended. Frames are cut out
of the bytes as they came; of a frame in part only that part is kept, which is less than one frame. DATA on an open
stream is the hot path and stands in the loop itself: everything unusual about it is left to `_on_data`.

A StreamFault is answered here and the loop goes on; a ConnectionFault passes to the connection.
"""

from __future__ import annotations

from typing import Final

from wire.http2.abuse import Abuse
from wire.http2.alarms import Alarm
from wire.http2.blocks import HeaderBlocks
from wire.http2.control import (
    on_goaway,
    on_ping,
    on_priority,
    on_push_promise,
    on_rst_stream,
    on_settings,
    on_unknown,
    on_window_update,
)
from wire.http2.events import DataReceived, Event
from wire.http2.faults import StreamFault, closed_fault, flow_fault, frame_size_fault, protocol_fault
from wire.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_STREAM,
    FRAME_HEAD,
    FRAME_HEAD_LEN,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_ID_MAX,
    WINDOW_UPDATE,
    ErrorCode,
)
from wire.http2.session import Session
from wire.http2.streams import FORGOTTEN, HALF_CLOSED_LOCAL, OPEN, RESET_BY_PEER, Stream

_CONTROL: Final = {
    PRIORITY: on_priority,
    RST_STREAM: on_rst_stream,
    SETTINGS: on_settings,
    PUSH_PROMISE: on_push_promise,
    PING: on_ping,
    GOAWAY: on_goaway,
    WINDOW_UPDATE: on_window_update,
}
_unpack = FRAME_HEAD.unpack_from


class Inbox:
    __slots__ = ("_blocks", "_frame_bytes_max", "_partial", "_preface_left", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._blocks = HeaderBlocks(session)
        self._frame_bytes_max = session.config.frame_bytes_max
        self._partial = b""
        self._preface_left = PREFACE if session.is_server else b""

    def feed(self, data: bytes, events: list[Event]) -> None:
        """Raises ConnectionFault; `events` then holds what came before it."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        if self._preface_left:
            data = self._after_preface(data)
        stop = self._frames(data, events)
        if stop == len(data):
            self._session.alarms.clear(Alarm.FRAME)
        else:
            self._keep(data, stop)

    def forget(self) -> None:
        """Nothing more will be read: what came in part is not kept while the connection lingers."""
        self._partial = b""
        self._blocks.forget()

    def _after_preface(self, data: bytes) -> bytes:
        left = self._preface_left
        seen = min(len(left), len(data))
        if data[:seen] != left[:seen]:
            raise protocol_fault("the connection does not begin with the preface (section 3.4)")
        self._preface_left = left[seen:]
        return data[seen:]

    def _keep(self, data: bytes, stop: int) -> None:
        """A frame is here in part. If not DATA, which its stream's owner times, it must not take long."""
        self._partial = data[stop:]
        session = self._session
        if len(self._partial) > 3 and self._partial[3] == DATA:
            session.alarms.clear(Alarm.FRAME)
        elif stop or not session.alarms.is_set(Alarm.FRAME):
            session.alarms.set(Alarm.FRAME, session.now + session.config.header_block_s)

    def _frames(self, data: bytes, events: list[Event]) -> int:
        """All whole frames of `data`; says where the first one begins that is not."""
        session = self._session
        blocks = self._blocks
        windows = session.windows
        live_get = session.streams.live.get
        append = events.append
        frame_bytes_max = self._frame_bytes_max
        start = 0
        end = len(data)
        last_start = end - FRAME_HEAD_LEN
        while start <= last_start:
            length, flags, stream_id = _unpack(data, start)
            kind = length & 0xFF
            length >>= 8
            payload_start = start + FRAME_HEAD_LEN
            stop = payload_start + length
            if length > frame_bytes_max:
                raise frame_size_fault(f"frame of {length} bytes, {frame_bytes_max} is the limit (section 4.2)")
            if stop > end:
                break
            if kind == DATA and length and not flags & PADDED and not blocks.open_id:
                stream: Stream | None = live_get(stream_id)
                if (
                    stream is not None
                    and (stream.state is OPEN or stream.state is HALF_CLOSED_LOCAL)
                    and stream.head_received
                    and (stream.length_left < 0 or (length < stream.length_left and not flags & END_STREAM))
                    and length <= stream.receive_window
                    and length <= windows.receive_window
                ):
                    windows.receive_window -= length
                    stream.receive_window -= length
                    if stream.length_left > 0:
                        stream.length_left -= length
                    ends = flags & END_STREAM
                    append(DataReceived(stream_id, data[payload_start:stop], length, ends == END_STREAM))
                    if ends:
                        session.end_received(stream)
                    start = stop
                    continue
            try:
                self._on_frame(kind, flags, stream_id & STREAM_ID_MAX, data[payload_start:stop], events)
            except StreamFault as fault:
                session.fail_stream(fault.stream_id, fault.code, fault.why, events)
            start = stop
        return start

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        session = self._session
        blocks = self._blocks
        if session.first_settings and (kind != SETTINGS or flags & ACK):
            raise protocol_fault(f"first frame is of type {kind:#x}, not SETTINGS (section 3.4)")
        if blocks.open_id:
            if kind != CONTINUATION or stream_id != blocks.open_id:
                raise protocol_fault(f"frame of type {kind:#x} inside the header block of stream {blocks.open_id}")
            blocks.on_continuation(flags, payload, events)
        elif kind == DATA:
            self._on_data(stream_id, flags, payload, events)
        elif kind == HEADERS:
            blocks.on_headers(stream_id, flags, payload, events)
        elif kind == CONTINUATION:
            raise protocol_fault("CONTINUATION without a header block (section 6.10)")
        else:
            on_control = _CONTROL.get(kind)
            if on_control is not None:
                on_control(session, stream_id, flags, payload, events)
            else:
                on_unknown(session, kind)

    def _on_data(self, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        session = self._session
        flow_bytes = len(payload)
        if not stream_id:
            raise protocol_fault("DATA on stream 0")
        if flags & PADDED:
            payload = _without_padding(payload)
        if session.streams.is_idle(stream_id):
            raise protocol_fault(f"DATA on idle stream {stream_id}")
        session.windows.receive_window -= flow_bytes
        if session.windows.receive_window < 0:
            raise flow_fault("DATA beyond the connection's window")
        stream = session.streams.live.get(stream_id)
        ends = flags & END_STREAM != 0
        if not payload and not ends:
            session.ledger.count(Abuse.EMPTY_DATA, "DATA frames without content")
        if stream is None:
            # Nobody will consume it; the window is everybody's.
            session.credit_connection(flow_bytes)
            self._on_late_data(stream_id, flow_bytes, ends=ends)
            return
        try:
            _check_content(stream, payload, flow_bytes, ends=ends)
        except StreamFault:
            session.credit_connection(flow_bytes)
            raise
        stream.receive_window -= flow_bytes
        events.append(DataReceived(stream_id, payload, flow_bytes, ends))
        if ends:
            session.end_received(stream)

    def _on_late_data(self, stream_id: int, flow_bytes: int, *, ends: bool) -> None:
        streams = self._session.streams
        how = streams.how_it_ended(stream_id)
        if how == RESET_BY_PEER:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA after RST_STREAM")
        if how >= 0:
            # We reset it, and this was on its way; more than its window had room for was not.
            if not streams.spend_after_reset(stream_id, flow_bytes):
                raise flow_fault(f"DATA beyond the window of stream {stream_id}, which we reset")
            if ends:
                streams.ended_after_reset(stream_id)
            if not flow_bytes:
                self._session.ledger.count(Abuse.CLOSED_FRAMES, "empty DATA on ended streams")
            return
        if how != FORGOTTEN:
            raise closed_fault(f"DATA on stream {stream_id}, which has ended")
        self._session.ledger.count(Abuse.CLOSED_FRAMES, "DATA on ended streams")


def _check_content(stream: Stream, payload: bytes, flow_bytes: int, *, ends: bool) -> None:
    """Raises StreamFault. Takes `payload` off what content-length says is still to come."""
    stream_id = stream.stream_id
    if stream.state is not OPEN and stream.state is not HALF_CLOSED_LOCAL:
        raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA after END_STREAM")
    # A window may be below zero once our SETTINGS are in force; an empty frame needs none (section 6.9.1).
    if flow_bytes > max(stream.receive_window, 0):
        raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
    if not stream.head_received:
        raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before the head of the response")
    if stream.length_left < 0:
        return
    left = stream.length_left - len(payload)
    if left < 0 or (ends and left):
        more = "more" if left < 0 else "less"
        raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, f"{more} content than content-length (section 8.1.1)")
    stream.length_left = left


def _without_padding(payload: bytes) -> bytes:
    if not payload:
        raise frame_size_fault("PADDED DATA without a length of its padding")
    padding = payload[0]
    if padding >= len(payload):
        raise protocol_fault(f"DATA with {padding} bytes of padding in {len(payload)} (section 6.1)")
    return payload[1 : len(payload) - padding]
