"""gRPC on the mesh port of a GPU node: calls of routers, passed to the runtimes of this node as they come."""

from __future__ import annotations

import math
from typing import Final

from infermesh.net.asker import Request
from infermesh.net.http2 import Http2ServerStream, StreamReader
from infermesh.net.timers import Timers
from infermesh.planes.data.deaf import Deaf
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.grpc_request import GrpcRequest
from infermesh.planes.data.grpc_writer import GRPC
from infermesh.planes.data.local import LocalPlane
from infermesh.planes.data.run import Run
from wire.errors import RemoteProtocolError
from wire.grpc.timeout import parse_timeout

# A call in which both sides are silent for too long is the router's to end, which knows whose fault it is.
_PATIENCE: Final = 2.0


class GrpcLocal:
    def __init__(self, local: LocalPlane, timers: Timers, *, body_bytes_max: int) -> None:
        self._local = local
        self._timers = timers
        self._body_bytes_max = body_bytes_max

    def open(self, stream: Http2ServerStream) -> StreamReader:
        """A call's head names its runtime, so the call goes on at once. What cannot be served is refused."""
        now = self._timers.now()
        try:
            timeout = stream.head.value(b"grpc-timeout")
            timeout_s = math.inf if timeout is None else parse_timeout(timeout)
            request = GrpcRequest(
                stream,
                self._timers,
                bytes_max=self._body_bytes_max,
                deadline=now + timeout_s,
                on_more=_nothing,
                on_end=_nothing,
                patience=_PATIENCE,
            )
            run = self._local.forward(stream, Request(stream.head, b"", now), GRPC, request)
        except RequestRefused as refused:
            GRPC.refuse(stream, refused, b"POST")
            return Deaf(stream)
        except RemoteProtocolError as error:
            GRPC.refuse(stream, RequestRefused(400, "invalid_timeout", str(error)), b"POST")
            return Deaf(stream)

        def live() -> Run | None:
            return None if run.ended else run

        request.attach(live)
        return request


def _nothing() -> None:
    """The runtime has the call already; a run that ends says so to its asker."""
