"""A non-blocking socket in the reactor: reading, writing with a backlog, back-pressure, TLS, one parked task.

What it is: bytes in by `on_bytes` (a subclass's), bytes out by `write`, a deadline, and `park`, by which one
trio task waits for whatever the subclass will `wake` it with. Not a protocol: it knows no HTTP.

Duties of a subclass: implement `on_bytes`, `on_lost` and `on_deadline` as plain calls that never block.
Cancelling the parked task closes the socket at once, inside trio's own abort call, so that trio's cancellation
stays exact: when the cancelled task runs again, nothing of it is left in the kernel.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import Any, Final

import outcome
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from infermesh.net.reactor import GONE, HALF_CLOSED, READ, WRITE, Reactor
from infermesh.net.timers import Entry, Timers
from infermesh.net.tls import PeerRefused
from infermesh.net.tls_session import TlsSession

READ_BYTES: Final = 65_536
# Above this much unsent output the source of it is no longer read (DESIGN 2, rule 4: every buffer has a limit;
# the overshoot is at most one read).
BACKLOG_HIGH_BYTES: Final = 65_536


class ConnectionLost(Exception):
    """The peer closed, reset or broke the connection; `str()` says how."""


def _admit_nobody(tls: TlsSession) -> None:
    raise AssertionError("a handshake without a check of the peer")


class Connection:
    __slots__ = (
        "_admit",
        "_backlog",
        "_recv",
        "_send",
        "_source",
        "_waiter",
        "bytes_in",
        "bytes_out",
        "closed",
        "deadline",
        "fd",
        "heir",
        "mask",
        "paused",
        "reactor",
        "sock",
        "timer",
        "timers",
        "tls",
    )
    watch: int = READ
    """What a subclass wants to be woken for while it reads."""

    def __init__(
        self, sock: socket.socket, reactor: Reactor, timers: Timers, *, predecessor: Connection | None = None
    ) -> None:
        """`predecessor`: spoke another protocol on this socket, and hands it over as it is, TLS and unsent output
        included. It is closed from then on; the socket is not."""
        self.sock = sock
        self.fd = sock.fileno()
        self.reactor = reactor
        self.timers = timers
        self.tls: TlsSession | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.closed = False
        self.heir: Connection | None = None  # Has the socket now; for that reason this one is closed.
        self.paused = False
        self.deadline = math.inf
        self.timer: Entry | None = None
        self.mask = self.watch
        self._recv = sock.recv
        self._send = sock.send
        self._backlog: bytearray | None = None
        self._source: Connection | None = None
        self._waiter: Task | None = None
        self._admit: Callable[[TlsSession], None] = _admit_nobody
        if predecessor is None:
            reactor.add(self, self.mask)
        else:
            self._succeed(predecessor)

    def _succeed(self, old: Connection) -> None:
        assert not old.closed, "a closed connection has nothing to hand over"
        assert old.sock is self.sock
        self.tls = old.tls
        self.bytes_in, self.bytes_out = old.bytes_in, old.bytes_out
        self._backlog, old._backlog = old._backlog, None
        if self._backlog is not None:
            self.mask |= WRITE
        self.timers.disarm(old)
        if old.mask:
            self.reactor.replace(self, self.mask)
        else:
            self.reactor.add(self, self.mask)
        old.closed = True
        old.heir = self
        old.mask = 0
        old._admit = _admit_nobody
        old._release_source()

    # --- what a subclass answers ---

    def on_bytes(self, data: bytes) -> None:
        raise NotImplementedError

    def on_lost(self, error: ConnectionLost) -> None:
        """The connection has just been closed because of its peer. Called once."""

    def on_deadline(self, now: float) -> None:
        self.lose(f"no progress by its deadline ({now:.3f})")

    # --- reading ---

    def on_event(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
            if self.closed:
                return
        if mask & READ and not self.paused:
            try:
                data = self._recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.lose(f"reading failed: {error.strerror}")
                return
            if not data:
                self.on_eof()
                return
            self.bytes_in += len(data)
            if self.tls is None:
                self.on_bytes(data)
            else:
                self._receive_tls(self.tls, data)
        elif mask & HALF_CLOSED:
            self.on_eof()
        elif mask & GONE:
            self._hung_up()

    def on_eof(self) -> None:
        self.lose("closed by the peer")

    def pause(self) -> None:
        """Stop reading: whoever takes our bytes has too many of them."""
        if not self.paused and not self.closed:
            self.paused = True
            self._watch(self.mask & ~READ)

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self._watch(self.mask | READ)

    def _hung_up(self) -> None:
        if self.paused:
            # A hang-up is reported until it is looked at, and what came before it is still to be read: stay
            # out of the epoll until someone resumes us.
            self._watch(0)
            return
        self.lose("connection reset by the peer")

    def _watch(self, mask: int) -> None:
        if mask != self.mask:
            if mask == 0:
                self.reactor.remove(self)
            elif self.mask == 0:
                self.reactor.add(self, mask)
            else:
                self.reactor.modify(self, mask)
            self.mask = mask

    # --- writing ---

    def write(self, data: bytes, source: Connection | None = None) -> None:
        """Send, or keep what the kernel does not take; then `source`, whose bytes these are, is paused."""
        if self.closed:
            return
        if self.tls is not None:
            try:
                data = self.tls.encrypt(data)
            except OSError as error:  # ssl.SSLError is one: after a goodbye nothing can be said.
                self.lose(f"TLS: {error}")
                return
        self._write_raw(data)
        if source is not None and self._backlog is not None and len(self._backlog) > BACKLOG_HIGH_BYTES:
            self._source = source
            source.pause()

    def _write_raw(self, data: bytes) -> None:
        if self._backlog is not None:
            self._backlog += data
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.lose(f"writing failed: {error.strerror}")
            return
        self.bytes_out += sent
        if sent != len(data):
            self._backlog = bytearray(memoryview(data)[sent:])
            self._watch(self.mask | WRITE)
            self.on_backlog()

    def on_backlog(self) -> None:
        """Output began to wait for the peer; a subclass arms its deadline here."""

    @property
    def backlog_len(self) -> int:
        return 0 if self._backlog is None else len(self._backlog)

    @property
    def unsent_len(self) -> int:
        """Bytes of output that wait for the peer, wherever they are kept."""
        return self.backlog_len

    def _flush(self) -> None:
        backlog = self._backlog
        if backlog is None:
            self._watch(self.mask & ~WRITE)
            return
        try:
            sent = self._send(backlog)
        except BlockingIOError:
            return
        except OSError as error:
            self.lose(f"writing failed: {error.strerror}")
            return
        self.bytes_out += sent
        if sent == len(backlog):
            self._backlog = None
            self._watch(self.mask & ~WRITE)
            self._release_source()
            self.on_flushed()
        else:
            del backlog[:sent]

    def on_flushed(self) -> None:
        """The backlog is gone."""

    def _release_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.resume()

    # --- TLS ---

    def _receive_tls(self, tls: TlsSession, data: bytes) -> None:
        if not tls.ready:
            self.on_handshake_bytes(tls, data)
            return
        try:
            plain = tls.decrypt(data)
        except OSError as error:  # ssl.SSLError is one.
            self.lose(f"TLS: {error}")
            return
        owed = tls.owed()
        if owed:
            self._write_raw(owed)
        if plain and not self.closed:
            self.on_bytes(plain)
        if tls.closed_by_peer and not self.closed:
            self.on_eof()

    def on_handshake_bytes(self, tls: TlsSession, data: bytes) -> None:
        """Bytes before TLS is ready. Wakes the task in `handshake` when it is, or when it failed."""
        try:
            reply = tls.handshake(data)
        except OSError as error:
            self._write_raw(tls.last_words())
            self.lose(f"TLS handshake: {error}")
            return
        if reply:
            self._write_raw(reply)
        if tls.ready and not self.closed:
            try:
                self._admit(tls)
            except PeerRefused as refused:
                self.lose(str(refused))
                return
            if self.heir is not None:  # Another protocol was negotiated: the peer's first bytes are its own.
                self.heir._receive_tls(tls, b"")
                return
            self.on_secure()
            self.wake(outcome.Value(None))
            self._receive_tls(tls, b"")  # What came with the end of the handshake.

    def on_secure(self) -> None:
        """TLS is ready and the peer admitted: the handshake's deadline is over."""
        self.timers.arm(self, math.inf)

    async def handshake(self, tls: TlsSession, deadline: float, admit: Callable[[TlsSession], None]) -> None:
        """Become a TLS connection. `admit` raises PeerRefused; it is asked before one byte of the peer is read.

        Raises ConnectionLost, for a failed handshake and for a refused peer alike.
        """
        self.tls = tls
        self._admit = admit
        self.timers.arm(self, deadline)
        hello = tls.handshake()
        if hello:
            self._write_raw(hello)
        if self.closed:
            raise ConnectionLost("closed in the TLS handshake")
        await self.park()
        if self.heir is not None:
            return
        if self.closed:  # After it was ready, and before this task had its turn.
            raise ConnectionLost("closed right after the TLS handshake")

    # --- the parked task ---

    async def park(self) -> Any:
        """Wait to be woken. One task at a time. Cancellation aborts the connection on the spot."""
        assert self._waiter is None, "two tasks wait on one connection"
        self._waiter = current_task()

        def abort(_: RaiseCancelT) -> Abort:
            self._waiter = None
            self.abort()
            return Abort.SUCCEEDED

        return await wait_task_rescheduled(abort)

    def wake(self, result: outcome.Outcome[Any]) -> bool:
        """Let the parked task run on; False when none is parked."""
        task, self._waiter = self._waiter, None
        if task is None:
            return False
        reschedule(task, result)
        self.reactor.woken = True
        return True

    # --- ending ---

    def lose(self, why: str) -> None:
        """Close because of the peer, and tell the subclass and the parked task."""
        if self.closed:
            return
        error = ConnectionLost(why)
        self.abort(error)
        self.on_lost(error)

    def close(self) -> None:
        """Close in good order: TLS says goodbye, and the kernel sends what it holds."""
        if self.closed:
            return
        if self.tls is not None and self.tls.ready and self._backlog is None:
            self._write_raw(self.tls.close_notify())
        self.abort()

    def abort(self, error: ConnectionLost | None = None) -> None:
        """Close at once. Idempotent; the parked task, if any, gets ConnectionLost."""
        if self.closed:
            return
        self.closed = True
        self.timers.disarm(self)
        if self.mask:
            self.reactor.remove(self)
        self.sock.close()
        self._backlog = None
        self._admit = _admit_nobody  # It may know of us: without this the TLS session waits for the collector.
        self._release_source()
        self.wake(outcome.Error(error or ConnectionLost("closed here")))
