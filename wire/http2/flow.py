"""Flow-control windows (RFC 9113 section 5.2): what may be sent, what the peer may send, what is to be given back.

A connection has one `Windows`, and every stream is one. Credit follows consumption, byte by byte and not message
by message, and is announced when half a window has come together: a peer on a long path never stands still, and a
small message costs no frame. Not here: who consumes.
"""

from __future__ import annotations

from wire.http2.frames import WINDOW_MAX


class Windows:
    __slots__ = ("receive_window", "send_window", "uncredited")

    def __init__(self, send_window: int, receive_window: int) -> None:
        self.send_window = send_window  # May be negative after the peer shrank its initial window (section 6.9.2).
        self.receive_window = receive_window  # What the peer may still send.
        self.uncredited = 0  # Consumed, but not announced yet.

    def give_back(self, flow_bytes: int, step_bytes: int) -> int:
        """Bytes were consumed. Returns the increment to announce now, or 0 while less than `step_bytes`."""
        due = self.uncredited + flow_bytes
        if due < step_bytes:
            self.uncredited = due
            return 0
        self.uncredited = 0
        self.receive_window += due
        return due

    def widen(self, increment: int) -> bool:
        """The peer lets us send more. False when the window would pass its maximum (section 6.9.1)."""
        self.send_window += increment
        return self.send_window <= WINDOW_MAX


def step_of(window_bytes: int) -> int:
    """How much is gathered before it is announced; a window of 1 byte is given back byte by byte."""
    return max(window_bytes // 2, 1)
