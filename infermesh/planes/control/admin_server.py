"""Serve the admin application with hypercorn, such that nothing in it can end the daemon or outlive it.

A fault inside hypercorn is logged and the server started again on the same socket, which stays open meanwhile, so
that scrapers wait instead of failing. hypercorn sends under a shield: a reader that stops reading would hold up a
cancellation for ever, so the kernel is told to drop such connections (TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config, Sockets
from starlette.types import ASGIApp

from infermesh.core.model.nodes import Address
from infermesh.net.listener import listen
from infermesh.observe.logs import Logger
from infermesh.planes.control.admin import AdminSources, admin_app

Serve = Callable[[ASGIApp, Config], Awaitable[None]]


class AdminServing(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. `restart_first_s` doubles with each fault in a row up to `restart_longest_s`."""

    idle_timeout_s: float = 15.0  # Also from accept to the end of the first head.
    read_timeout_s: int = 30
    stalled_reader_s: float = 3.0  # Without a byte acknowledged.
    grace_s: float = 1.0
    restart_first_s: float = 0.1
    restart_longest_s: float = 5.0


class _Config(Config):
    """hypercorn's settings, with our own socket: it closes what it is given, so it gets a duplicate."""

    def __init__(self, listener: socket.socket, serving: AdminServing) -> None:
        self._listener = listener
        self.errorlog = logging.getLogger("hypercorn.error")
        self.errorlog.setLevel(logging.WARNING)
        self.accesslog = None
        self.include_server_header = False
        self.keep_alive_timeout = serving.idle_timeout_s
        self.read_timeout = serving.read_timeout_s
        self.graceful_timeout = serving.grace_s
        self.startup_timeout = self.shutdown_timeout = 5.0
        self.h11_max_incomplete_size = 16 * 1024
        self.websocket_max_message_size = 1024

    def create_sockets(self) -> Sockets:
        return Sockets([], [self._listener.dup()], [])


async def serve_admin(
    address: Address,
    sources: AdminSources,
    log: Logger,
    *,
    serving: AdminServing | None = None,
    serve: Serve | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; reports the bound (host, port). Raises ListenFailed before, and nothing after, that."""
    serving = serving if serving is not None else AdminServing()
    app = admin_app(sources)
    with listen(address.host, address.port) as listener:
        # Inherited by every accepted connection.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(serving.stalled_reader_s * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = listener.getsockname()[:2]
        task_status.started((str(host), int(port)))
        await _serve_for_ever(app, _Config(listener, serving), serving, log, serve or run_hypercorn)


async def run_hypercorn(app: ASGIApp, config: Config) -> None:
    await hypercorn.trio.serve(app, config, mode="asgi")  # type: ignore[arg-type]


async def _serve_for_ever(app: ASGIApp, config: Config, serving: AdminServing, log: Logger, serve: Serve) -> None:
    wait_s = serving.restart_first_s
    while True:
        began = trio.current_time()
        try:
            await serve(app, config)
            log.error("admin_server_ended", ran_s=round(trio.current_time() - began, 3))
        except* Exception as faults:
            # The task's edge: whatever happens to the admin port, requests must go on being served.
            log.error("admin_server_failed", ran_s=round(trio.current_time() - began, 3), exc_info=faults)
        if trio.current_time() - began > serving.restart_longest_s:
            wait_s = serving.restart_first_s
        await trio.sleep(wait_s)
        wait_s = min(wait_s * 2, serving.restart_longest_s)
