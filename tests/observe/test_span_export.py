import io
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import h11
import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from infermesh.observe.families import Value
from infermesh.observe.logs import configure_logs, get_logger
from infermesh.observe.span_export import SpanCounters, SpanExportConfig, run_span_export, traces_url
from infermesh.observe.tracing import SpanRecord, Tracer

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
ROOT = b"00f067aa0ba902b7"
CHILD = b"00f067aa0ba902b8"
CALLER = b"1111111111111111"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    stream = io.StringIO()
    configure_logs("edge", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    configure_logs("", stream=sys.__stderr__, human=False)


class Collector:
    """An OTLP/HTTP collector that keeps what it gets and answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[bytes] = []
        self.arrived = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        body = b""
        async with stream:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Request):
                    self.paths.append(event.target)
                    body = b""
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.requests.append(ExportTraceServiceRequest.FromString(body))
                    head = h11.Response(status_code=self.status, headers=[(b"content-length", b"0")])
                    await stream.send_all((connection.send(head) or b"") + (connection.send(h11.EndOfMessage()) or b""))
                    connection.start_next_cycle()
                    self.arrived.set()
                else:
                    return

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Setup:
    def __init__(self, endpoint: str, **limits: float) -> None:
        self.exported, self.failed, self.dropped, self.recorded = Value(), Value(), Value(), Value()
        self.tracer = Tracer(random.Random(1), enabled=True, recorded=self.recorded, dropped=self.dropped)
        settings = {"period_s": 0.01, "send_timeout_s": 5.0, "shutdown_flush_s": 5.0} | limits
        self.config = SpanExportConfig(endpoint=endpoint, node="edge", version="0.1.0", **settings)  # type: ignore[arg-type]
        self.counters = SpanCounters(self.exported, self.failed)

    async def run(self) -> None:
        await run_span_export(self.tracer, self.config, self.counters, get_logger())

    def record(self, name: str, span_id: bytes = CHILD, parent_id: bytes = ROOT, **attributes: str | int) -> None:
        self.tracer.record(name, 1_000, 2_000, TRACE, span_id, parent_id, attributes=attributes)


async def _listen(nursery: trio.Nursery, collector: Collector) -> str:
    listeners = await nursery.start(trio.serve_tcp, collector.serve, 0)
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


@pytest.mark.slow
async def test_spans_reach_a_collector_as_one_trace(lines: Callable[[], list[dict[str, object]]]) -> None:
    collector = Collector()
    async with trio.open_nursery() as nursery:
        setup = Setup(await _listen(nursery, collector))
        setup.record("request", ROOT, CALLER, model="m", status=200)
        setup.record("router.choose")
        setup.record("compute", node="gpu-a", error="broken: reset by peer")
        nursery.start_soon(setup.run)
        with trio.fail_after(30):
            await collector.arrived.wait()
        nursery.cancel_scope.cancel()

    request, choose, compute = collector.spans()
    assert collector.paths == [b"/v1/traces"]
    assert {span.trace_id.hex().encode() for span in (request, choose, compute)} == {TRACE}
    assert (request.name, request.kind, request.span_id.hex()) == ("request", Span.SPAN_KIND_SERVER, ROOT.decode())
    assert request.parent_span_id.hex() == CALLER.decode()
    assert (request.start_time_unix_nano, request.end_time_unix_nano) == (1_000, 2_000)
    assert {a.key: a.value.string_value or a.value.int_value for a in request.attributes} == {
        "model": "m",
        "status": 200,
    }
    assert (choose.name, choose.kind) == ("router.choose", Span.SPAN_KIND_INTERNAL)
    assert choose.parent_span_id == request.span_id
    assert (compute.kind, compute.status.code) == (Span.SPAN_KIND_CLIENT, Status.STATUS_CODE_ERROR)
    assert compute.status.message == "broken: reset by peer"
    resource = {a.key: a.value.string_value for a in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "infermesh"
    assert resource["service.instance.id"] == "edge"
    assert (setup.exported.value, setup.failed.value) == (3, 0)
    assert lines() == []


@pytest.mark.slow
async def test_what_is_left_at_the_end_is_sent(lines: Callable[[], list[dict[str, object]]]) -> None:
    collector = Collector()
    async with trio.open_nursery() as nursery:
        setup = Setup(await _listen(nursery, collector), period_s=0.01)
        async with trio.open_nursery() as exporting:
            exporting.start_soon(setup.run)
            setup.record("request")
            with trio.fail_after(30):
                await collector.arrived.wait()
            for _ in range(1500):
                setup.record("compute")
            exporting.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    assert len(collector.spans()) == 1501
    assert (setup.exported.value, setup.failed.value, len(setup.tracer)) == (1501, 0, 0)


@pytest.mark.slow
async def test_a_collector_that_refuses_costs_spans_and_one_log_line(
    lines: Callable[[], list[dict[str, object]]],
) -> None:
    collector = Collector(status=400)
    async with trio.open_nursery() as nursery:
        setup = Setup(await _listen(nursery, collector))
        nursery.start_soon(setup.run)
        for status in (400, 400, 200):
            collector.status = status
            collector.arrived = trio.Event()
            setup.record("request")
            with trio.fail_after(30):
                await collector.arrived.wait()
        nursery.cancel_scope.cancel()
    assert (setup.exported.value, setup.failed.value) == (1, 2)
    failed, resumed = lines()
    assert (failed["event"], failed["level"]) == ("span_export_failed", "warning")
    assert "400" in str(failed["reason"])
    assert (resumed["event"], resumed["spans_lost"]) == ("span_export_resumed", 2)


class StuckSender:
    """A collector that never answers, in the thread."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def send(self, spans: Sequence[SpanRecord]) -> str:
        self.entered.set()
        self.released.wait(60)
        return "stopped"

    def stop(self) -> None:
        self.released.set()


async def test_a_stuck_collector_does_not_hold_up_the_shutdown(
    lines: Callable[[], list[dict[str, object]]],
) -> None:
    setup = Setup("http://unused", shutdown_flush_s=0.05)
    sender = StuckSender()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_span_export, setup.tracer, setup.config, setup.counters, get_logger(), sender)
        setup.record("request")
        with trio.fail_after(30):
            await trio.to_thread.run_sync(sender.entered.wait)
        setup.record("compute")
        began = time.monotonic()
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began < 5.0
    # Both are accounted for: the one in the thread and the one that was never sent.
    assert (setup.exported.value, setup.failed.value, len(setup.tracer)) == (0, 2, 0)


