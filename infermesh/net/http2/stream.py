"""What a stream of either side does: send with back-pressure, and give credit for what was consumed.

Credit that is withheld is how a slow reader slows its peer: while a stream is `paused`, what is consumed is kept on
account, and the peer may send no more than its window. Every byte that came is given back exactly once, at the latest
when the stream ends: the connection's window is everybody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from infermesh.net.connection import BACKLOG_HIGH_BYTES, ConnectionLost
from wire.http1 import Field

if TYPE_CHECKING:
    from infermesh.net.http2.endpoint import Http2Endpoint

# Above this much unsent output of one stream its source is no longer read; below the other it is read again.
QUEUED_HIGH_BYTES: Final = 65_536
QUEUED_LOW_BYTES: Final = 16_384


class Source(Protocol):
    """Where a stream's output comes from: a connection, or another stream."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Http2Stream:
    __slots__ = (
        "_consumed",
        "_held_back",
        "_owed",
        "_room",
        "_sent_end",
        "_source",
        "closed",
        "endpoint",
        "paused",
        "said_head",
        "stream_id",
    )

    def __init__(self, endpoint: Http2Endpoint, stream_id: int) -> None:
        self.endpoint = endpoint
        self.stream_id = stream_id
        self.closed = False
        self.paused = False
        self._owed = 0  # Came and was not given back.
        self._consumed = 0  # Of those, the ones that were consumed while paused.
        self._held_back = False
        self._sent_end = False
        self.said_head = False
        self._source: Source | None = None
        self._room: trio.Event | None = None

    # --- sending ---

    @property
    def said_all(self) -> bool:
        """Our side has ended; nothing can be added."""
        return self._sent_end or self.closed

    @property
    def queued_bytes(self) -> int:
        """Output that waits: for the peer's window, or for its turn."""
        return 0 if self.closed else self.endpoint.machine.queued_bytes(self.stream_id)

    def send_head(self, fields: list[Field], *, end: bool = False) -> None:
        """A head, pseudo fields first; also an interim one."""
        if not self.closed:
            self._sent_end = end
            self.said_head = fields[0][1][:1] != b"1"  # An interim head says nothing yet.
            endpoint = self.endpoint
            endpoint.machine.send_headers(self.stream_id, fields, end_stream=end)
            if not endpoint.flush_due:
                endpoint.flush_soon()

    def send_data(self, data: bytes, *, end: bool = False, source: Source | None = None) -> None:
        """Send, or keep what the peer does not take; then `source`, whose bytes these are, is paused."""
        if self.closed:
            return
        endpoint = self.endpoint
        self._sent_end = end
        queued_bytes = endpoint.machine.send_data(self.stream_id, data, end_stream=end)
        if not endpoint.flush_due:
            endpoint.flush_soon()
        if queued_bytes > QUEUED_HIGH_BYTES or endpoint.backlog_len > BACKLOG_HIGH_BYTES:
            self._hold_back(source)

    def send_trailers(self, fields: list[Field]) -> None:
        """They follow the data that still waits, and end what we say."""
        if not self.closed:
            self._sent_end = True
            endpoint = self.endpoint
            endpoint.machine.send_headers(self.stream_id, fields, end_stream=True)
            if not endpoint.flush_due:
                endpoint.flush_soon()

    async def drain(self) -> None:
        """Wait until what is queued is low. Raises ConnectionLost when it never will be."""
        while self._held_back and not self.closed:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()
        if self.closed:
            raise ConnectionLost("the stream was closed while sending")

    def _hold_back(self, source: Source | None) -> None:
        if self.closed:  # Sending has found the connection broken.
            return
        self._held_back = True
        self.endpoint.hold_back(self)
        if source is not None:
            self._source = source
            source.pause()

    def release_if_low(self) -> None:
        if self.endpoint.machine.queued_bytes(self.stream_id) <= QUEUED_LOW_BYTES:
            self._release()
            self.on_room()

    def _release(self) -> None:
        if self._held_back:
            self._held_back = False
            self.endpoint.forget_held_back(self)
        room, self._room = self._room, None
        if room is not None:
            room.set()
        source, self._source = self._source, None
        if source is not None:
            try:
                source.resume()
            except Exception as error:  # noqa: BLE001 - the source's defect, which must not stop the end of this one.
                self.endpoint.reactor.report(error)

    def on_room(self) -> None:
        """Output was held back and is low again."""

    # --- receiving ---

    def credit(self, flow_bytes: int) -> None:
        """So many bytes are consumed. After the end there is nothing left to give back."""
        if self.closed:
            return
        if self.paused:
            self._consumed += flow_bytes
            return
        assert flow_bytes <= self._owed, "more is given back than came"
        self._owed -= flow_bytes
        if flow_bytes and self.endpoint.machine.credit(self.stream_id, flow_bytes):
            self.endpoint.flush_soon()

    def pause(self) -> None:
        if not self.closed:
            self.paused = True

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            consumed, self._consumed = self._consumed, 0
            if consumed:
                self.credit(consumed)

    # --- ending ---

    def _close(self) -> None:
        """Nothing is sent or taken from now on; accounts are settled."""
        self.closed = True
        self.paused = False
        owed, self._owed = self._owed, 0
        if self._held_back:
            self._release()
        if owed and not self.endpoint.closed and self.endpoint.machine.credit(self.stream_id, owed):
            self.endpoint.flush_soon()
