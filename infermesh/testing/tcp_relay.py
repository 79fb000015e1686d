"""A network between two nodes that a test can break: bytes pass through, until it is told to misbehave.

Each connection goes to whatever `target` is when it comes in, so a test can let one connection meet a good node and
the next one an impostor. Plain TCP: TLS passes through unread. Not for load: every byte costs a task switch.
"""

from __future__ import annotations

import enum
import socket
import struct
from functools import partial

import trio

_RECEIVE_BYTES = 65_536


class RelayMode(enum.Enum):
    """What happens to the next connections; those that are open go on."""

    PASS = enum.auto()
    SILENT = enum.auto()  # Taken, and never a byte comes back.
    RESET = enum.auto()  # Taken, and reset as soon as the first byte arrives.
    CLOSE = enum.auto()  # Taken, and closed in good order as soon as the first byte arrives.


class TcpRelay:
    """A listening relay. `target`, `mode` and `stop_after_bytes` may be changed at any time."""

    def __init__(self, listener: trio.SocketListener, target: tuple[str, int]) -> None:
        host, port = listener.socket.getsockname()[:2]
        self.address = (str(host), int(port))
        self.listening = trio.CancelScope()
        self.closed = trio.Event()  # It listens no more.
        self.target = target
        self.mode = RelayMode.PASS
        self.connections = 0  # Open ones.
        self.taken = 0  # Ever.
        self.stop_after_bytes: int | None = None  # Of what comes back, per connection: then silence.
        self._open: dict[int, trio.SocketStream] = {}

    def refuse(self) -> None:
        """Listen no more, for good: whoever dials is refused. What is open goes on."""
        self.listening.cancel()

    def cut(self) -> None:
        """Reset every open connection, on the side that dialled."""
        for stream in self._open.values():
            _reset(stream)

    async def serve(self, near: trio.SocketStream) -> None:
        self.connections += 1
        self.taken += 1
        number = self.taken
        self._open[number] = near
        try:
            match self.mode:
                case RelayMode.PASS:
                    await self._pass(near)
                case RelayMode.SILENT:
                    await _drink(near)
                case _:
                    await near.receive_some(_RECEIVE_BYTES)
                    if self.mode is RelayMode.RESET:
                        _reset(near)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Either side went away, or `cut` was called: both are what this is for.
        finally:
            self.connections -= 1
            del self._open[number]
            await trio.aclose_forcefully(near)

    async def _pass(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(*self.target)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(self._pump, near, far, nursery.cancel_scope, back=False))
                nursery.start_soon(partial(self._pump, far, near, nursery.cancel_scope, back=True))
        finally:
            await trio.aclose_forcefully(far)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, whole: trio.CancelScope, *, back: bool
    ) -> None:
        passed = 0
        try:
            while data := bytes(await source.receive_some(_RECEIVE_BYTES)):
                if back and self.stop_after_bytes is not None:
                    data = data[: max(0, self.stop_after_bytes - passed)]
                passed += len(data)
                if data:
                    await sink.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            _reset(sink)  # A reset on one side is one on the other.
        whole.cancel()


async def serve_tcp_relay(
    target: tuple[str, int], *, task_status: trio.TaskStatus[TcpRelay] = trio.TASK_STATUS_IGNORED
) -> None:
    """Listen on a free port of the loopback until cancelled. `await nursery.start(serve_tcp_relay, target)`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    relay = TcpRelay(listeners[0], target)
    task_status.started(relay)
    async with trio.open_nursery() as connections:
        with relay.listening:
            await trio.serve_listeners(relay.serve, listeners, handler_nursery=connections)
        listeners[0].socket.close()
        relay.closed.set()


async def _drink(stream: trio.SocketStream) -> None:
    while await stream.receive_some(_RECEIVE_BYTES):
        pass


def _reset(stream: trio.SocketStream) -> None:
    if stream.socket.fileno() < 0:
        return  # Closed already.
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