class BrokenSender:
    def __init__(self) -> None:
        self.done = threading.Event()

    def send(self, spans: Sequence[SpanRecord]) -> str:
        self.done.set()
        raise RuntimeError("no such method")

    def stop(self) -> None:
        pass


async def test_a_fault_inside_the_exporter_costs_its_spans_and_not_the_daemon(
    lines: Callable[[], list[dict[str, object]]],
) -> None:
    setup = Setup("http://unused")
    sender = BrokenSender()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_span_export, setup.tracer, setup.config, setup.counters, get_logger(), sender)
        setup.record("request")
        with trio.fail_after(30):
            await trio.to_thread.run_sync(sender.done.wait)
        nursery.cancel_scope.cancel()
    assert setup.failed.value == 1
    assert [line["reason"] for line in lines()] == ["RuntimeError: no such method"]


async def test_a_wrong_environment_turns_tracing_off_and_says_so(
    lines: Callable[[], list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "nobody")
    setup = Setup("http://127.0.0.1:1")
    with trio.fail_after(30):
        await setup.run()
    setup.record("request")
    assert len(setup.tracer) == 0
    [line] = lines()
    assert line["event"] == "span_export_unavailable"
    assert "nobody" in str(line["reason"])


def test_a_bare_endpoint_gets_the_standard_path() -> None:
    assert traces_url("http://c:4318") == "http://c:4318/v1/traces"
    assert traces_url("http://c:4318/") == "http://c:4318/v1/traces"
    assert traces_url("http://c:4318/otlp/v1/traces") == "http://c:4318/otlp/v1/traces"
