"""What a WebSocket's bytes mean to whoever holds it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class MessageReceived(msgspec.Struct, frozen=True, gc=False):
    """One whole message. Text is valid UTF-8."""

    data: bytes
    text: bool


class PingReceived(msgspec.Struct, frozen=True, gc=False):
    """To be answered by a pong with the same payload."""

    payload: bytes


class PongReceived(msgspec.Struct, frozen=True, gc=False):
    payload: bytes


class CloseReceived(msgspec.Struct, frozen=True, gc=False):
    """The peer says nothing more. To be answered by `close`, unless we have closed. `code`: 1005 when it gave none."""

    code: int
    reason: str


class PeerFailed(msgspec.Struct, frozen=True, gc=False):
    """The peer broke the protocol or a limit; nothing more is read. To be answered by `close(code, why)`."""

    code: int
    why: str


Event: TypeAlias = "MessageReceived | PingReceived | PongReceived | CloseReceived | PeerFailed"
