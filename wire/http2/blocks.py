"""Header blocks: put together from HEADERS and CONTINUATION, decoded, and turned into the head that they are.

RFC 9113 sections 4.3, 5.1.1, 6.2, 6.10 and 8.1. Every block is decoded, also that of a stream which is refused,
closed or ignored: the HPACK table is the connection's. A block in parts is bounded in bytes, in frames and, by the
connection's alarms, in time; between its frames nothing else may come.
"""

from __future__ import annotations

from typing import Final

from wire.http1.fields import Field
from wire.http2.abuse import Abuse
from wire.http2.alarms import Alarm
from wire.http2.events import Event, HeadersReceived, InterimReceived, TrailersReceived
from wire.http2.faults import (
    COMPRESSION,
    CONTINUATIONS,
    HEADER_LIST,
    ConnectionFault,
    StreamFault,
    closed_fault,
    frame_size_fault,
    protocol_fault,
)
from wire.http2.fields import Malformed, check_request, check_response, check_trailers
from wire.http2.frames import END_HEADERS, END_STREAM, NUMBER, PADDED, PRIORITIZED, STREAM_ID_MAX, ErrorCode
from wire.http2.hpack import Decoder, HeaderListEndless, HeaderListTooLarge, HpackError
from wire.http2.session import Session
from wire.http2.streams import FINISHED, HALF_CLOSED_REMOTE, IDLE, OPEN, RESET_BY_PEER, UNUSED, Stream
from wire.limits import HTTP1_INTERIM_RESPONSES_MAX, HTTP2_CONTINUATIONS_MAX, HTTP2_HEADER_BLOCK_BYTES_MAX

_TOO_LARGE_HEAD: Final = [(b":status", b"431"), (b"content-length", b"0")]


