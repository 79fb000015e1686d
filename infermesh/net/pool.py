"""Keep-alive connections to one address: a pure plan of who gets which, and the thin part that dials.

`PoolPlan` decides and never waits; `UpstreamPool` does what it says. Newest first: the connection used last is
the least likely to be stale, and the rest may idle out. Connections are bounded; callers beyond that wait
in line, under their own deadline.

Duties of the caller: a connection got from `acquire` comes back by itself when its exchange ends whole, and is
forgotten when it breaks; a caller that will not use it calls `give_back`.
"""

from __future__ import annotations

import math
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import trio

from infermesh.net.connection import ConnectionLost
from infermesh.net.dial import dial
from infermesh.net.http1.client import UpstreamConnection
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls_session import TlsSession

T = TypeVar("T")


class ConnectFailed(Exception):
    """No connection could be had; `str()` says to whom and why."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        """`timed_out`: nothing was answered, which proves nothing; else the peer, or whoever has its address, was."""
        super().__init__(message)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    connections_max: int = 1024
    idle_max: int = 64
    idle_timeout_s: float = 60.0
    connect_timeout_s: float = 2.0


# Towards one address: each costs 1 to 2 ms that nobody else gets, and 1,000 streams that open at once want as many.
# Not over all addresses together: a peer that hangs in its handshakes must not keep the others waiting.
HANDSHAKES_MAX: Final = 8


class PoolPlan(Generic[T]):
    """Which connections are idle, how many exist, how many more may. No IO, no waiting."""

    __slots__ = ("_limits", "idle", "opened")

    def __init__(self, limits: PoolLimits) -> None:
        self._limits = limits
        self.idle: deque[T] = deque()
        self.opened = 0  # Open or being opened.

    def take_idle(self) -> T | None:
        return self.idle.pop() if self.idle else None

    def may_open(self) -> bool:
        return self.opened < self._limits.connections_max

    def put(self, connection: T) -> T | None:
        """Keep an idle connection; returns the one that must be closed to stay within `idle_max`."""
        self.idle.append(connection)
        return self.idle.popleft() if len(self.idle) > self._limits.idle_max else None

    def drop(self, connection: T) -> None:
        """A connection is closed: idle or not, it counts no more."""
        self.opened -= 1
        assert self.opened >= 0, "a connection was dropped twice"
        if connection in self.idle:
            self.idle.remove(connection)


class Secure(Protocol):
    """TLS towards one peer: how a side is made, who may answer, and what to keep for the next handshake."""

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject: ...
    def admit(self, tls: TlsSession) -> None:
        """Raises PeerRefused. May set `tls.retire_at`."""

    def remember(self, tls: TlsSession) -> None: ...
    def failed(self, why: str) -> None:
        """A handshake ended without a peer that was admitted."""


class UpstreamPool:
    """Connections to `host:port`, in plain TCP or over TLS."""

    def __init__(
        self,
        address: tuple[str, int],
        reactor: Reactor,
        timers: Timers,
        *,
        limits: PoolLimits,
        secure: Secure | None = None,
    ) -> None:
        self._address = address
        self._reactor = reactor
        self._timers = timers
        self._limits = limits
        self._secure = secure
        self._handshakes = trio.CapacityLimiter(HANDSHAKES_MAX)
        self._plan: PoolPlan[UpstreamConnection] = PoolPlan(limits)
        self._members: set[UpstreamConnection] = set()
        self._freed = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def open_len(self) -> int:
        return self._plan.opened

    @property
    def idle_len(self) -> int:
        return len(self._plan.idle)

    def take_idle(self) -> UpstreamConnection | None:
        """A connection at once, or None. The fast path: no checkpoint."""
        return self._plan.take_idle()

    async def acquire(self, deadline: float, *, fresh: bool = False) -> UpstreamConnection:
        """A connection, new if need be or if `fresh`. Raises ConnectFailed by `deadline` (monotonic seconds)."""
        host, port = self._address
        with trio.move_on_at(deadline):
            while True:
                if self._closed:
                    raise ConnectFailed(f"the pool of {host}:{port} is closed")
                if fresh and not self._plan.may_open() and (idle := self._plan.take_idle()) is not None:
                    idle.close()  # It makes room: to this caller it is of no other use.
                    self.forget(idle)
                connection = None if fresh else self._plan.take_idle()
                if connection is not None:
                    return connection
                if self._plan.may_open():
                    return await self._open(min(deadline, trio.current_time() + self._limits.connect_timeout_s))
                await self._freed.park()
        raise ConnectFailed(
            f"no free connection to {host}:{port} in time: all {self._plan.opened} are busy (connections_max)",
            timed_out=True,
        )

    async def _open(self, deadline: float) -> UpstreamConnection:
        self._plan.opened += 1
        connection: UpstreamConnection | None = None
        try:
            sock = await dial(self._address, deadline)
            connection = UpstreamConnection(sock, self._reactor, self._timers, self)
            self._members.add(connection)
            if self._secure is not None:
                async with self._handshakes:
                    await connection.handshake(TlsSession(self._secure.wrap), deadline, self._secure.admit)
            return connection
        except BaseException as error:
            if connection is None:
                self._plan.opened -= 1
                self._freed.unpark()
            else:
                connection.abort()
                self.forget(connection)
                if isinstance(error, ConnectionLost) and self._secure is not None:
                    self._secure.failed(str(error))
            if isinstance(error, ConnectionLost | OSError):
                host, port = self._address
                late = trio.current_time() >= deadline
                raise ConnectFailed(f"cannot connect to {host}:{port}: {error}", timed_out=late) from error
            raise

    def give_back(self, up: UpstreamConnection) -> None:
        now = self._timers.now()
        retire_at = up.tls.retire_at if up.tls is not None else math.inf
        if self._closed or up.closed or now >= retire_at:
            up.close()
            self.forget(up)
            return
        if up.exchanges == 1 and up.tls is not None and self._secure is not None:
            # The ticket came after the handshake, with or before the first answer.
            self._secure.remember(up.tls)
        surplus = self._plan.put(up)
        self._timers.arm(up, min(now + self._limits.idle_timeout_s, retire_at))
        if surplus is not None:
            surplus.close()
            self.forget(surplus)
        self._freed.unpark()

    def forget(self, up: UpstreamConnection) -> None:
        """A connection is closed. Called once or more for each; only the first counts."""
        if up in self._members:
            self._members.remove(up)
            self._plan.drop(up)
            self._freed.unpark()

    def doubt(self, why: str) -> None:
        """The peer is held for dead: what idles is stale for certain, and exchanges are told (`on_doubt`)."""
        for up in list(self._plan.idle):
            up.close()
            self.forget(up)
        for up in list(self._members):
            up.doubt(why)

    def close(self) -> None:
        """Close everything; exchanges under way are told. The pool opens no more."""
        self._closed = True
        for up in list(self._members):
            up.lose("its pool was closed")
        self._freed.unpark_all()
