"""The client of a replay: HTTP/1.1 over kept connections, one request a connection, cheap enough for hundreds at once.

Raw non-blocking sockets under trio's readiness calls: about a third of the cost of trio's streams. TLS targets and
tests go through trio streams. Nothing is retried but a kept connection that turns out to be closed before its
answer began, which says nothing of the server.

Two kinds of failure: `TargetFailed` is the server's or the network's, `ClientFailed` is this machine's own.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from infermesh.cli.replay.answer import Answer, BadAnswer
from infermesh.net.exchange import Place

_RECEIVE_BYTES = 16_384
_CONNECT_TIMEOUT_S = 10.0
# This machine ran out of something: descriptors, buffers, memory, local ports.
_OWN_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class TargetFailed(Exception):
    """The server did not answer, or not to the end. `cause` is a word to count by."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class ClientFailed(Exception):
    """This machine could not send; it says nothing of the server."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class Wire(Protocol):
    """One connection's bytes. Raises OSError or trio.BrokenResourceError when it breaks."""

    async def send_all(self, data: bytes) -> None: ...
    async def receive_some(self) -> bytes: ...
    def is_stale(self) -> bool:
        """The other side has closed it, or sent what nobody asked for."""

    async def aclose(self) -> None:
        """At once and in any state of cancellation."""


Dial = Callable[[], Awaitable[Wire]]


class ReplayClient:
    """Kept connections to one server. The owner calls `aclose` when no exchange is under way."""

    def __init__(self, dial: Dial, *, connections_max: int) -> None:
        self._dial = dial
        self._idle: list[Wire] = []
        self._connections_max = connections_max
        self.in_flight = 0
        self.connections_made = 0

    async def exchange(self, message: bytes, answer: Answer, *, cancel_after_tokens: int = 0) -> bool:
        """Send one request and read its answer into `answer`. False when it was left after `cancel_after_tokens`.

        The caller sets the deadline. Raises TargetFailed and ClientFailed.
        """
        if self.in_flight >= self._connections_max:
            raise ClientFailed(
                "connections_max", f"{self._connections_max} requests are in flight, which is this client's limit"
            )
        self.in_flight += 1
        try:
            return await self._exchange(message, answer, cancel_after_tokens)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    async def _exchange(self, message: bytes, answer: Answer, cancel_after_tokens: int) -> bool:
        kept = await self._take_idle()
        if kept is not None:
            try:
                return await self._exchange_on(kept, message, answer, cancel_after_tokens)
            except TargetFailed:
                if answer.begun:
                    raise
        return await self._exchange_on(await self._connect(), message, answer, cancel_after_tokens)

    async def _take_idle(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()  # The warmest; those below go stale and are dropped when they come up.
            if not wire.is_stale():
                return wire
            await wire.aclose()
        return None

    async def _connect(self) -> Wire:
        try:
            with trio.fail_after(_CONNECT_TIMEOUT_S):
                wire = await self._dial()
        except OSError as error:
            _raise_own(error)
            raise TargetFailed("connect", f"cannot connect: {_reason(error)}") from error
        except trio.TooSlowError as error:
            raise TargetFailed("connect", f"no connection within {_CONNECT_TIMEOUT_S:g} s") from error
        self.connections_made += 1
        return wire

    async def _exchange_on(self, wire: Wire, message: bytes, answer: Answer, cancel_after_tokens: int) -> bool:
        keep = False
        try:
            await wire.send_all(message)
            while not answer.complete:
                data = await wire.receive_some()
                if not data:
                    if answer.end():
                        return True
                    if answer.error_message:  # The server said so before it closed.
                        raise TargetFailed("error event", answer.error_message)
                    raise TargetFailed("broken", "the connection was closed inside the answer")
                answer.feed(data, trio.current_time())
                if 0 < cancel_after_tokens <= answer.tokens and not answer.complete:
                    return False
            keep = answer.keep_alive
            return True
        except (OSError, trio.BrokenResourceError) as error:
            _raise_own(error)
            raise TargetFailed("broken", f"the connection broke: {_reason(error)}") from error
        except BadAnswer as error:
            raise TargetFailed("garbage", str(error)) from error
        finally:
            if keep:
                self._idle.append(wire)
            else:
                await wire.aclose()


def _raise_own(error: BaseException) -> None:
    number = error.errno if isinstance(error, OSError) else None
    if number in _OWN_ERRORS:
        assert number is not None
        raise ClientFailed(errno.errorcode[number], os.strerror(number)) from error


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


class SocketWire:
    """A TCP connection without a stream around it."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send_all(self, data: bytes) -> None:
        view = memoryview(data)
        while True:
            try:
                sent = self._sock.send(view)
            except BlockingIOError:
                sent = 0
            if sent == len(view):
                return
            view = view[sent:]
            await trio.lowlevel.wait_writable(self._sock)

    async def receive_some(self) -> bytes:
        while True:
            # Waiting first: between two tokens there is nothing to read yet.
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                continue

    def is_stale(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def aclose(self) -> None:
        self._sock.close()


class StreamWire:
    """Any trio stream: TLS, or memory streams in tests."""

    __slots__ = ("_stream", "_used_up")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive_some(self) -> bytes:
        return bytes(await self._stream.receive_some(_RECEIVE_BYTES))

    def is_stale(self) -> bool:
        return False  # A stream cannot be asked without waiting; a stale one is found out by using it.

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def find_addresses(place: Place) -> list[tuple[int, tuple[object, ...]]]:
    """(family, address) of a server, looked up once: a name service has no place in a measurement."""
    found = await trio.socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return [(int(family), tuple(address)) for family, _, _, _, address in found]


def make_dial(place: Place, addresses: list[tuple[int, tuple[object, ...]]], *, tls: ssl.SSLContext | None) -> Dial:
    assert addresses

    async def dial_plain() -> Wire:
        return SocketWire(await _connect_any(addresses))

    async def dial_secure() -> Wire:
        assert tls is not None
        sock = await _connect_any(addresses)
        stream = trio.SSLStream(
            trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
            tls,
            server_hostname=place.host,
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            sock.close()
            raise OSError(f"TLS: {error.__cause__ or error}") from error
        except BaseException:
            sock.close()
            raise
        return StreamWire(stream)

    return dial_secure if place.secure else dial_plain


async def _connect_any(addresses: list[tuple[int, tuple[object, ...]]]) -> socket.socket:
    failure: OSError | None = None
    for family, address in addresses:
        try:
            return await _connect_one(family, address)
        except OSError as error:
            failure = error
    assert failure is not None
    raise failure


async def _connect_one(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = sock.connect_ex(address)
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock
