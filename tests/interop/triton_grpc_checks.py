"""Triton's own gRPC client against Triton, directly or through the mesh.

Usage: `python -m tests.interop.triton_grpc_checks ADDRESS METRICS_ADDRESS`. One JSON line a check.
Runs in the environment that `scripts/interop-triton` installs.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.interop.triton_checks import (
    LARGE_COLUMNS,
    Check,
    Failed,
    Triton,
    addsub_inputs,
    expect,
    expect_addsub,
    run_checks,
    whole_numbers,
)

MANY = 128
STREAM_TIMEOUT_S = 30.0


class GrpcChecks:
    def __init__(self, address: str, triton: Triton) -> None:
        self._address = address
        self._triton = triton
        self._client = triton_grpc.InferenceServerClient(address)

    def all(self) -> list[Check]:
        return [
            self.grpc_health,
            self.grpc_standard_health,
            self.grpc_metadata,
            self.grpc_index,
            self.grpc_statistics,
            self.grpc_infer,
            self.grpc_infer_headers,
            self.grpc_infer_large,
            self.grpc_infer_compressed,
            self.grpc_infer_many_at_once,
            self.grpc_stream,
            self.grpc_stream_comes_as_it_is_made,
            self.grpc_stream_of_many_requests,
            self.grpc_stream_error_stays_in_the_stream,
            self.grpc_error_unknown_model,
            self.grpc_error_bad_input,
            self.grpc_error_unknown_method,
            self.grpc_deadline,
            self.grpc_cancel_unary_reaches_triton,
            self.grpc_cancel_stream_reaches_triton,
        ]

    def grpc_health(self) -> None:
        expect(self._client.is_server_live(), "the server is live")
        expect(self._client.is_server_ready(), "the server is ready")
        for model in ("addsub", "tokens", "slow"):
            expect(self._client.is_model_ready(model), f"{model} is ready")

    def grpc_standard_health(self) -> dict[str, Any]:
        """grpc.health.v1, which load balancers ask; the message is an enum in field 1."""
        with grpc.insecure_channel(self._address) as channel:
            answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
        expect(answer == b"\x08\x01", f"SERVING, not {answer!r}")
        return {"status": "SERVING"}

    def grpc_metadata(self) -> dict[str, Any]:
        model = self._client.get_model_metadata("addsub")
        expect([tensor.name for tensor in model.inputs] == ["A", "B"], f"metadata names the inputs: {model}")
        config = self._client.get_model_config("tokens").config
        expect(config.model_transaction_policy.decoupled, "the config says that tokens streams")
        server = self._client.get_server_metadata()
        expect(server.name, "the server has a name")
        return {"server": server.name, "version": server.version}

    def grpc_index(self) -> dict[str, Any]:
        rows = {row.name: row.state for row in self._client.get_model_repository_index().models}
        expect(all(rows.get(model) == "READY" for model in ("addsub", "tokens", "slow")), f"the index: {rows}")
        return {"index": rows}

    def grpc_statistics(self) -> None:
        statistics = self._client.get_inference_statistics("addsub")
        expect([row.name for row in statistics.model_stats] == ["addsub"], f"statistics of one model: {statistics}")

    def grpc_infer(self) -> None:
        inputs, a, b = addsub_inputs(triton_grpc)
        result = self._client.infer("addsub", inputs, request_id="grpc-1", model_version="1")
        expect_addsub(result, a, b)
        expect(result.get_response().id == "grpc-1", "the id comes back")

    def grpc_infer_headers(self) -> None:
        """Metadata of a client's own, also binary, costs nothing."""
        inputs, a, b = addsub_inputs(triton_grpc)
        headers = {"x-request-id": "abc", "tenant": "blue", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        expect_addsub(self._client.infer("addsub", inputs, headers=headers), a, b)

    def grpc_infer_large(self) -> dict[str, Any]:
        inputs, a, b = addsub_inputs(triton_grpc, LARGE_COLUMNS)
        expect_addsub(self._client.infer("addsub", inputs), a, b)
        return {"bytes_each_way": 2 * a.nbytes}

    def grpc_infer_compressed(self) -> None:
        inputs, a, b = addsub_inputs(triton_grpc, 4096)
        for how in ("gzip", "deflate"):
            expect_addsub(self._client.infer("addsub", inputs, compression_algorithm=how), a, b)

    def grpc_infer_many_at_once(self) -> dict[str, Any]:
        inputs, a, b = addsub_inputs(triton_grpc)
        done: queue.Queue[tuple[Any, Any]] = queue.Queue()
        for _ in range(MANY):
            self._client.async_infer("addsub", inputs, lambda result, error: done.put((result, error)))
        for _ in range(MANY):
            result, error = done.get(timeout=STREAM_TIMEOUT_S)
            expect(error is None, f"one failed: {error}")
            expect_addsub(result, a, b)
        return {"requests": MANY}

    def grpc_stream(self) -> dict[str, Any]:
        """Many answers to one request, the last one empty and marked as final."""
        with Stream(self._client) as stream:
            stream.ask("tokens", "s-1", COUNT=20, PAUSE_MS=5)
            tokens = list(stream.tokens("s-1"))
        expect(tokens == [f"tok{number} " for number in range(20)], f"twenty tokens: {tokens}")
        return {"messages": len(tokens) + 1}

    def grpc_stream_comes_as_it_is_made(self) -> dict[str, Any]:
        with Stream(self._client) as stream:
            began = time.monotonic()
            stream.ask("tokens", "s-2", COUNT=10, PAUSE_MS=100)
            tokens = stream.tokens("s-2")
            next(tokens)
            first_ms = 1e3 * (time.monotonic() - began)
            rest = sum(1 for _ in tokens)
        expect(rest == 9, f"nine more tokens: {rest}")
        last_ms = 1e3 * (time.monotonic() - began)
        expect(first_ms < last_ms / 3, f"the first came after {first_ms:.0f} of {last_ms:.0f} ms")
        return {"first_ms": round(first_ms, 1), "last_ms": round(last_ms, 1)}

    def grpc_stream_of_many_requests(self) -> dict[str, Any]:
        """One stream carries requests one after another, and their answers interleaved."""
        with Stream(self._client) as stream:
            names = [f"m-{number}" for number in range(8)]
            for name in names:
                stream.ask("tokens", name, COUNT=10, PAUSE_MS=5)
            counts = dict.fromkeys(names, 0)
            ended = 0
            while ended < len(names):
                name, token = stream.next()
                counts[name] += token is not None
                ended += token is None
        expect(set(counts.values()) == {10}, f"ten tokens for each request: {counts}")
        return {"requests": len(names)}

    def grpc_stream_error_stays_in_the_stream(self) -> dict[str, Any]:
        """A bad request is an error message; the stream goes on."""
        with Stream(self._client) as stream:
            stream.ask("tokens", "bad", COUNT=1)
            try:
                stream.next()
            except InferenceServerException as error:
                message = error.message()
            else:
                raise Failed("an error message was expected")
            stream.ask("tokens", "good", COUNT=2, PAUSE_MS=1)
            expect(len(list(stream.tokens("good"))) == 2, "two tokens after the error")
        return {"message": message[:120]}

    def grpc_error_unknown_model(self) -> dict[str, Any]:
        inputs, _, _ = addsub_inputs(triton_grpc)
        return self._refusal(lambda: self._client.infer("nope", inputs), "StatusCode.NOT_FOUND")

    def grpc_error_bad_input(self) -> dict[str, Any]:
        inputs, _, _ = addsub_inputs(triton_grpc)
        return self._refusal(lambda: self._client.infer("addsub", inputs[:1]), "StatusCode.INVALID_ARGUMENT")

    def grpc_error_unknown_method(self) -> dict[str, Any]:
        with grpc.insecure_channel(self._address) as channel:
            try:
                # Field 1 names the model, as in all of this service's messages: by it a router knows where to ask.
                channel.unary_unary("/inference.GRPCInferenceService/NoSuchMethod")(b"\n\x06addsub", timeout=10)
            except grpc.RpcError as error:
                expect(error.code() is grpc.StatusCode.UNIMPLEMENTED, f"UNIMPLEMENTED, not {error.code()}")
                return {"message": error.details()}
        raise Failed("an error was expected")

    def grpc_deadline(self) -> dict[str, Any]:
        """The deadline ends the call for the client, and the model's work."""
        before = self._triton.cancelled("slow")
        inputs = whole_numbers(triton_grpc, DELAY_MS=8000)
        found = self._refusal(
            lambda: self._client.infer("slow", inputs, client_timeout=0.3), "StatusCode.DEADLINE_EXCEEDED"
        )
        return {**found, "cancelled_after_ms": self._triton.wait_cancelled("slow", before)}

    def grpc_cancel_unary_reaches_triton(self) -> dict[str, Any]:
        before = self._triton.cancelled("slow")
        ended = threading.Event()
        inputs = whole_numbers(triton_grpc, DELAY_MS=8000)
        context = self._client.async_infer("slow", inputs, lambda result, error: ended.set())
        expect(not ended.wait(0.3), "the call goes on")  # A cancel that overtakes its request would show nothing.
        context.cancel()
        expect(ended.wait(5), "the call ended")
        return {"cancelled_after_ms": self._triton.wait_cancelled("slow", before)}

    def grpc_cancel_stream_reaches_triton(self) -> dict[str, Any]:
        before = self._triton.cancelled("tokens")
        requests: queue.Queue[Any] = queue.Queue()
        request = service_pb2.ModelInferRequest(model_name="tokens", id="c-1")
        for name, value in (("COUNT", 500), ("PAUSE_MS", 20)):
            request.inputs.add(name=name, datatype="INT32", shape=[1]).contents.int_contents.append(value)
        with grpc.insecure_channel(self._address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = stub.ModelStreamInfer(iter(requests.get, None), timeout=STREAM_TIMEOUT_S)
            requests.put(request)
            for _ in range(3):
                expect(not next(call).error_message, "an answer")
            call.cancel()
            took_ms = self._triton.wait_cancelled("tokens", before)
            requests.put(None)
        return {"cancelled_after_ms": took_ms}

    def _refusal(self, call: Callable[[], Any], status: str) -> dict[str, Any]:
        try:
            call()
        except InferenceServerException as error:
            expect(error.status() == status, f"status {error.status()}, {status} was expected: {error.message()}")
            return {"status": error.status(), "message": (error.message() or "")[:120]}
        raise Failed("an error was expected")


class Stream:
    """One ModelStreamInfer of tritonclient, its answers in a queue."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._answers: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __enter__(self) -> Stream:
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.stop_stream()

    def ask(self, model: str, name: str, **values: int) -> None:
        inputs = whole_numbers(triton_grpc, **values)
        self._client.async_stream_infer(model, inputs, request_id=name, enable_empty_final_response=True)

    def next(self) -> tuple[str, str | None]:
        """The id of the next answer and its token; None for the final one."""
        result, error = self._answers.get(timeout=STREAM_TIMEOUT_S)
        if error is not None:
            raise error
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            return response.id, None
        return response.id, result.as_numpy("TOKEN")[0].decode()

    def tokens(self, name: str) -> Iterator[str]:
        while True:
            found, token = self.next()
            expect(found == name, f"an answer to {found} came on the stream of {name}")
            if token is None:
                return
            yield token


def main() -> int:
    address, metrics_address = sys.argv[1:]
    return run_checks(GrpcChecks(address, Triton(metrics_address)).all())


if __name__ == "__main__":
    sys.exit(main())
