"""Accept TCP connections and give each to a task of its own, within a bound.

The listening socket is waited on by trio, not by the reactor: accepting opens descriptors, and those must not
appear inside a reactor's batch. At the bound the newest connection is told so and closed; one that cannot be
accepted for want of descriptors is left in the kernel's queue for a moment.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from trio.lowlevel import wait_readable

_BACKLOG: Final = 4096
_ACCEPTS_PER_TURN: Final = 64
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_DESCRIPTORS_WAIT_S: Final = 0.1


class ListenFailed(Exception):
    """The address cannot be listened on; `str()` says which and why."""


def listen(host: str, port: int) -> socket.socket:
    """A listening non-blocking socket; port 0 lets the kernel choose. Raises ListenFailed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sock


class Listener:
    """One listening socket and the count of what it has accepted and not yet seen closed."""

    def __init__(
        self,
        sock: socket.socket,
        serve: Callable[[socket.socket], Awaitable[None]],
        *,
        connections_max: int,
        turned_away: bytes,
        on_turned_away: Callable[[], None],
    ) -> None:
        host, port = sock.getsockname()[:2]
        self._address = (str(host), int(port))
        self._sock = sock
        self._serve = serve
        self._connections_max = connections_max
        self._turned_away = turned_away
        self._on_turned_away = on_turned_away
        self.connections = 0
        self._accepting = trio.CancelScope()

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    async def run(self) -> None:
        """Accept until `close` or cancellation; cancelling ends the connections' tasks as well."""
        with self._sock:
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    while True:
                        await wait_readable(self._sock)
                        await self._accept_some(nursery)
                self._sock.close()

    def close(self) -> None:
        """Take no further connection; those that are open go on."""
        self._accepting.cancel()

    async def _accept_some(self, nursery: trio.Nursery) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    await trio.sleep(_NO_DESCRIPTORS_WAIT_S)
                    return
                continue  # The client was gone before it was accepted (ECONNABORTED and its kin).
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.connections >= self._connections_max:
                self._turn_away(sock)
                continue
            self.connections += 1
            nursery.start_soon(self._serve_one, sock)

    async def _serve_one(self, sock: socket.socket) -> None:
        try:
            await self._serve(sock)
        finally:
            self.connections -= 1
            sock.close()

    def _turn_away(self, sock: socket.socket) -> None:
        self._on_turned_away()
        with sock:
            try:
                sock.send(self._turned_away)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                return  # It left by itself.
