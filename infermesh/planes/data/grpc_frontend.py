"""gRPC on the client port: any service's calls, by the same admission, choice, hedge and books as HTTP.

A call begins when it is known which model it is for: from its metadata at once, else from its first message. What
concerns a server and not a model (is it live, what does it serve) is answered here for the fleet; loading and shared
memory are refused with the reason. Everything else passes unchanged.
"""

from __future__ import annotations

import math
from typing import Final

from infermesh import __version__
from infermesh.core.model.names import ModelName
from infermesh.net.asker import Request
from infermesh.net.http2 import Http2ServerStream, StreamReader
from infermesh.net.timers import Entry, Timers
from infermesh.planes.data.deaf import Deaf
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.frontend import Frontend
from infermesh.planes.data.grpc_models import (
    KSERVE_SERVICE,
    Unnamed,
    is_of_one_server,
    is_placement,
    name_path,
    next_look,
    read_model,
)
from infermesh.planes.data.grpc_request import GrpcRequest
from infermesh.planes.data.grpc_writer import GRPC
from infermesh.planes.data.inference import Inference
from infermesh.planes.data.models import ready_targets
from infermesh.planes.data.run import Run
from wire.errors import RemoteProtocolError
from wire.grpc import Code, GrpcStatus, encode_message
from wire.grpc.call import response_fields, trailer_fields, trailers_only_fields
from wire.grpc.timeout import parse_timeout

# A client may open a stream long before it has something to ask; not for ever.
FIRST_MESSAGE_WITHIN_S: Final = 300.0
_MODEL_FIELD: Final = b"x-infermesh-model"


class GrpcFrontend:
    def __init__(self, frontend: Frontend, timers: Timers, *, body_bytes_max: int) -> None:
        self.frontend = frontend
        self.timers = timers
        self.body_bytes_max = body_bytes_max

    def open(self, stream: Http2ServerStream) -> StreamReader:
        """A call's head has come. What cannot be served is refused in gRPC's words, at once."""
        call = _Call(self, stream)
        try:
            return call.begin()
        except RequestRefused as refused:
            GRPC.refuse(stream, refused, b"POST")
            return Deaf(stream)


