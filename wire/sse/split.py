"""A stream of server-sent events taken apart: the data of each event, whole, as it comes.

For whoever passes events on in another framing, a WebSocket's messages. Only `data` is kept: names, ids, comments and
retry times have no place there. Events are not decoded, whatever their data is.

Not for relays of HTTP: those pass the bytes on.
"""

from __future__ import annotations

from wire.errors import RemoteProtocolError
from wire.limits import SSE_EVENT_BYTES_MAX


class EventSplitter:
    """One stream's. What it keeps is the event under way, at most SSE_EVENT_BYTES_MAX."""

    __slots__ = ("_begun", "_held_cr")

    def __init__(self) -> None:
        self._begun = b""
        self._held_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that end in these bytes. Raises RemoteProtocolError for one that is too long."""
        if self._held_cr or b"\r" in data:
            data = self._lines_by_lf(data)
        buffer = self._begun + data if self._begun else data
        parts = buffer.split(b"\n\n")
        self._begun = begun = parts.pop()
        if len(begun) > SSE_EVENT_BYTES_MAX:
            raise RemoteProtocolError(f"an event of more than {SSE_EVENT_BYTES_MAX} bytes")
        events: list[bytes] = []
        for part in parts:
            if part.startswith(b"data: ") and b"\n" not in part:
                events.append(part[6:])  # As every runtime writes them.
            else:
                found = _data_of(part)
                if found is not None:
                    events.append(found)
        return events

    def _lines_by_lf(self, data: bytes) -> bytes:
        """CR LF, or CR alone, ends a line too; one at the end is held until it is known which."""
        if self._held_cr:
            data = b"\r" + data
        self._held_cr = data.endswith(b"\r")
        if self._held_cr:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data_of(event: bytes) -> bytes | None:
    """The data of one event; None when it has none (a comment that keeps a connection alive)."""
    lines: list[bytes] = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
