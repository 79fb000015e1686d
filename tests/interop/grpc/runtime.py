"""A runtime of the Open Inference Protocol made of other people's parts: grpcio's server, in threads, and REST pages.

Not a model: each method does one thing that a test can see from outside, whatever service its path names, and
`seen` counts what reached the methods and how it left. Messages are bytes; a KServe request begins with its model's
name, as protobuf writes it. The REST side (infermesh.testing.kserve_runtime) is for the adapter of a GPU node.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import trio
from google.protobuf import any_pb2, wrappers_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from infermesh.testing.http_peer import HttpPeer
from infermesh.testing.kserve_runtime import MODEL, serve_kserve_pages
from infermesh.testing.mesh_plan import RuntimeAt

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
SERVICE: Final = "/test.Anything/"  # Names its model in metadata.
THREADS: Final = 600  # One for each call under way.
GIVE_UP_S: Final = 20.0
Options = Sequence[tuple[str, Any]]
Behaviour = Callable[..., Any]


def named(model: str, rest: bytes = b"") -> bytes:
    """A message whose first field is the model's name."""
    return b"\x0a" + bytes([len(model)]) + model.encode() + rest


@dataclass
class Methods:
    """What the runtime does, by the last word of a method's path; one object for each runtime."""

    seen: Counter[str] = field(default_factory=Counter)
    requests: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    time_left_s: list[float | None] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)  # Connections that calls came by.
    before_answer: Callable[[], object] | None = None  # `Say` calls it, and then answers.
    decide_wait: Callable[[Methods], float] | None = None  # How long this one call of `Say` waits.
    refuse_with: grpc.StatusCode | None = None  # What `Say` answers instead.
    decide_code: Callable[[Methods], grpc.StatusCode | None] | None = None  # What this one call of it answers.
    cancelled_at: list[float] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def count(self, what: str) -> None:
        with self._changed:
            self.seen[what] += 1
            self._changed.notify_all()

    def await_seen(self, what: str, times: int = 1) -> None:
        """In a thread of the test's: until `what` was counted so often."""
        with self._changed:
            there = self._changed.wait_for(lambda: self.seen[what] >= times, GIVE_UP_S)
        assert there, f"{what} was seen {self.seen[what]} times, not {times}"

    # --- methods ---

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """The request back. Metadata that begins with `x-test-` comes back in the head and in the trailers."""
        own = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-test-")]
        self._note(request, context)
        wait_s = self.decide_wait(self) if self.decide_wait is not None else 0.0
        if wait_s:
            self._sleep(context, wait_s)
        if self.before_answer is not None:
            self.before_answer()
        refuse_with = self.decide_code(self) if self.decide_code is not None else self.refuse_with
        if refuse_with is not None:
            context.abort(refuse_with, "as told")
        context.send_initial_metadata(own)
        context.set_trailing_metadata([*own, ("x-trailing", "yes")])
        return request

    def fail(self, request: bytes, context: grpc.ServicerContext) -> None:
        detail = any_pb2.Any()
        detail.Pack(wrappers_pb2.StringValue(value="a detail"))
        status = status_pb2.Status(code=9, message="as told: 100 % früh", details=[detail])
        context.abort_with_status(rpc_status.to_status(status))

    def squeeze(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note(request, context)
        context.set_compression(grpc.Compression.Gzip)
        return request

    def wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Never answers by itself."""
        self._note(request, context)
        self._sleep(context, GIVE_UP_S)
        return b""

    def count_up(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """As many messages as the last byte of the request says."""
        self._note(request, context)
        for number in range(request[-1]):
            yield b"%d" % number

    def pour(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """16 KiB each, for ever."""
        self._note(request, context)
        context.add_callback(lambda: self.count("cancelled"))
        while context.is_active():
            self.count("poured")
            yield bytes(16_384)

    def trickle(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """One message, and then nothing."""
        self._note(request, context)
        yield b"first"
        self._sleep(context, GIVE_UP_S)

    def join(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        parts = list(requests)
        self._note(parts[0] if parts else b"", context)
        return b"|".join(parts)

    def drink(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """How many bytes came; takes none before it is told to."""
        self._note(b"", context)
        self.await_seen("thirsty")
        return b"%d" % sum(map(len, requests))

    def chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Its head at once; then each message back as it comes."""
        self._note(b"", context)
        context.add_callback(lambda: self.count("cancelled"))
        context.send_initial_metadata([("x-hello", "there")])
        for request in requests:
            self.count("heard")
            yield request

    # --- inside ---

    def _note(self, request: bytes, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append({pair[0]: pair[1] for pair in context.invocation_metadata()})
        self.time_left_s.append(context.time_remaining())
        self.peers.add(context.peer())
        self.count("begun")

    def _sleep(self, context: grpc.ServicerContext, seconds: float) -> None:
        """Or until the call is over."""
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        if over.wait(seconds):
            self.cancelled_at.append(time.monotonic())
            self.count("cancelled")


class _AnyService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the method by the last word of the path."""

    def __init__(self, methods: Methods) -> None:
        unary = {"Say": methods.say, "ModelInfer": methods.say, "Predict": methods.say, "Fail": methods.fail}
        unary |= {"Squeeze": methods.squeeze, "Wait": methods.wait}
        streams = {"Count": methods.count_up, "Pour": methods.pour, "Trickle": methods.trickle}
        self._by_name = {
            **_handlers(grpc.unary_unary_rpc_method_handler, unary),
            **_handlers(grpc.unary_stream_rpc_method_handler, streams),
            **_handlers(grpc.stream_unary_rpc_method_handler, {"Join": methods.join, "Drink": methods.drink}),
            **_handlers(
                grpc.stream_stream_rpc_method_handler, {"Chat": methods.chat, "ModelStreamInfer": methods.chat}
            ),
        }

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._by_name.get(call.method.rsplit("/", 1)[-1])


def _handlers(make: Callable[[Behaviour], Any], behaviours: dict[str, Behaviour]) -> dict[str, Any]:
    return {name: make(behaviour) for name, behaviour in behaviours.items()}


@dataclass
class KServeRuntime:
    """One runtime: how to do things to it, and where it is."""

    at: RuntimeAt
    methods: Methods
    server: grpc.Server
    pages: HttpPeer


@asynccontextmanager
async def kserve_runtime(*, model: str = MODEL, slots: int = 64, options: Options = ()) -> AsyncIterator[KServeRuntime]:
    """Serves until the end of the block. `options`: of grpcio's server."""
    methods = Methods()
    failure: Exception | None = None
    with ThreadPoolExecutor(THREADS) as threads:
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = grpc.server(threads, options=[*unlimited, *options])
        server.add_generic_rpc_handlers((_AnyService(methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            async with trio.open_nursery() as nursery:
                pages: HttpPeer = await nursery.start(serve_kserve_pages, model)
                nursery.start_soon(_pulse)
                at = RuntimeAt(pages.base_url, model, slots, kind="kserve", grpc_address=("127.0.0.1", port))
                try:
                    yield KServeRuntime(at, methods, server, pages)
                except Exception as error:  # noqa: BLE001 - carried out of the nursery, and raised again there.
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            stopped = server.stop(0)
            await trio.to_thread.run_sync(stopped.wait)
    if failure is not None:
        raise failure


async def _pulse() -> None:
    """What threads do is seen by whoever waits in trio's loop (`waiting.wait_until`) when a task takes a step."""
    while True:
        await trio.sleep(0.02)