class _Call:
    """One call: waits for its model's name, then is an inference like any other; ends by its deadline at the latest."""

    __slots__ = (
        "_at",
        "_inference",
        "_look_at",
        "_model",
        "_parts",
        "_received_at",
        "_request",
        "_stream",
        "deadline",
        "timer",
    )

    def __init__(self, parts: GrpcFrontend, stream: Http2ServerStream) -> None:
        self._parts = parts
        self._stream = stream
        self._received_at = parts.timers.now()
        self._model = stream.head.value(_MODEL_FIELD)
        self._at = name_path(stream.head.path)
        self._look_at = 0  # Bytes of the request by which the model is looked for again.
        self._inference: Inference | None = None
        self._request: GrpcRequest | None = None
        self.deadline = math.inf
        self.timer: Entry | None = None

    def begin(self) -> StreamReader:
        stream, parts = self._stream, self._parts
        path = stream.head.path
        if stream.head.method != b"POST":
            raise self._bad(405, "method_not_allowed", "a gRPC call is a POST")
        if is_placement(path):
            raise self._bad(403, "placement_only", "models are loaded and unloaded by the mesh's placement")
        if is_of_one_server(path):
            raise self._bad(501, "one_server_only", "it is about one server, and a mesh has many: ask a server itself")
        if path.startswith(KSERVE_SERVICE):
            reply = self._reply_of_the_fleet(path.removeprefix(KSERVE_SERVICE))
            if reply is not None:
                return self._answer(reply)
        if self._model is None and self._at is None:
            raise self._unknown_method(path[:80].decode("latin-1"))
        self.deadline = self._received_at + self._timeout_s()
        self._request = GrpcRequest(
            stream,
            parts.timers,
            bytes_max=parts.body_bytes_max,
            deadline=self.deadline,
            on_more=self._look,
            on_end=self._on_end,
        )
        if self._model is None:
            parts.timers.arm(self, min(self.deadline, self._received_at + FIRST_MESSAGE_WITHIN_S))
        elif self.deadline != math.inf:
            parts.timers.arm(self, self.deadline)
        stream.work = self  # Until the inference takes its place.
        if self._model is not None:
            self._look()
        return self._request

    def on_connection_lost(self) -> None:
        """The client is gone before the call had begun."""
        assert self._request is not None
        self._request.release()

    def _on_end(self) -> None:
        """The call has ended, whichever way."""
        self._parts.timers.disarm(self)

    def on_deadline(self, now: float) -> None:
        """The client waits no longer, and knows so; everything behind the call is cancelled. Or it never began."""
        stream, request = self._stream, self._request
        assert request is not None
        if stream.closed:
            return
        text = f"the call's deadline passed at the router ({self._progress()})"
        if now < request.deadline:
            text = f"no first message, which names the model, came within {FIRST_MESSAGE_WITHIN_S:g} s"
        stream.work = None
        if self._inference is not None:
            self._inference.expire()
        else:
            request.release()
        said = GrpcStatus(Code.DEADLINE_EXCEEDED, text)
        if not stream.said_head:
            stream.send_head(trailers_only_fields(said), end=True)
        elif not stream.said_all:
            stream.send_trailers(trailer_fields(said))
        stream.finish()

    # --- inside ---

    def _progress(self) -> str:
        if self._inference is None:
            return "it waited for the first message"
        if self._inference.run is None:
            return "it waited for a slot"
        return "an attempt was under way"

    def _timeout_s(self) -> float:
        value = self._stream.head.value(b"grpc-timeout")
        if value is None:
            return math.inf
        try:
            return parse_timeout(value)
        except RemoteProtocolError as error:
            raise self._bad(400, "invalid_timeout", str(error)) from error

    def _look(self) -> None:
        """More of the request has come: is it known by now for which model it is?"""
        request, stream = self._request, self._stream
        assert request is not None
        if stream.closed or self._inference is not None:
            return
        try:
            model = self._model_name(request)
            if model is None:
                return
            self._inference = self._parts.frontend.call(
                stream, GRPC, Request(stream.head, b"", self._received_at), ModelName(model), sender=request
            )
        except RequestRefused as refused:
            request.release()
            GRPC.refuse(stream, refused, b"POST")
            return
        if self._model is None:
            self._parts.timers.arm(self, request.deadline)
        request.attach(self._run)
        self._inference.begin()

    def _model_name(self, request: GrpcRequest) -> str | None:
        if self._model is not None:
            return self._model.decode("utf-8", "replace")
        assert self._at is not None
        if request.bytes_in < self._look_at and not request.complete:
            return None
        so_far = request.so_far
        encoding = self._stream.head.value(b"grpc-encoding")
        try:
            model = read_model(so_far, self._at, encoding, whole=request.complete)
        except Unnamed as error:
            text = f"{error}; the model can also be named in metadata {_MODEL_FIELD.decode()}"
            raise self._bad(400, "missing_model", text) from error
        if model is None:
            self._look_at = next_look(so_far)
        return model

    def _unknown_method(self, path: str) -> RequestRefused:
        """Unimplemented, as by any server: clients go by that when they look for what there is."""
        named = f"name the model in metadata {_MODEL_FIELD.decode()}"
        text = f"{path} is not known here; to reach it in a runtime, {named}"
        return self._bad(501, "unknown_method", text)

    def _bad(self, status: int, code: str, text: str) -> RequestRefused:
        return self._parts.frontend.bad_request("other", RequestRefused(status, code, text))

    def _run(self) -> Run | None:
        return self._inference.run if self._inference is not None else None

    def _answer(self, reply: bytes) -> StreamReader:
        """One message, at once: what the client's own says makes no difference."""
        stream = self._stream
        stream.send_head(response_fields())
        stream.send_data(encode_message(reply))
        stream.send_trailers(trailer_fields(GrpcStatus(Code.OK)))
        stream.finish()
        return Deaf(stream)

    def _reply_of_the_fleet(self, method: bytes) -> bytes | None:
        """The message that answers what is asked of a server; None: the method is about one model."""
        match method:
            case b"ServerLive":
                return b"\x08\x01"
            case b"ServerReady":
                return b"\x08\x01"
            case b"ServerMetadata":
                return _text(1, "infermesh") + _text(2, __version__)
            case b"RepositoryIndex":
                models = sorted(ready_targets(self._parts.frontend.view))
                return b"".join(_bytes(1, _text(1, model) + _text(3, "READY")) for model in models)
            case _:
                return None


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, value: bytes) -> bytes:
    """A length-delimited field (protobuf encoding), shorter than 2 MiB."""
    size = len(value)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + value
