"""Faults of a peer, as exceptions that never leave this package (RFC 9113 section 5.4).

Raised by whatever reads a frame, caught once by the connection: a StreamFault costs the peer its stream, a
ConnectionFault the connection.
"""

from __future__ import annotations

from typing import Final

from wire.http2.frames import ErrorCode

# Labels of a metric: closed, and few. Those of the abuse ledger are in wire.http2.abuse.
PROTOCOL: Final = "protocol"
FRAME_SIZE: Final = "frame_size"
FLOW_CONTROL: Final = "flow_control"
STREAM_CLOSED: Final = "stream_closed"
COMPRESSION: Final = "compression"
HEADER_LIST: Final = "header_list"  # A header block of far too many fields.
PREFACE_TIMEOUT: Final = "preface_timeout"
HEADER_BLOCK_TIMEOUT: Final = "header_block_timeout"
SETTINGS_TIMEOUT: Final = "settings_timeout"
CONTINUATIONS: Final = "continuations"  # A header block without end.
UNSENT_CONTROL: Final = "unsent_control"  # Answers that the peer provokes and does not read.
FAULT_REASONS: Final = (
    PROTOCOL,
    FRAME_SIZE,
    FLOW_CONTROL,
    STREAM_CLOSED,
    COMPRESSION,
    HEADER_LIST,
    PREFACE_TIMEOUT,
    HEADER_BLOCK_TIMEOUT,
    SETTINGS_TIMEOUT,
    CONTINUATIONS,
    UNSENT_CONTROL,
)


class ConnectionFault(Exception):
    def __init__(self, code: ErrorCode, reason: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.reason = reason
        self.why = why


class StreamFault(Exception):
    def __init__(self, stream_id: int, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.stream_id = stream_id
        self.code = code
        self.why = why


def protocol_fault(why: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, PROTOCOL, why)


def frame_size_fault(why: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, FRAME_SIZE, why)


def flow_fault(why: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, FLOW_CONTROL, why)


def closed_fault(why: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.STREAM_CLOSED, STREAM_CLOSED, why)
