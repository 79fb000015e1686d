"""Streams to one address over few HTTP/2 connections: a pure plan of which connection, and the part that dials.

The oldest connection with room is used, so that the others may idle out; another one is opened when all are at the
peer's limit. Whoever needs one while it is being opened waits for it, and shares its fate when it fails. A connection
that the peer wants to end (GOAWAY), or whose peer's certificate has ended, finishes what it has and gets nothing new.

Duties of the caller: a stream got from here is opened or released.
"""

from __future__ import annotations

import socket
from typing import Final, Generic, Protocol, TypeVar

import trio

from infermesh.core.trust import Refusal, RefusalReason
from infermesh.net.connection import ConnectionLost
from infermesh.net.dial import dial
from infermesh.net.http2.client import CLIENT_CONFIG, Http2ClientConnection
from infermesh.net.http2.client_stream import Http2UpstreamStream
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.pool import ConnectFailed, PoolLimits, Secure
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import HTTP2_ALPN, PeerRefused
from infermesh.net.tls_session import TlsSession
from wire.http2.config import Http2Config

# What a peer is taken to allow until it has said so (RFC 9113 section 6.5.2 recommends no less).
_STREAMS_EXPECTED: Final = 100
_PING_AFTER_LONGEST_S: Final = 7200.0


class Roomy(Protocol):
    """What the plan knows of a connection."""

    @property
    def room(self) -> int: ...
    @property
    def serial(self) -> int: ...


T = TypeVar("T", bound=Roomy)


class Http2PoolPlan(Generic[T]):
    """Which connection gets the next stream, and whether another one may be opened. No IO, no waiting."""

    __slots__ = ("_connections_max", "members", "opening")

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self.members: list[T] = []  # Open and taking streams, oldest first.
        self.opening = 0

    def pick(self, serial_min: int = 0) -> T | None:
        for member in self.members:
            if member.serial >= serial_min and member.room > 0:
                return member
        return None

    def may_open(self) -> bool:
        return len(self.members) + self.opening < self._connections_max

    def drop(self, connection: T) -> None:
        if connection in self.members:
            self.members.remove(connection)


class _Opening:
    """A connection under way, and who waits for it."""

    __slots__ = ("done", "failure", "serial", "timed_out", "waiters")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.waiters = 1
        self.failure = ""
        self.timed_out = False  # The failure: nothing was answered.
        self.done = trio.Event()


class Http2Pool:
    """Streams to `host:port`, in plain TCP with prior knowledge, or over TLS with ALPN `h2`."""

    def __init__(
        self,
        address: tuple[str, int],
        reactor: Reactor,
        timers: Timers,
        *,
        limits: PoolLimits,
        secure: Secure | None = None,
        config: Http2Config = CLIENT_CONFIG,
        times: EndpointTimes | None = None,
    ) -> None:
        """`times`: for pings and for output that is not taken; the idle time is that of `limits`."""
        self._address = address
        self._reactor = reactor
        self._timers = timers
        self._limits = limits
        self._secure = secure
        self._config = config
        times = times or EndpointTimes()
        self._send_timeout_s = times.send_timeout_s
        self._ping_timeout_s = times.ping_timeout_s
        self._ping_after_s = times.ping_after_s
        self._plan: Http2PoolPlan[Http2ClientConnection] = Http2PoolPlan(limits.connections_max)
        self._all: dict[Http2ClientConnection, None] = {}  # Those that retire among them.
        self._openings: list[_Opening] = []
        self._freed = trio.lowlevel.ParkingLot()
        self._serial = 0
        self._closed = False

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    @property
    def open_len(self) -> int:
        """Connections, open or being opened."""
        return len(self._all) + len(self._openings)

    @property
    def sockets(self) -> int:
        """Connections that have a socket in the reactor."""
        return len(self._all)

    @property
    def idle_len(self) -> int:
        return sum(connection.idle for connection in self._all)

    def take_idle(self) -> Http2UpstreamStream | None:
        """A stream at once, or None. The fast path: no checkpoint."""
        connection = self._plan.pick()
        return None if connection is None else connection.reserve()

    async def acquire(self, deadline: float, *, fresh: bool = False) -> Http2UpstreamStream:
        """A stream; if `fresh`, of a connection opened from now on. Raises ConnectFailed by `deadline`."""
        host, port = self._address
        serial_min = self._serial + 1 if fresh else 0
        with trio.move_on_at(deadline):
            while True:
                if self._closed:
                    raise ConnectFailed(f"the pool of {host}:{port} is closed")
                connection = self._plan.pick(serial_min)
                if connection is not None:
                    return connection.reserve()
                opening = self._opening_for(serial_min)
                if opening is not None:
                    opening.waiters += 1
                    await opening.done.wait()
                    if opening.failure:
                        raise ConnectFailed(opening.failure, timed_out=opening.timed_out)
                elif self._plan.may_open():
                    await self._open()
                else:
                    await self._freed.park()
        raise ConnectFailed(
            f"no free stream to {host}:{port} in time: {self.open_len} connections are busy or not there yet "
            "(connections_max)",
            timed_out=True,
        )

    def _opening_for(self, serial_min: int) -> _Opening | None:
        for opening in self._openings:
            if opening.serial >= serial_min and opening.waiters < _STREAMS_EXPECTED:
                return opening
        return None

    async def _open(self) -> None:
        self._serial += 1
        opening = _Opening(self._serial)
        self._openings.append(opening)
        self._plan.opening += 1
        connection: Http2ClientConnection | None = None
        deadline = trio.current_time() + self._limits.connect_timeout_s
        try:
            sock = await dial(self._address, deadline)
            if self._closed:
                sock.close()
                raise ConnectionLost("its pool was closed")
            connection = self._connection(sock, opening.serial)
            self._all[connection] = None
            if self._secure is None:
                connection.begin()
            else:
                await connection.handshake(TlsSession(self._secure.wrap), deadline, self._admit)
            if connection.closed:
                raise ConnectionLost("closed at its first word")
            self._plan.members.append(connection)
        except BaseException as error:
            if connection is not None:
                connection.abort()
                if isinstance(error, ConnectionLost) and self._secure is not None:
                    self._secure.failed(str(error))
            if isinstance(error, ConnectionLost | OSError):
                host, port = self._address
                opening.failure = f"cannot connect to {host}:{port}: {error}"
                opening.timed_out = trio.current_time() >= deadline
                raise ConnectFailed(opening.failure, timed_out=opening.timed_out) from error
            raise
        finally:
            self._openings.remove(opening)
            self._plan.opening -= 1
            opening.done.set()
            self._freed.unpark_all()

    def _admit(self, tls: TlsSession) -> None:
        assert self._secure is not None
        self._secure.admit(tls)
        protocol = tls.object.selected_alpn_protocol()
        if protocol != HTTP2_ALPN:
            raise PeerRefused(Refusal(RefusalReason.PROTOCOL, f"negotiated {protocol}, required {HTTP2_ALPN!r} (ALPN)"))

    def _connection(self, sock: socket.socket, serial: int) -> Http2ClientConnection:
        times = EndpointTimes(
            idle_timeout_s=self._limits.idle_timeout_s,
            send_timeout_s=self._send_timeout_s,
            ping_after_s=self._ping_after_s,
            ping_timeout_s=self._ping_timeout_s,
        )
        return Http2ClientConnection(
            sock, self._reactor, self._timers, self, config=self._config, times=times, serial=serial
        )

    # --- what connections tell ---

    def has_room(self, connection: Http2ClientConnection) -> None:
        if self._freed:
            self._freed.unpark(count=connection.room)

    def answered(self, connection: Http2ClientConnection) -> None:
        if connection.tls is not None and self._secure is not None:
            # The ticket came after the handshake, with or before the first answer.
            self._secure.remember(connection.tls)

    def forget(self, connection: Http2ClientConnection) -> None:
        self._plan.drop(connection)
        if connection.pinged_too_often:
            # Proposal A8 of gRPC: a client that is told so waits twice as long from then on.
            self._ping_after_s = min(2 * self._ping_after_s, _PING_AFTER_LONGEST_S)
            connection.pinged_too_often = False
        if connection.closed and self._all.pop(connection, self) is None:
            self._freed.unpark()

    def give_back(self, up: Http2UpstreamStream) -> None:
        """It was not used."""
        up.release()

    def doubt(self, why: str) -> None:
        """The peer is held for dead: what idles is stale for certain, and exchanges are told (`on_doubt`)."""
        for connection in list(self._all):
            if connection.idle:
                connection.lose(why)
            else:
                connection.doubt(why)

    def drop_all(self, why: str) -> None:
        """Close every connection; exchanges under way are told. Whoever asks next gets a new one."""
        for connection in list(self._all):
            connection.lose(why)

    def close(self) -> None:
        """Close everything; exchanges under way are told. The pool opens no more."""
        self._closed = True
        self.drop_all("its pool was closed")
        self._freed.unpark_all()
