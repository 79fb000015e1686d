"""One client's socket: sends that never wait, and one task that waits for all that may happen on it.

The connection's task parks in `watch` while its answer is made elsewhere. It wakes when the client sends
something, leaves, takes bytes again after a stall, or when the maker of the answer calls `wake`. So a client
that leaves is noticed at once, and a token costs one system call and no task switch.

Plain non-blocking sockets under trio's readiness calls: trio's own streams cannot send without a checkpoint.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from collections.abc import Callable

import trio

_RECEIVE_BYTES = 65_536
_AHEAD_BYTES_MAX = 65_536  # Pipelined bytes taken in while an answer is made; then the kernel's buffer fills.
_LINGER_S = 1.0
_LINGER_BYTES_MAX = 1_048_576


class Watch(enum.Enum):
    DONE = enum.auto()
    LEFT = enum.auto()  # Closed, reset, or too slow to take what is sent.
    LATE = enum.auto()  # The deadline passed first.


class ClientSocket:
    __slots__ = ("_ahead", "_scope", "_sock", "_unsent", "_unsent_max", "left", "send_timeout_s")

    def __init__(self, sock: socket.socket, *, unsent_bytes_max: int, send_timeout_s: float) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # Reset already: the first receive will say so.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._unsent = bytearray()
        self._unsent_max = unsent_bytes_max
        self._ahead = bytearray()
        self._scope: trio.CancelScope | None = None
        self.send_timeout_s = send_timeout_s
        self.left = False

    async def receive(self) -> bytes:
        """The next bytes, those taken in ahead first; b"" once the client left."""
        if self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
            return data
        while not self.left:
            received = self._receive_now()
            if received is not None:
                return received
            await trio.lowlevel.wait_readable(self._sock)
        return b""

    def send_now(self, data: bytes) -> None:
        """Send without waiting. What the kernel does not take is kept and sent by `watch` or `drain`."""
        if self.left:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._leave()
                return
            if sent == len(data):
                return
        self._unsent += data[sent:]
        if len(self._unsent) > self._unsent_max:
            self._leave()  # It reads far slower than tokens come: dropped, like one that left.
        else:
            self.wake()

    def wake(self) -> None:
        """Have `watch` look again."""
        if self._scope is not None:
            self._scope.cancel()

    async def watch(self, done: Callable[[], bool], deadline: float) -> Watch:
        """Wait until `done()`, the client's leaving or the deadline, whichever comes first.

        Takes in pipelined bytes and sends unsent ones meanwhile.
        """
        while True:
            if self.left:
                return Watch.LEFT
            if done():
                return Watch.DONE
            if trio.current_time() >= deadline:
                return Watch.LATE
            with trio.CancelScope(deadline=deadline) as self._scope:
                if self._unsent:
                    await self._send_some()
                elif len(self._ahead) < _AHEAD_BYTES_MAX:
                    await trio.lowlevel.wait_readable(self._sock)
                    self._ahead += self._receive_now() or b""
                else:
                    await trio.sleep_forever()
            self._scope = None

    async def drain(self) -> None:
        """Wait until all is handed to the kernel, or the client left."""
        while self._unsent and not self.left:
            await self._send_some()

    async def linger(self) -> None:
        """End the sending side and take in the rest of what the client sends, within limits.

        Else the kernel answers unread bytes with a reset, which can destroy an answer still on its way.
        """
        if self.left:
            return
        with trio.move_on_after(_LINGER_S):
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                return  # Already gone.
            taken = 0
            while taken < _LINGER_BYTES_MAX:
                data = await self.receive()
                if not data:
                    break
                taken += len(data)

    def reset(self) -> None:
        """Close with a reset in place of an end."""
        with contextlib.suppress(OSError):  # Already gone: closing it is all that is left to do.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Only the connection's own task calls this: nobody may be waiting on the socket."""
        self.left = True
        self._sock.close()

    def _receive_now(self) -> bytes | None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            # An end is taken for a departure, as uvicorn does: no client of this API half-closes.
            self._leave()
        return data

    async def _send_some(self) -> None:
        with trio.move_on_after(self.send_timeout_s) as scope:
            await trio.lowlevel.wait_writable(self._sock)
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._leave()
                return
            del self._unsent[:sent]
        if scope.cancelled_caught:
            self._leave()

    def _leave(self) -> None:
        self.left = True
        self._unsent.clear()
        self.wake()
