"""Answers to gRPC calls from upstreams that speak gRPC: head, messages and trailers as they come (PROTOCOL-HTTP2.md).

HTTP's status says nothing in gRPC: what counts is `grpc-status`, in the trailers or, when an answer has no messages,
in its head. A call that breaks off ends with trailers that say so, never with a clean end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infermesh.net.asker import Asker
from infermesh.net.http2 import Http2ServerStream
from infermesh.net.http2.client_stream import Http2UpstreamStream
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.heads import client_fields, client_trailers
from infermesh.planes.data.run import Run
from infermesh.planes.data.upstream import Upstream
from wire.grpc import Code, GrpcStatus, from_http, http_of
from wire.grpc.call import trailer_fields, trailers_only_fields
from wire.grpc.status import parse_code
from wire.http1 import Field, ResponseHead

# What a refusal of ours means to a client of gRPC. A 404 of ours is a model's, never a method's.
_CODES: Final = {
    400: Code.INVALID_ARGUMENT,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
    508: Code.FAILED_PRECONDITION,
}


class GrpcWriter:
    __slots__ = ()
    protocol: Final = "grpc"

    def status_of(self, up: Upstream, head: ResponseHead) -> int:
        assert isinstance(up, Http2UpstreamStream)
        ending = head.fields if up.head_only else up.trailers
        for name, value in ending:
            if name == b"grpc-status":
                return 200 if value == b"0" else http_of(parse_code(value))
        if head.status != 200:
            return http_of(from_http(head.status))
        return 500 if up.received_end else 200  # An end without a status is no success.

    def interim(self, asker: Asker, head: ResponseHead) -> None:
        pass  # gRPC has none.

    def begin(self, run: Run, up: Upstream, head: ResponseHead, lines: list[bytes]) -> None:
        stream = _stream(run.asker)
        assert isinstance(up, Http2UpstreamStream)
        if (head.status != 200 or up.head_only) and head.value(b"grpc-status") is None:
            # Whatever answered there speaks no gRPC; its client does.
            assert run.winner is not None
            text = f"{run.winner.destination.node}: HTTP status {head.status} and no grpc-status"
            status = GrpcStatus(from_http(head.status), text)
            fields = [*trailers_only_fields(status), *map(_field_of, lines)]
            stream.send_head(fields, end=True)
        else:
            fields = [(b":status", b"%d" % head.status), *client_fields(head, lines)]
            stream.send_head(fields, end=up.head_only)
        if not run.ended:  # The client may be gone at the first word.
            up.read_body()

    def payload(self, run: Run, up: Upstream, payload: bytes) -> None:
        stream = run.asker
        assert isinstance(up, Http2UpstreamStream)
        assert isinstance(stream, Http2ServerStream)
        if not stream.said_all:  # (It may be the body of an answer that is no gRPC.)
            stream.send_data(payload, source=up)

    def end(self, run: Run, up: Upstream) -> None:
        assert isinstance(up, Http2UpstreamStream)
        stream = _stream(run.asker)
        if stream.said_all:
            return  # It had no messages.
        trailers = client_trailers(up.trailers)
        stream.send_trailers(trailers or trailer_fields(GrpcStatus(Code.UNKNOWN, "the runtime gave no grpc-status")))

    def break_off(self, run: Run, up: Upstream, head: ResponseHead) -> None:
        stream = _stream(run.asker)
        if not stream.said_all:
            text = f"the call broke off: {run.failure}; the answer is incomplete"
            stream.send_trailers(trailer_fields(GrpcStatus(Code.UNAVAILABLE, text)))

    def refuse(self, asker: Asker, refused: RequestRefused, method: bytes, fields: Sequence[Field] = ()) -> None:
        stream = _stream(asker)
        code = _CODES.get(refused.status, Code.UNKNOWN if refused.status >= 500 else Code.INVALID_ARGUMENT)
        said = [
            *trailers_only_fields(GrpcStatus(code, refused.message)),
            *fields,
            (b"x-infermesh-code", refused.code.encode()),
        ]
        if refused.retry_after_s is not None:
            seconds = max(1, -int(-refused.retry_after_s // 1))
            said += [(b"retry-after", b"%d" % seconds), (b"grpc-retry-pushback-ms", b"%d" % (seconds * 1000))]
        if not stream.closed:
            stream.send_head(said, end=True)
        stream.finish()


GRPC: Final = GrpcWriter()


def _field_of(line: bytes) -> Field:
    name, _, value = line.partition(b": ")
    return name, value


def _stream(asker: Asker) -> Http2ServerStream:
    assert isinstance(asker, Http2ServerStream)
    return asker
