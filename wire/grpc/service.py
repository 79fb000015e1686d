"""What generated stubs and service bases agree on with whoever drives them: methods, routes, streams, options.

Types only. `scripts/proto` writes, beside each `*_pb2.py`, a `*_grpc.py` made of these; `infermesh.net.grpc` serves
the routes and is the `Caller` behind the stubs.

Duties of a service: a method that answers one message with another and waits for nothing may be a plain `def`; it is
then called by the reactor itself, at a third of the cost, and must be quick. A method that streams sends by
`Sender.send`, which waits while the peer is slow, and returns when it has said all. Whatever a method opens it closes
when it is cancelled (deadline over, client gone).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Generic, NoReturn, Protocol, Self, TypeVar

import msgspec
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from wire.grpc.encoding import Encoding
from wire.grpc.metadata import NO_METADATA, Metadata, Pair
from wire.grpc.status import Code, RpcError

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Received = TypeVar("Received", bound=Message, covariant=True)
Sent = TypeVar("Sent", bound=Message, contravariant=True)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One method of one service, as both sides know it."""

    path: str  # `/package.Service/Method`.
    request: type[Request]
    response: type[Response]
    client_streaming: bool = False
    server_streaming: bool = False

    @property
    def service(self) -> str:
        return self.path[1:].partition("/")[0]


class Peer(Protocol):
    """Whom mutual TLS proved the other side to be."""

    @property
    def node(self) -> str: ...
    @property
    def trust_domain(self) -> str: ...


class ServerContext(Protocol):
    """What a method knows of its call beside the messages."""

    @property
    def path(self) -> str: ...
    @property
    def peer(self) -> Peer | None:
        """None: the connection proved nothing (the client port without certificates)."""

    @property
    def metadata(self) -> Metadata: ...
    @property
    def deadline(self) -> float:
        """Seconds on trio's clock; inf: none. The method is cancelled then."""

    def set_leading(self, pairs: Iterable[Pair]) -> None:
        """Metadata of the response's head: before the first message is sent."""

    def set_trailing(self, pairs: Iterable[Pair]) -> None: ...
    def set_encoding(self, encoding: Encoding) -> None:
        """Compress what is sent, if the client can read it; else it stays plain."""

    def abort(self, code: Code, message: str, details: Iterable[Message] = ()) -> NoReturn:
        """End the call with this status (an RpcError, which must be let through)."""


class Receiver(Protocol[Received]):
    """The peer's messages, in order."""

    async def receive(self) -> Received | None:
        """None: the peer has said all. Raises RpcError when the call has failed."""

    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> Received: ...


class Sender(Protocol[Sent]):
    async def send(self, message: Sent) -> None:
        """Waits while the peer takes nothing. Raises RpcError when the call is over."""


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a client makes one call."""

    timeout_s: float = math.inf  # For the whole call, connecting included. inf: the channel's own, if it has one.
    metadata: Metadata = NO_METADATA
    encoding: Encoding = Encoding.IDENTITY  # Of the requests.
    # Wait for a connection until the deadline, rather than fail when one attempt does.
    wait_for_ready: bool = False


NO_OPTIONS: Final = CallOptions()


class ClientCall(Protocol[Sent, Received]):
    """A call under way, from the client's side. Leaving its context cancels what is not over."""

    async def send(self, message: Sent) -> None:
        """Waits while the peer takes nothing. Raises RpcError when the call is over."""

    async def finish_sending(self) -> None:
        """Nothing more will be sent. Once, or not at all."""

    async def receive(self) -> Received | None:
        """None: the call ended, and well. Raises RpcError with any other status."""

    async def reply(self) -> Received:
        """Finish sending, and the one message that answers. Raises RpcError, also when there is none or a second."""

    async def leading(self) -> Metadata:
        """Metadata of the response's head; waits for it."""

    @property
    def trailing(self) -> Metadata:
        """Metadata of the trailers, once the call is over."""

    def cancel(self) -> None:
        """RST_STREAM(CANCEL); further receiving raises RpcError(CANCELLED)."""

    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> Received: ...


class Caller(Protocol):
    """A channel: where generated stubs send their calls."""

    async def unary(
        self, method: Method[Request, Response], request: Request, options: CallOptions = NO_OPTIONS
    ) -> Response: ...

    def stream(
        self, method: Method[Request, Response], options: CallOptions = NO_OPTIONS
    ) -> AbstractAsyncContextManager[ClientCall[Request, Response]]: ...

    def ask(
        self, method: Method[Request, Response], request: Request, options: CallOptions = NO_OPTIONS
    ) -> AbstractAsyncContextManager[ClientCall[Request, Response]]:
        """One request, a stream of responses: sending is finished already."""


@dataclass(frozen=True, slots=True)
class UnaryUnary(Generic[Request, Response]):
    """`call` is `async def`, or a plain `def` where nothing has to be waited for: that one needs no task."""

    method: Method[Request, Response]
    call: Callable[[Request, ServerContext], Awaitable[Response] | Response]


@dataclass(frozen=True, slots=True)
class UnaryStream(Generic[Request, Response]):
    method: Method[Request, Response]
    call: Callable[[Request, Sender[Response], ServerContext], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StreamUnary(Generic[Request, Response]):
    method: Method[Request, Response]
    call: Callable[[Receiver[Request], ServerContext], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class StreamStream(Generic[Request, Response]):
    method: Method[Request, Response]
    call: Callable[[Receiver[Request], Sender[Response], ServerContext], Awaitable[None]]


Route = (
    UnaryUnary[Request, Response]
    | UnaryStream[Request, Response]
    | StreamUnary[Request, Response]
    | StreamStream[Request, Response]
)


# A table of routes mixes message types; each route is checked where it is made.
AnyRoute = Route[Any, Any]


class Service(Protocol):
    """What a server serves: any generated base is one."""

    @property
    def name(self) -> str:
        """`package.Service`."""

    @property
    def file(self) -> FileDescriptor:
        """Where it is described, for reflection."""

    def routes(self) -> tuple[AnyRoute, ...]: ...


def unimplemented(method: Method[Request, Response]) -> RpcError:
    """For a method that its service leaves out."""
    return RpcError(Code.UNIMPLEMENTED, f"{method.path} is not served by this node")
