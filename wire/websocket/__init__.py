"""WebSocket as bytes (RFC 6455, with RFC 7692 and RFC 8441), seen by its server, without sockets or time.

`handshake` reads the request that wants one and writes the fields of the answer. `machine` is what follows: frames in,
messages out, and the frames to send. `deflate` holds permessage-deflate, `bounds` what keeps a peer within its limits.
Frames are decoded by wsproto; the limits, the inflation and the frames that go out are ours.
"""

from wire.websocket.codes import CloseCode, may_be_sent
from wire.websocket.deflate import DeflateConfig, DeflateTerms, agree
from wire.websocket.events import CloseReceived, Event, MessageReceived, PeerFailed, PingReceived, PongReceived
from wire.websocket.handshake import (
    HandshakeRefused,
    Opening,
    accept_fields,
    check_connect,
    check_upgrade,
    is_same_origin,
    wants_websocket,
)
from wire.websocket.machine import FRAMES_PER_CALL_MAX, WebSocketLimits, WebSocketMachine

__all__ = [
    "FRAMES_PER_CALL_MAX",
    "CloseCode",
    "CloseReceived",
    "DeflateConfig",
    "DeflateTerms",
    "Event",
    "HandshakeRefused",
    "MessageReceived",
    "Opening",
    "PeerFailed",
    "PingReceived",
    "PongReceived",
    "WebSocketLimits",
    "WebSocketMachine",
    "accept_fields",
    "agree",
    "check_connect",
    "check_upgrade",
    "is_same_origin",
    "may_be_sent",
    "wants_websocket",
]
