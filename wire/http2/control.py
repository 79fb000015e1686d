"""The frames that carry no message: PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE.

RFC 9113 sections 6.3 to 6.9. Each is checked for its stream and its size, entered in the abuse ledger before it
costs anything, and obeyed. An answer to one is put into the outbox; the caller hears of what concerns it.
"""

from __future__ import annotations

import struct
from typing import Final

from wire.http2.abuse import Abuse
from wire.http2.alarms import Alarm
from wire.http2.events import Event, GoawayReceived, PingAcked, SettingsReceived, StreamReset
from wire.http2.faults import StreamFault, frame_size_fault, protocol_fault
from wire.http2.frames import ACK, NUMBER, SETTINGS_ACK, STREAM_ID_MAX, WINDOW_MAX, ErrorCode, Setting, encode_ping
from wire.http2.session import Session
from wire.http2.settings import read_settings
from wire.http2.streams import HALF_CLOSED_LOCAL

_TWO_NUMBERS: Final = struct.Struct(">LL")


def on_priority(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    session.ledger.count(Abuse.PRIORITIES, "PRIORITY frames")
    if not stream_id:
        raise protocol_fault("PRIORITY on stream 0")
    live = stream_id in session.streams.live
    if len(payload) != 5:
        why = f"PRIORITY of {len(payload)} bytes"
        raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR, why) if live else frame_size_fault(why)
    if NUMBER.unpack_from(payload)[0] & STREAM_ID_MAX == stream_id:
        why = f"stream {stream_id} depends on itself"
        raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, why) if live else protocol_fault(why)


def on_rst_stream(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    stream = session.streams.live.get(stream_id)
    answered = stream is not None and stream.state is HALF_CLOSED_LOCAL  # It only stops sending what nobody wants.
    if session.is_server and not answered:  # A client is told by it that its request was refused, as often as it asks.
        session.ledger.count(Abuse.RESETS_RECEIVED, "RST_STREAM frames")
    if not stream_id:
        raise protocol_fault("RST_STREAM on stream 0")
    if len(payload) != 4:
        raise frame_size_fault(f"RST_STREAM of {len(payload)} bytes")
    if session.streams.is_idle(stream_id):
        raise protocol_fault(f"RST_STREAM on idle stream {stream_id}")
    if stream is None:  # It crossed the end of its stream (section 5.1, closed).
        session.ledger.count(Abuse.CLOSED_FRAMES, "RST_STREAM on ended streams")
        return
    code = NUMBER.unpack(payload)[0]
    session.outbox.forget(stream)
    session.streams.reset_by_peer(stream)
    events.append(StreamReset(stream_id, code, True, "RST_STREAM received"))


def on_settings(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    if stream_id:
        raise protocol_fault(f"SETTINGS on stream {stream_id}")
    if flags & ACK:
        if payload:
            raise frame_size_fault(f"ACK of SETTINGS with {len(payload)} bytes")
        _on_settings_ack(session)
        return
    session.ledger.count(Abuse.SETTINGS, "SETTINGS frames")
    settings = read_settings(payload, session.peer, from_server=not session.is_server)
    obey_settings(session, settings)
    session.outbox.ordered(SETTINGS_ACK)
    if session.first_settings:
        session.first_settings = False
        session.alarms.clear(Alarm.PREFACE)
    events.append(SettingsReceived(settings))


def obey_settings(session: Session, settings: dict[int, int]) -> None:
    peer = session.peer
    window = peer.initial_window
    peer.take(settings, first=session.first_settings)
    outbox = session.outbox
    outbox.peer_frame_bytes_max = peer.frame_max
    if Setting.HEADER_TABLE_SIZE in settings:
        outbox.on_table_size(peer.table_bytes)
    if peer.initial_window != window:
        outbox.on_initial_window(peer.initial_window - window)


def _on_settings_ack(session: Session) -> None:
    if not session.settings_unacked:
        session.ledger.count(Abuse.SETTINGS, "ACKs of SETTINGS that were not sent")
        return
    session.settings_unacked -= 1
    session.alarms.clear(Alarm.SETTINGS_ACK)
    change = session.config.window_bytes - session.grant
    if change:  # Streams were let begin with the larger default; now our own holds, for the open ones as well.
        session.grant += change
        for stream in session.streams.live.values():
            stream.receive_window += change


def on_push_promise(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    who = "a client" if session.is_server else "a server that was told not to"
    raise protocol_fault(f"PUSH_PROMISE from {who} (section 8.4)")


def on_ping(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    if stream_id:
        raise protocol_fault(f"PING on stream {stream_id}")
    if len(payload) != 8:
        raise frame_size_fault(f"PING of {len(payload)} bytes")
    if not flags & ACK:
        session.ledger.count(Abuse.PINGS, "PING frames")
        session.outbox.control(encode_ping(payload, ACK))
    elif payload in session.pings:
        session.pings.remove(payload)
        events.append(PingAcked(payload))
    elif payload == session.drain_ping:
        session.settle_drain()
    else:
        session.ledger.count(Abuse.PINGS, "ACKs of PINGs that were not sent")


def on_goaway(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    if stream_id:
        raise protocol_fault(f"GOAWAY on stream {stream_id}")
    if len(payload) < 8:
        raise frame_size_fault(f"GOAWAY of {len(payload)} bytes")
    if session.goaway_received:
        session.ledger.count(Abuse.UNKNOWN_FRAMES, "GOAWAY frames")  # One says it all, two are a drain.
    session.goaway_received = True
    last, code = _TWO_NUMBERS.unpack_from(payload)
    last &= STREAM_ID_MAX
    events.append(GoawayReceived(last, code, payload[8:]))
    if session.is_server:
        return  # Its last id speaks of pushed streams, of which there are none.
    live = session.streams.live
    for stream in [stream for above, stream in live.items() if above > last]:
        session.outbox.forget(stream)
        session.streams.reset_by_peer(stream)
        why = f"GOAWAY with last stream {last}: not processed, may be asked again elsewhere"
        events.append(StreamReset(stream.stream_id, ErrorCode.REFUSED_STREAM, True, why))


def on_window_update(session: Session, stream_id: int, flags: int, payload: bytes, events: list[Event]) -> None:
    session.ledger.count(Abuse.WINDOW_UPDATES, "WINDOW_UPDATE frames")
    if len(payload) != 4:
        raise frame_size_fault(f"WINDOW_UPDATE of {len(payload)} bytes")
    increment = NUMBER.unpack(payload)[0] & WINDOW_MAX
    if not stream_id:
        if not increment:
            raise protocol_fault("WINDOW_UPDATE by 0 on the connection")
        session.outbox.on_connection_window(increment)
        return
    if session.streams.is_idle(stream_id):
        raise protocol_fault(f"WINDOW_UPDATE on idle stream {stream_id}")
    stream = session.streams.live.get(stream_id)
    if stream is None:
        return  # It crossed the end of its stream (section 5.1, closed).
    if not increment:
        raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
    if not stream.widen(increment):
        raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, f"its window would pass {WINDOW_MAX}")
    session.outbox.on_stream_window(stream)


def on_unknown(session: Session, kind: int) -> None:
    """Section 4.1: ignored and discarded."""
    session.ledger.count(Abuse.UNKNOWN_FRAMES, f"frames of unknown types, such as {kind:#x}")
