"""gRPC services behind an HTTP/2 port: which call goes to which method, and what is answered where there is none.

`GrpcServices` is asked at each stream's head. A path of its own becomes a `ServerCall`; any other is somebody else's
(None), or, on a port with nothing else behind it, refused as gRPC refuses. `GrpcPort` is that port.

Duties of the caller: `peer_of` tells whom mutual TLS proved the connection's other side to be; methods run in tasks of
the connection, so they end with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Final, Protocol

from infermesh.net.asker import Request, SlowCall
from infermesh.net.grpc.server_call import CallEnds, CallLog, GrpcLimits, PlainMethod, ServerCall
from infermesh.net.http2.server_stream import Http2ServerStream, StreamReader
from wire.grpc import CallHead, Code, GrpcStatus, NotGrpc, read_request
from wire.grpc.call import is_protobuf, trailers_only_fields
from wire.grpc.service import AnyRoute, Peer, Service, UnaryUnary
from wire.http1 import Field

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_DEFAULT_LIMITS: Final = GrpcLimits()


class PeerOf(Protocol):
    def __call__(self, stream: Http2ServerStream, /) -> Peer | None: ...


def _nobody(stream: Http2ServerStream) -> Peer | None:
    return None


class GrpcServices:
    """The services of one port."""

    def __init__(
        self,
        services: Sequence[Service],
        log: CallLog,
        limits: GrpcLimits = _DEFAULT_LIMITS,
        *,
        peer_of: PeerOf = _nobody,
        on_ended: CallEnds | None = None,
        reserved: tuple[bytes, ...] = (),
    ) -> None:
        """`reserved`: beginnings of paths that are nobody else's; what is not served of them is refused here."""
        self._log = log
        self._limits = limits
        self._peer_of = peer_of
        self._on_ended = on_ended
        self._reserved = reserved
        self.services = tuple(services)
        self._routes: dict[bytes, AnyRoute] = {}
        self._plain: dict[bytes, PlainMethod] = {}  # Methods that wait for nothing, by path.
        for service in services:
            for route in service.routes():
                path = route.method.path.encode()
                if path in self._routes:
                    raise ValueError(f"{route.method.path} is served twice: two services named {service.name}")
                self._routes[path] = route
                if isinstance(route, UnaryUnary) and not inspect.iscoroutinefunction(route.call):
                    self._plain[path] = route.call

    @property
    def paths(self) -> frozenset[bytes]:
        return frozenset(self._routes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(service.name for service in self.services))

    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        """None: a path that is not served here. Its answer is then somebody else's affair."""
        route = self._routes.get(stream.head.target)
        if route is None:
            return self.refuse(stream) if stream.head.target.startswith(self._reserved) else None
        request = stream.head
        head = read_request(request.method, request.target, request.fields)
        if isinstance(head, CallHead):
            if is_protobuf(head):
                call = ServerCall(stream, head, route, self._limits, self._log)
                call.begin(self._peer_of(stream), self._on_ended, plain=self._plain.get(head.path))
                return call
            subtype = head.subtype.decode("latin-1")
            head = GrpcStatus(Code.UNIMPLEMENTED, f"application/grpc+{subtype} is not spoken here, only +proto")
        return _refused(stream, head)

    def refuse(self, stream: Http2ServerStream) -> StreamReader:
        """The answer to a path that nobody serves: UNIMPLEMENTED, or plain HTTP's 415 to what is no gRPC."""
        request = stream.head
        head = read_request(request.method, request.target, request.fields)
        return _refused(stream, self._unknown(request.target) if isinstance(head, CallHead) else head)

    def _unknown(self, target: bytes) -> GrpcStatus:
        path = target[:200].decode("latin-1")
        service, _, method = path[1:].partition("/")
        if service in self.names:
            return GrpcStatus(Code.UNIMPLEMENTED, f"{service} has no method {method!r}")
        return GrpcStatus(Code.UNIMPLEMENTED, f"no service {service!r} here; served are {', '.join(self.names)}")


class GrpcPort:
    """A StreamService with nothing but gRPC behind it."""

    def __init__(self, services: GrpcServices) -> None:
        self._services = services

    def open_stream(self, stream: Http2ServerStream) -> StreamReader:
        return self._services.open_stream(stream) or self._services.refuse(stream)

    def answer(self, stream: Http2ServerStream, request: Request) -> SlowCall | None:
        raise AssertionError("every stream of this port has a reader")


class _Refused:
    """Reads nothing: the stream was answered at its head."""

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        """The stream has given back what came."""

    def on_trailers(self, fields: list[Field]) -> None: ...
    def on_drained(self) -> None: ...


_REFUSED: Final = _Refused()


def _refused(stream: Http2ServerStream, why: GrpcStatus | NotGrpc) -> StreamReader:
    if isinstance(why, NotGrpc):
        fields = [_TEXT, *why.fields]
        stream.respond(why.status, fields, why.message.encode() + b"\n", method=stream.head.method)
    else:
        stream.send_head(trailers_only_fields(why), end=True)
        stream.finish()
    return _REFUSED
