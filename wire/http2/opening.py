"""How a connection begins (RFC 9113 section 3.4, RFC 7540 section 3.2): our preface, and the upgrade from HTTP/1.1.

Not here: the peer's preface, which the receiving side reads.
"""

from __future__ import annotations

from wire.errors import RemoteProtocolError
from wire.http2.alarms import Alarm
from wire.http2.control import obey_settings
from wire.http2.faults import ConnectionFault
from wire.http2.frames import PREFACE, WINDOW_DEFAULT, encode_settings, encode_window_update
from wire.http2.session import Session
from wire.http2.settings import announced, read_settings
from wire.http2.streams import HALF_CLOSED_REMOTE, Stream


def start(session: Session) -> None:
    config = session.config
    preface = b"" if session.is_server else PREFACE
    # In front of the frames that may overtake: the preface is first, whatever the peer made us answer before it left.
    session.outbox.control(preface + encode_settings(announced(config)))
    session.settings_unacked += 1
    session.alarms.set(Alarm.SETTINGS_ACK, session.now + config.settings_ack_s)
    if session.is_server:
        session.alarms.set(Alarm.PREFACE, session.now + config.preface_s)
    wider = config.connection_window_bytes - WINDOW_DEFAULT
    if wider:
        session.windows.receive_window += wider
        session.outbox.ordered(encode_window_update(0, wider))


def start_upgraded(session: Session, settings: bytes) -> None:
    """Raises RemoteProtocolError, before any output, when the settings are none."""
    assert session.is_server
    try:
        values = read_settings(settings, session.peer, from_server=False)
    except ConnectionFault as fault:
        raise RemoteProtocolError(f"HTTP2-Settings: {fault.why}") from None
    obey_settings(session, values)
    start(session)
    stream = Stream(1, HALF_CLOSED_REMOTE, send_window=session.peer.initial_window, receive_window=session.grant)
    stream.head_received = True
    session.streams.live[1] = stream
    session.streams.highest = 1