class HeaderBlocks:
    __slots__ = ("_decoder", "_depends_on_itself", "_end_stream", "_parts", "_session", "_size", "open_id")

    def __init__(self, session: Session) -> None:
        config = session.config
        self._session = session
        self._decoder = Decoder(
            table_bytes_max=config.table_bytes_max,
            list_bytes_max=config.list_bytes_max,
            fields_max=config.fields_max,
        )
        self.open_id = 0  # The stream whose block is not whole.
        self._parts: list[bytes] = []
        self._size = 0
        self._end_stream = False
        self._depends_on_itself = False

    def on_headers(self, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
        depends_on_itself = False
        if not stream_id:
            raise protocol_fault("HEADERS on stream 0")
        if flags & (PADDED | PRIORITIZED):
            payload, depends_on_itself = _unwrapped(stream_id, flags, payload)
        if flags & END_HEADERS:
            self._whole(
                stream_id, payload, events, end_stream=flags & END_STREAM != 0, depends_on_itself=depends_on_itself
            )
            return
        self.open_id = stream_id
        self._parts = [payload]
        self._size = len(payload)
        self._end_stream = flags & END_STREAM != 0
        self._depends_on_itself = depends_on_itself
        self._session.alarms.set(Alarm.HEADER_BLOCK, self._session.now + self._session.config.header_block_s)

    def forget(self) -> None:
        self._parts = []

    def on_continuation(self, flags: int, payload: bytes, events: list[Event]) -> None:
        """For the stream of the open block; the caller has seen to that."""
        self._parts.append(payload)
        self._size += len(payload)
        if len(self._parts) > HTTP2_CONTINUATIONS_MAX + 1 or self._size > HTTP2_HEADER_BLOCK_BYTES_MAX:
            why = f"a header block of {len(self._parts)} frames and {self._size} bytes, and no end"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, CONTINUATIONS, why)
        if flags & END_HEADERS:
            stream_id = self.open_id
            block = b"".join(self._parts)
            self.open_id = 0
            self._parts = []
            self._session.alarms.clear(Alarm.HEADER_BLOCK)
            self._whole(
                stream_id, block, events, end_stream=self._end_stream, depends_on_itself=self._depends_on_itself
            )

    def _whole(
        self, stream_id: int, block: bytes, events: list[Event], *, end_stream: bool, depends_on_itself: bool
    ) -> None:
        session = self._session
        session.ledger.blocks_received += 1
        try:
            fields: list[Field] | None = self._decoder.decode(block)
        except HeaderListTooLarge:
            fields = None
        except HeaderListEndless as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, HEADER_LIST, str(error)) from None
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, COMPRESSION, str(error)) from None
        stream = session.streams.live.get(stream_id)
        if stream is None:
            if session.is_server and stream_id & 1 and stream_id > session.streams.highest:
                self._admit(stream_id, fields, events, end_stream=end_stream, depends_on_itself=depends_on_itself)
            else:
                self._late(stream_id, end_stream=end_stream)
            return
        if stream.state is IDLE:
            raise protocol_fault(f"HEADERS on stream {stream_id}, on which nothing was asked")
        if stream.state is HALF_CLOSED_REMOTE:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        if depends_on_itself:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
        if fields is None:
            raise StreamFault(stream_id, ErrorCode.ENHANCE_YOUR_CALM, "header list larger than announced")
        try:
            if stream.head_received:
                self._trailers(stream, fields, events, end_stream=end_stream)
            else:
                self._response(stream, fields, events, end_stream=end_stream)
        except Malformed as error:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None

    def _admit(
        self,
        stream_id: int,
        fields: list[Field] | None,
        events: list[Event],
        *,
        end_stream: bool,
        depends_on_itself: bool,
    ) -> None:
        """A request on a new stream, which also uses up all lower ids (section 5.1.1)."""
        session = self._session
        streams = session.streams
        streams.highest = stream_id
        if stream_id > session.last_accepted:
            # It crossed our GOAWAY; the client knows by that that it may ask again elsewhere (section 6.8).
            streams.refuse(stream_id, FINISHED if end_stream else session.grant)
            session.ledger.count(Abuse.REFUSED_STREAMS, "streams after GOAWAY")
            return
        if len(streams.live) >= session.config.streams_max:
            streams.refuse(stream_id, FINISHED if end_stream else session.grant)
            session.outbox.reset(stream_id, ErrorCode.REFUSED_STREAM)
            session.ledger.count(Abuse.REFUSED_STREAMS, f"streams beyond the {session.config.streams_max} announced")
            return
        if fields is None:
            self._too_large(stream_id, end_stream=end_stream)
            return
        try:
            if depends_on_itself:
                raise Malformed("a stream that depends on itself")
            length = check_request(fields, extended_connect=session.config.extended_connect)
            if end_stream and length > 0:
                raise Malformed(f"content-length {length} and no content")
        except Malformed as error:
            streams.refuse(stream_id, FINISHED if end_stream else session.grant)
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
        stream = Stream(
            stream_id,
            HALF_CLOSED_REMOTE if end_stream else OPEN,
            send_window=session.peer.initial_window,
            receive_window=session.grant,
        )
        stream.head_received = True
        stream.length_left = length
        streams.live[stream_id] = stream
        events.append(HeadersReceived(stream_id, fields, end_stream))

    def _too_large(self, stream_id: int, *, end_stream: bool) -> None:
        """The table is in step, so the stream alone pays: 431 (RFC 9113 section 10.5.1), and no more of it."""
        session = self._session
        state = HALF_CLOSED_REMOTE if end_stream else OPEN
        stream = Stream(stream_id, state, send_window=0, receive_window=session.grant)
        session.streams.live[stream_id] = stream
        session.outbox.head(stream, _TOO_LARGE_HEAD, END_STREAM)
        if not end_stream:
            session.streams.reset_by_us(stream)
            session.outbox.reset(stream_id, ErrorCode.NO_ERROR)
        session.ledger.count(Abuse.OWN_RESETS, "header list larger than announced")

    def _response(self, stream: Stream, fields: list[Field], events: list[Event], *, end_stream: bool) -> None:
        status, length = check_response(fields)
        if status < 200:
            stream.interims += 1
            if end_stream:
                raise Malformed(f"END_STREAM with interim response {status}")
            if stream.interims > HTTP1_INTERIM_RESPONSES_MAX:
                raise Malformed(f"more than {HTTP1_INTERIM_RESPONSES_MAX} interim responses")
            events.append(InterimReceived(stream.stream_id, fields))
            return
        if stream.bodiless or status in (204, 304):
            length = 0  # Whatever the field says: it describes another response (section 8.1.1).
        if end_stream and length > 0:
            raise Malformed(f"content-length {length} and no content")
        stream.head_received = True
        stream.length_left = length
        events.append(HeadersReceived(stream.stream_id, fields, end_stream))
        if end_stream:
            self._session.end_received(stream)

    def _trailers(self, stream: Stream, fields: list[Field], events: list[Event], *, end_stream: bool) -> None:
        if not end_stream:
            raise Malformed("a second head without END_STREAM (section 8.1)")
        if stream.length_left > 0:
            raise Malformed(f"{stream.length_left} bytes of content missing before the trailers")
        check_trailers(fields)
        events.append(TrailersReceived(stream.stream_id, fields))
        self._session.end_received(stream)

    def _late(self, stream_id: int, *, end_stream: bool) -> None:
        """HEADERS on a stream that is not open and cannot be opened by it."""
        streams = self._session.streams
        if streams.is_idle(stream_id):
            raise protocol_fault(f"HEADERS on stream {stream_id}, which the peer cannot open")
        how = streams.how_it_ended(stream_id)
        if how == UNUSED:
            raise protocol_fault(f"stream {stream_id} opened after stream {streams.highest}")
        if how == FINISHED:
            raise closed_fault(f"HEADERS on stream {stream_id}, which has ended")
        if how == RESET_BY_PEER:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after RST_STREAM")
        if end_stream:
            streams.ended_after_reset(stream_id)
        self._session.ledger.count(Abuse.CLOSED_FRAMES, "HEADERS on ended streams")


def _unwrapped(stream_id: int, flags: int, payload: bytes) -> tuple[bytes, bool]:
    """(the block without padding and priority, whether the stream depends on itself)."""
    start = 0
    padding = 0
    if flags & PADDED:
        if not payload:
            raise frame_size_fault("PADDED HEADERS without a length of its padding")
        padding = payload[0]
        start = 1
    depends_on_itself = False
    if flags & PRIORITIZED:
        if len(payload) < start + 5:
            raise frame_size_fault("HEADERS too short for its priority")
        # Priorities are deprecated and not used (section 5.3.2); only RFC 7540's rule about them is kept.
        depends_on_itself = NUMBER.unpack_from(payload, start)[0] & STREAM_ID_MAX == stream_id
        start += 5
    if padding > len(payload) - start:
        raise protocol_fault(f"HEADERS with {padding} bytes of padding in {len(payload)}")
    return payload[start : len(payload) - padding], depends_on_itself
