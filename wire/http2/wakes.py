"""What happens when a wait of the connection is over: a fault of the peer, a drain that goes on, a look at stalls.

The watch on stalled streams has no alarm of its own for each: while content waits for windows, all streams are looked
at every quarter of `stalled_s`, so that a stall is found that much late.
"""

from __future__ import annotations

from typing import Final, assert_never

from wire.http2.alarms import Alarm
from wire.http2.events import Event
from wire.http2.faults import HEADER_BLOCK_TIMEOUT, PREFACE_TIMEOUT, SETTINGS_TIMEOUT, ConnectionFault
from wire.http2.frames import ErrorCode
from wire.http2.session import Session

_LOOKS: Final = 4


def on_alarms(session: Session, events: list[Event]) -> None:
    """It is `session.now`. Raises ConnectionFault."""
    for alarm in session.alarms.due(session.now):
        _on_alarm(session, alarm)
    if session.drain_untimed:
        session.drain_untimed = False
        session.alarms.set(Alarm.DRAIN, session.now + session.config.drain_s)
    # Either the time for a look has come, or content began to wait and nobody knew the time.
    if session.outbox.blocked and not session.alarms.is_set(Alarm.STALL):
        _look_for_stalls(session, events)


def _on_alarm(session: Session, alarm: Alarm) -> None:
    config = session.config
    match alarm:
        case Alarm.PREFACE:
            why = f"no preface and SETTINGS within {config.preface_s:g} s (preface_s)"
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, PREFACE_TIMEOUT, why)
        case Alarm.FRAME | Alarm.HEADER_BLOCK:
            why = f"a frame or a header block not whole within {config.header_block_s:g} s (header_block_s)"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, HEADER_BLOCK_TIMEOUT, why)
        case Alarm.SETTINGS_ACK:
            why = f"SETTINGS not acknowledged within {config.settings_ack_s:g} s (settings_ack_s)"
            raise ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, SETTINGS_TIMEOUT, why)
        case Alarm.DRAIN:
            session.settle_drain()
        case Alarm.STALL:
            pass  # Cleared by now, which is what `on_alarms` looks at.
        case _:
            assert_never(alarm)


def _look_for_stalls(session: Session, events: list[Event]) -> None:
    stalled_s = session.config.stalled_s
    session.ledger.turn(session.now)
    for stream in session.outbox.stalled(session.now):
        why = f"its windows let nothing out for {stalled_s:g} s (stalled_s)"
        session.fail_stream(stream.stream_id, ErrorCode.ENHANCE_YOUR_CALM, why, events)
    if session.outbox.blocked:
        session.alarms.set(Alarm.STALL, session.now + stalled_s / _LOOKS)
