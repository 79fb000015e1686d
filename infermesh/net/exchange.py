"""One HTTP/1.1 connection of a slow path: dialled, secured, asked and read with h11 over a trio stream.

The inner half of `infermesh.net.fetch`, which adds deadlines, reuse and the public names. Not here: any
deadline. Everything raises what trio, ssl and h11 raise; the caller wraps it in `translated`, which makes one
plain FetchError of it.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
from collections.abc import Iterator, Sequence
from typing import Final, TypedDict
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from wire.limits import HTTP1_HEAD_BYTES_MAX, HTTP1_INTERIM_RESPONSES_MAX

Headers = Sequence[tuple[bytes, bytes]]

_RECEIVE_BYTES: Final = 65_536


class FetchError(Exception):
    """An exchange failed; the message names the server, what was asked and why."""


class FetchRefusedError(FetchError):
    """Nobody listens at that address: the one failure that proves the process is not there."""


class FetchTimeoutError(FetchError):
    """No proof of anything: slow, gone or unreachable."""


class RequestOptions(TypedDict, total=False):
    """What may be said of a request besides where it goes; a GET with nothing when left out."""

    method: str
    headers: Headers
    body: bytes


class Place(msgspec.Struct, frozen=True):
    """Where a URL points to."""

    secure: bool
    host: str
    port: int
    path: str  # With its query.

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}"


def parse_url(url: str) -> Place:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise FetchError(f"not a URL: {url!a}: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise FetchError(f"not a URL: {url!a}: it must begin with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise FetchError(
            f"a URL with a password in it would end up in logs; remove it from the one for {parts.hostname}"
        )
    if not parts.hostname or not parts.hostname.isascii() or len(parts.hostname) > 253:
        raise FetchError(f"not a URL: {url!a}: it names no usable host")
    secure = parts.scheme == "https"
    path = parts.path or "/"
    if parts.query:
        path = f"{path}?{parts.query}"
    return Place(secure, parts.hostname, port or (443 if secure else 80), path)


class Connection:
    """One connection and its h11 machine. Raises what trio, ssl and h11 raise; callers translate."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.answer_begun = False
        self._stream = stream
        self._machine = _new_machine()

    async def send(self, place: Place, path: str, request: RequestOptions) -> h11.Response:
        """Send a whole request, wait for the head of its answer."""
        method = request.get("method", "GET")
        body = request.get("body", b"")
        headers = [(b"host", place.authority.encode()), *request.get("headers", ())]
        if body or method not in ("GET", "HEAD"):
            headers.append((b"content-length", b"%d" % len(body)))
        self.answer_begun = False
        machine = self._machine
        message = machine.send(h11.Request(method=method, target=path, headers=headers)) or b""
        if body:
            message += machine.send(h11.Data(data=body)) or b""
        message += machine.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(message)
        for _ in range(HTTP1_INTERIM_RESPONSES_MAX):
            event = await self._next_event()
            if isinstance(event, h11.Response):
                _refuse_coding(event)
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed before the answer")
        raise h11.RemoteProtocolError(f"more than {HTTP1_INTERIM_RESPONSES_MAX} interim answers")

    async def read_body(self, head: h11.Response, body_bytes_max: int) -> bytes:
        announced = next((value for name, value in head.headers if name == b"content-length"), b"0")
        # h11 has checked that it is a number.
        if int(announced) > body_bytes_max:
            raise h11.RemoteProtocolError(
                f"an answer of {int(announced)} bytes is announced, the limit is {body_bytes_max}"
            )
        pieces: list[bytes] = []
        total = 0
        while piece := await self.read_piece():
            total += len(piece)
            if total > body_bytes_max:
                raise h11.RemoteProtocolError(f"the answer is longer than the limit of {body_bytes_max} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def read_piece(self) -> bytes:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                if event.data:
                    return bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return b""
            else:
                raise h11.RemoteProtocolError("the connection was closed inside the answer")

    def recycle(self) -> bool:
        """Make ready for the next request; False when the connection cannot carry one."""
        machine = self._machine
        # Bytes behind the answer belong to no request of ours.
        if machine.our_state is not h11.DONE or machine.their_state is not h11.DONE or machine.trailing_data[0]:
            return False
        machine.start_next_cycle()
        return True

    async def aclose(self) -> None:
        # Without a closing handshake: nothing is waited for, so this is safe in any state of cancellation.
        await trio.aclose_forcefully(self._stream)

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._machine.next_event()
            if event is not h11.NEED_DATA:
                return event
            piece = await self._stream.receive_some(_RECEIVE_BYTES)
            self.answer_begun = self.answer_begun or bool(piece)
            self._machine.receive_data(bytes(piece))


async def connect(place: Place, tls: ssl.SSLContext | None) -> Connection:
    if place.secure and tls is None:
        tls = ssl.create_default_context()
    stream: trio.abc.Stream = await trio.open_tcp_stream(place.host, place.port)
    try:
        if place.secure:
            assert tls is not None
            # https_compatible: peers close without close_notify; framing is what detects truncation.
            secured = trio.SSLStream(stream, tls, server_hostname=place.host, https_compatible=True)
            stream = secured
            await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return Connection(stream)


def _new_machine() -> h11.Connection:
    return h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=HTTP1_HEAD_BYTES_MAX)


def fields_of(head: h11.Response) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((bytes(name), bytes(value)) for name, value in head.headers)


def _refuse_coding(head: h11.Response) -> None:
    coding = next((value for name, value in head.headers if name == b"content-encoding"), b"identity")
    if coding.lower() != b"identity":
        raise h11.RemoteProtocolError(f"the answer is compressed ({coding!a}), which was not asked for")


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError) as error:
        reason = _reason(error)
        if _refused(error):
            raise FetchRefusedError(f"{what}: {reason}") from error
        raise FetchError(f"{what}: {reason}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and the members of groups on the way; innermost last."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes(member)
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _refused(error: BaseException) -> bool:
    # The last errors are those of the addresses tried; one that did not refuse may still be alive.
    leaves = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno is not None]
    return bool(leaves) and all(cause.errno == errno.ECONNREFUSED for cause in leaves)


def _reason(error: BaseException) -> str:
    texts = [str(cause) for cause in _causes(error) if not isinstance(cause, BaseExceptionGroup)]
    return next((text for text in reversed(texts) if text), type(error).__name__)
