"""Errors of the wire codecs: a fault of ours and a fault of the peer are different types.

Not here: what to do about them. The driver that fed the bytes decides; a remote fault never kills more than
its stream, packet or connection, a local one is a bug of ours and is allowed to be loud.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Base of both sides, for code that only reports. Raise one of the two below."""


class LocalProtocolError(ProtocolError):
    """We were about to break the protocol: a caller of the codec made a mistake."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol. `status_hint`: the HTTP status that says so, if a reply is possible."""

    def __init__(self, message: str, status_hint: int = 400) -> None:
        super().__init__(message)
        self.status_hint = status_hint
