"""One client connection: requests in through h11, answers out, the client watched while it waits.

h11 parses requests and writes heads; the events of a stream are written past it, framed already (see shapes).
Independent on purpose of the mesh's own HTTP/1.1: the proxy is tested against another reading of the RFC.
One task per connection, and it is the only one that closes the socket.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import msgspec
import trio

from infermesh.emulator.asks import AskError
from infermesh.emulator.client import ClientSocket
from infermesh.emulator.generation import Generation
from infermesh.emulator.routes import GENERATING, Reply, known_route, plain_reply

if TYPE_CHECKING:
    from infermesh.emulator.server import EmulatorServer

_SERVER = "infermesh-emulator"


class RequestHead(msgspec.Struct, frozen=True):
    method: str
    path: str
    headers: dict[str, str]  # Lower-case names; the last of equal ones.
    version: bytes


class Connection:
    def __init__(self, server: EmulatorServer, client: ClientSocket) -> None:
        self.server = server
        self.client = client
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=server.config.head_bytes_max)

    async def serve(self) -> None:
        """Serve requests one after the other until either side ends it."""
        while not self.client.left:
            # Pipelined requests to plain paths would otherwise never let other tasks run.
            await trio.lowlevel.checkpoint()
            try:
                request = await self._next_request()
            except AskError as error:
                await self._refuse(error)
                return
            if request is None:
                return
            if not await self._answer(*request):
                return
            if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
                return
            self.http.start_next_cycle()

    async def _next_request(self) -> tuple[RequestHead, bytes] | None:
        """The next whole request. None: the client left, or was idle or slow for too long."""
        config = self.server.config
        if not self.http.trailing_data[0]:
            with trio.move_on_after(config.keep_alive_s) as idle:
                self.http.receive_data(await self.client.receive())
            if idle.cancelled_caught:
                return None
        with trio.move_on_after(config.receive_timeout_s):
            try:
                return await self._read_request()
            except h11.RemoteProtocolError as error:
                status = HTTPStatus(error.error_status_hint)
                raise AskError(status, str(error), status.phrase) from None
        return None

    async def _read_request(self) -> tuple[RequestHead, bytes] | None:
        head: RequestHead | None = None
        body = bytearray()
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    self.client.send_now(self.http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                self.http.receive_data(await self.client.receive())
            elif isinstance(event, h11.Request):
                head = _head(event)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self.server.config.body_bytes_max:
                    raise AskError(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        f"The body is longer than {self.server.config.body_bytes_max} bytes "
                        "(the emulator's body_bytes_max).",
                        "Payload Too Large",
                    )
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return head, bytes(body)
            else:  # ConnectionClosed, or PAUSED after it.
                return None

    async def _answer(self, head: RequestHead, body: bytes) -> bool:
        """Answer one request. False: the connection is over."""
        try:
            kind = GENERATING.get(head.path) if head.method == "POST" else None
            if kind is not None:
                return await Generation(self, head, kind).run(body)
            reply = plain_reply(self.server, head.method, head.path, body)
        except AskError as error:
            reply = Reply(error.body(), "application/json", error.status)
        await self.send_reply(head, reply)
        return True

    async def _refuse(self, error: AskError) -> None:
        """Answer what could not even be read, and end."""
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reply = Reply(error.body(), "application/json", error.status)
            self.client.send_now(self.head_bytes(reply.status, reply.content_type, len(reply.body), close=True))
            self.client.send_now(reply.body)
            await self.client.drain()
            await self.client.linger()

    async def send_reply(self, head: RequestHead, reply: Reply, *, extra: tuple[tuple[str, str], ...] = ()) -> None:
        self.count(head, reply.status)
        data = self.head_bytes(reply.status, reply.content_type, len(reply.body), extra=extra)
        data += self.whole_body(b"" if head.method == "HEAD" else reply.body)
        self.client.send_now(data)
        await self.client.drain()

    def head_bytes(
        self,
        status: HTTPStatus,
        content_type: str,
        content_length: int | None,
        *,
        extra: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> bytes:
        """The head of a response; `content_length=None`: a stream."""
        headers = [("server", _SERVER), *extra]
        if content_length is not None:
            headers.append(("content-length", str(content_length)))
        if content_type:
            headers.append(("content-type", content_type))
        if close:
            headers.append(("connection", "close"))
        return self.http.send(h11.Response(status_code=int(status), headers=headers, reason=status.phrase)) or b""

    def whole_body(self, body: bytes) -> bytes:
        return (self.http.send(h11.Data(data=body)) or b"") + self.end_of_message()

    def end_of_message(self) -> bytes:
        return self.http.send(h11.EndOfMessage()) or b""

    def count(self, head: RequestHead, status: HTTPStatus) -> None:
        self.server.http_requests[known_route(head.path), head.method, f"{int(status) // 100}xx"] += 1


def _head(event: h11.Request) -> RequestHead:
    return RequestHead(
        method=event.method.decode("ascii"),
        path=event.target.decode("latin-1").partition("?")[0],
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers},
        version=event.http_version,
    )
