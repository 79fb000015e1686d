"""Two servers that write down what they are sent: a runtime with the face of vLLM, and an OTLP/HTTP collector.

Made of the standard library's HTTP server, so that what they read and write is not ours.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.interop.exchange import HOST, wait_until

MODEL: Final = "tiny"  # As in the captures of a real server, which the fake runtime serves again.
_CAPTURES: Final = Path(__file__).parents[1] / "fixtures" / "vllm"


@dataclass(frozen=True)
class Heard:
    """One request as the runtime had it: names in lower case, in their order."""

    path: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for other, value in self.fields if other == name]

    def value(self, name: str) -> str:
        """Of a field that must be there exactly once."""
        values = self.values(name)
        assert len(values) == 1, f"{name}: {values} in {self.fields}"
        return values[0]


@dataclass
class FakeRuntime:
    """Answers every generating request at once. `extra` are fields that it puts on each answer."""

    port: int
    heard: list[Heard] = field(default_factory=list)
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


@contextlib.contextmanager
def fake_runtime() -> Iterator[FakeRuntime]:
    pages = {
        "/health": b"",
        "/metrics": (_CAPTURES / "metrics_idle.txt").read_bytes(),
        "/v1/models": (_CAPTURES / "models.json").read_bytes(),
    }

    class Runtime(_Quiet):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.reply(404 if page is None else 200, page or b"")

        def do_POST(self) -> None:
            fields = tuple((name.lower(), value) for name, value in self.headers.items())
            body = self.rfile.read(int(self.headers["content-length"]))
            runtime.heard.append(Heard(self.path, fields, body))
            if json.loads(body).get("stream"):
                self.stream()
            else:
                self.reply(200, b'{"choices": [{"text": "ok"}]}', runtime.extra)

        def stream(self) -> None:
            self.send_response(200)
            for name, value in (("content-type", "text/event-stream"), ("transfer-encoding", "chunked")):
                self.send_header(name, value)
            for name, value in runtime.extra:
                self.send_header(name, value)
            self.end_headers()
            for event in (b'data: {"choices": [{"text": "ok"}]}\n\n', b"data: [DONE]\n\n", b""):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    with _serving(Runtime) as port:
        runtime = FakeRuntime(port)
        yield runtime


@dataclass(frozen=True)
class Span:
    """As the collector was told. Ids in hexadecimal; `node` is the instance that sent it."""

    node: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_unix_s: float
    end_unix_s: float
    attributes: dict[str, Any]


@dataclass
class Collector:
    port: int
    spans: list[Span] = field(default_factory=list)
    content_types: set[str] = field(default_factory=set)

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def of(self, trace_id: str) -> list[Span]:
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.start_unix_s)

    def wait_spans(self, trace_id: str, names: Sequence[str]) -> list[Span]:
        """Once spans of these names have come for a trace: all of it."""
        wanted = sorted(names)
        wait_until(
            f"spans {wanted} of trace {trace_id}", lambda: sorted(span.name for span in self.of(trace_id)) == wanted, 10
        )
        return self.of(trace_id)


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    class Collecting(_Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.content_types.add(self.headers["content-type"])
            if self.path == "/v1/traces":
                found.spans.extend(_spans(body, self.headers.get("content-encoding", "")))
            self.reply(200, b"")

    with _serving(Collecting) as port:
        found = Collector(port)
        yield found


def _spans(body: bytes, coding: str) -> Iterator[Span]:
    assert not coding, f"this collector reads no {coding}"
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        named = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
        assert named["service.name"] == "infermesh"
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    node=named["service.instance.id"],
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=span.kind,
                    start_unix_s=span.start_time_unix_nano / 1e9,
                    end_unix_s=span.end_time_unix_nano / 1e9,
                    attributes={
                        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
                        for pair in span.attributes
                    },
                )


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on stderr."""

    def reply(self, status: int, body: bytes, fields: Sequence[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer((HOST, 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
