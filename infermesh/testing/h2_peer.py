"""Either side of HTTP/2 for tests, on the `h2` package: somebody else's reading of the RFC, step by step.

`H2Client` asks and reads; `H2Server` takes one connection after the other and hands each to a script. Both keep what
came for each stream. Neither gives credit unless it is told to, so that a test decides who is slow. Not for production:
no deadlines (the test has one), and what the peer does wrong is h2's exception.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio

Headers = Sequence[tuple[str, str]]


@dataclass
class PeerStream:
    """What came on one stream so far."""

    stream_id: int
    headers: dict[str, str] = field(default_factory=dict)
    interim: list[dict[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers[":status"])


class H2Peer:
    """One connection. `credits`: what is read is given back at once."""

    def __init__(self, stream: trio.abc.Stream, *, client_side: bool, credits: bool = True) -> None:
        self.stream = stream
        config = h2.config.H2Configuration(client_side=client_side, header_encoding="utf-8")
        self.machine = h2.connection.H2Connection(config)
        self.credits = credits
        self.streams: dict[int, PeerStream] = {}
        self.settings: dict[int, int] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.pings = 0
        self.acked_pings = 0
        self.over = False  # The peer has closed the connection.

    async def __aenter__(self) -> H2Peer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await trio.aclose_forcefully(self.stream)

    async def start(self, settings: dict[int, int] | None = None) -> None:
        """Preface, if it is ours to send, and settings."""
        if settings:
            self.machine.local_settings = h2.settings.Settings(
                client=self.machine.config.client_side,
                initial_values={h2.settings.SettingCodes(code): value for code, value in settings.items()},
            )
        self.machine.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        data = self.machine.data_to_send()
        if data:
            await self.stream.send_all(data)

    def of(self, stream_id: int) -> PeerStream:
        return self.streams.setdefault(stream_id, PeerStream(stream_id))

    async def read_until(self, done: Callable[[], bool]) -> None:
        """Read until `done`, or until the peer closes: then `over` is set."""
        while not done() and not self.over:
            await self.read()

    async def read(self) -> None:
        try:
            data = await self.stream.receive_some(65_536)
        except (trio.BrokenResourceError, ssl.SSLError):
            data = b""
        if not data:
            self.over = True
            return
        for event in self.machine.receive_data(bytes(data)):
            self._keep(event)
        await self.flush()

    def _keep(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                self.of(event.stream_id).headers = _named(event.headers)
            case h2.events.InformationalResponseReceived():
                self.of(event.stream_id).interim.append(_named(event.headers))
            case h2.events.DataReceived():
                self.of(event.stream_id).body += event.data
                if self.credits and event.flow_controlled_length:
                    self.machine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.of(event.stream_id).trailers = _named(event.headers)
            case h2.events.StreamEnded():
                self.of(event.stream_id).ended = True
            case h2.events.StreamReset():
                self.of(event.stream_id).reset = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goaways.append(event)
            case h2.events.RemoteSettingsChanged():
                self.settings |= {int(code): changed.new_value for code, changed in event.changed_settings.items()}
            case h2.events.PingReceived():
                self.pings += 1
            case h2.events.PingAckReceived():
                self.acked_pings += 1
            case _:
                pass  # Windows and priorities: h2 keeps those itself.

    async def send_headers(self, stream_id: int, headers: Headers, *, end: bool = False) -> None:
        self.machine.send_headers(stream_id, list(headers), end_stream=end)
        await self.flush()

    async def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """All of it, as the peer's windows allow; reads meanwhile."""
        while data or end:
            room = min(
                len(data), self.machine.local_flow_control_window(stream_id), self.machine.max_outbound_frame_size
            )
            if not room and data:
                await self.flush()
                await self.read()
                if self.over or self.of(stream_id).reset is not None:
                    return
                continue
            piece, data = data[:room], data[room:]
            self.machine.send_data(stream_id, piece, end_stream=end and not data)
            if end and not data:
                break
        await self.flush()

    async def reset(self, stream_id: int, code: int = h2.errors.ErrorCodes.CANCEL) -> None:
        self.machine.reset_stream(stream_id, code)
        await self.flush()


class H2Client(H2Peer):
    """`async with await H2Client.dial(address) as client:` and then `fetch`, or `ask` and `answer`."""

    def __init__(self, stream: trio.abc.Stream, *, credits: bool = True) -> None:
        super().__init__(stream, client_side=True, credits=credits)

    @classmethod
    async def dial(
        cls,
        address: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        settings: dict[int, int] | None = None,
        credits: bool = True,
    ) -> H2Client:
        host, port = address
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
        if tls is not None:
            secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
            await secured.do_handshake()
            stream = secured
        client = cls(stream, credits=credits)
        await client.start(settings)
        return client

    async def __aenter__(self) -> H2Client:
        return self

    async def ask(self, method: str, path: str, body: bytes = b"", *, headers: Headers = (), end: bool = True) -> int:
        """Send a request, and return its stream. Not `end`: more of it follows."""
        stream_id: int = self.machine.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path), *headers]
        await self.send_headers(stream_id, head, end=end and not body)
        if body:
            await self.send_data(stream_id, body, end=end)
        return stream_id

    async def answer(self, stream_id: int) -> PeerStream:
        """Until its end, its reset, or the end of the connection."""
        stream = self.of(stream_id)
        await self.read_until(lambda: stream.ended or stream.reset is not None)
        return stream

    async def fetch(self, method: str, path: str, body: bytes = b"", *, headers: Headers = ()) -> PeerStream:
        return await self.answer(await self.ask(method, path, body, headers=headers))


class H2Server:
    """Accepts; `script` gets each connection, its settings sent, and the connection ends with it."""

    def __init__(self, script: Callable[[H2Peer], Awaitable[None]], *, settings: dict[int, int] | None = None) -> None:
        self._script = script
        self._settings = settings
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self.connections = 0

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._sock.getsockname()[:2]
        return str(host), int(port)

    async def run(self, *, tls: ssl.SSLContext | None = None) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))

        async def serve(stream: trio.abc.Stream) -> None:
            self.connections += 1
            if tls is not None:
                stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
            async with H2Peer(stream, client_side=False) as peer:
                await peer.start(self._settings)
                await self._script(peer)

        await trio.serve_listeners(serve, [listener])


def _named(headers: Sequence[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}
