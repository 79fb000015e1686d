"""What passes the two hops between client and runtime, and what does not; and the trace that is left of it.

A runtime that writes down what it is sent stands behind a GPU node, and a collector takes the spans of both nodes.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.interop.conftest import Program
from tests.interop.exchange import ask
from tests.interop.fleet import Fleet, NodeSpec, router, running_fleet
from tests.interop.peers import MODEL, Collector, FakeRuntime, Heard, Span, collector, fake_runtime

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PARENT_ID = "00f067aa0ba902b7"
INTERNAL, SERVER, CLIENT = 1, 2, 3


@dataclass(frozen=True)
class Traced:
    fleet: Fleet
    runtime: FakeRuntime
    collector: Collector

    def send(self, *fields: tuple[str, str], stream: bool = False) -> Heard:
        """A request with these header fields; as the runtime had it. Two fields of one name are two lines."""
        value = {"model": MODEL, "prompt": "x", "max_tokens": 1, "stream": stream}
        before = len(self.runtime.heard)
        answer = ask(self.fleet.port, "/v1/completions", method="POST", value=value, headers=dict(fields))
        assert answer.status == 200, answer.text
        assert len(self.runtime.heard) == before + 1
        return self.runtime.heard[-1]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    with fake_runtime() as runtime, collector() as collecting:
        settings = {"tracing": {"endpoint": collecting.endpoint, "sample_ratio": 0.0}}
        gpu = NodeSpec(node="gpu-a", settings=settings, runtimes=[{"kind": "vllm", "url": runtime.url, "slots": 8}])
        with running_fleet(tmp_path_factory.mktemp("traced"), [router(settings), gpu]) as fleet:
            yield Traced(fleet, runtime, collecting)


@pytest.fixture
def trace_id() -> str:
    return uuid.uuid4().hex


def _traceparent(trace_id: str, flags: str = "01") -> tuple[str, str]:
    return "traceparent", f"00-{trace_id}-{PARENT_ID}-{flags}"


# --- Trace context ---


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_trace_of_the_client_goes_on_to_the_runtime(flags: str, traced: Traced, trace_id: str) -> None:
    heard = traced.send(_traceparent(trace_id, flags), ("tracestate", "vendor=abc,other=1"))
    version, trace, span, kept = heard.value("traceparent").split("-")
    assert (version, trace, kept) == ("00", trace_id, flags)
    assert span not in (PARENT_ID, "0" * 16)
    assert heard.value("tracestate") == "vendor=abc,other=1"


@pytest.mark.parametrize(
    "value",
    [
        "00-abc-def-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"ff-{'1' * 32}-{PARENT_ID}-01",
        f"00-{'A' * 32}-{PARENT_ID}-01",
    ],
)
def test_a_trace_that_is_none_is_replaced_and_its_state_dropped(value: str, traced: Traced) -> None:
    heard = traced.send(("traceparent", value), ("tracestate", "vendor=abc"))
    match = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-00", heard.value("traceparent"))
    assert match is not None
    assert match[1] not in value.lower()
    assert heard.values("tracestate") == []


def test_a_request_without_a_trace_gets_one_of_its_own(traced: Traced) -> None:
    traces = {traced.send().value("traceparent").split("-")[1] for _ in range(3)}
    assert len(traces) == 3


def test_the_request_id_is_the_same_for_client_runtime_and_explain(traced: Traced) -> None:
    value = {"model": MODEL, "prompt": "x"}
    answer = ask(
        traced.fleet.port, "/v1/completions", method="POST", value=value, headers={"x-infermesh-request-id": "mine"}
    )
    request_id = answer.headers["x-infermesh-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", request_id), "a client does not name our requests"
    assert traced.runtime.heard[-1].value("x-infermesh-request-id") == request_id
    assert traced.fleet.router.admin(f"/v1/explain/{request_id}")["winner"] == "gpu-a"


def test_router_and_gpu_node_send_the_spans_of_one_trace(traced: Traced, trace_id: str) -> None:
    heard = traced.send(_traceparent(trace_id), stream=True)
    found = traced.collector.wait_spans(trace_id, ["router.choose", "request", "queue_wait", "compute", "compute"])
    by_name: dict[tuple[str, str], Span] = {(span.node, span.name): span for span in found}
    request = by_name["edge", "request"]
    assert request.parent_id == PARENT_ID
    assert request.kind == SERVER
    for name in ("router.choose", "queue_wait", "compute"):
        span = by_name["edge", name]
        assert span.parent_id == request.span_id
        assert request.start_unix_s - 0.001 <= span.start_unix_s
        assert span.end_unix_s <= request.end_unix_s + 0.001
    assert by_name["edge", "compute"].attributes["node"] == "gpu-a"
    assert by_name["edge", "compute"].kind == CLIENT
    assert by_name["edge", "router.choose"].kind == INTERNAL
    # The GPU node's is what the runtime was told as its parent, and hangs below the router's.
    there = by_name["gpu-a", "compute"]
    assert there.parent_id in (request.span_id, by_name["edge", "compute"].span_id)
    assert there.span_id == heard.value("traceparent").split("-")[2]
    assert request.start_unix_s - 0.01 <= there.start_unix_s
    assert traced.collector.content_types == {"application/x-protobuf"}


def test_an_unsampled_trace_leaves_no_span(traced: Traced, trace_id: str) -> None:
    traced.send(_traceparent(trace_id, "00"))
    other = uuid.uuid4().hex
    traced.send(_traceparent(other))
    traced.collector.wait_spans(other, ["router.choose", "request", "queue_wait", "compute", "compute"])
    assert traced.collector.of(trace_id) == []


# --- Fields of a hop ---


def _curl(program: Program, traced: Traced, *arguments: str, stream: bool = False) -> tuple[str, str]:
    body = json.dumps({"model": MODEL, "prompt": "x", "stream": stream})
    command = [program("curl"), "--silent", "--verbose", "--max-time", "20", *arguments, "--data", body]
    done = subprocess.run(
        [*command, f"{traced.fleet.url}/v1/completions"], capture_output=True, timeout=30, check=True, text=True
    )
    return done.stdout, done.stderr


def test_fields_of_the_clients_connection_do_not_reach_the_runtime(program: Program, traced: Traced) -> None:
    fields = {
        "Connection": "keep-alive, X-Private, Authorization",
        "X-Private": "for this hop",
        "Keep-Alive": "timeout=9",
        "TE": "trailers",
        "Upgrade": "example/1",
        "Proxy-Connection": "keep-alive",
        "Proxy-Authorization": "Basic cHJveHk6cHJveHk=",
        "X-Forwarded-For": "10.9.8.7",
        "X-Infermesh-Model": "another",
        "X-Infermesh-Tenant": "somebody",
        "X-Infermesh-Priority": "bulk",
        "X-Infermesh-Replica": "3",
        "Authorization": "Bearer for-the-runtime",
        "X-Custom": "passes",
        "Accept-Language": "de",
        "Via": "1.0 front",
    }
    arguments = [part for name, value in fields.items() for part in ("-H", f"{name}: {value}")]
    _curl(program, traced, *arguments)
    heard = traced.runtime.heard[-1]
    names = [name for name, _ in heard.fields]
    gone = {"x-private", "keep-alive", "te", "upgrade", "proxy-connection", "proxy-authorization", "x-forwarded-for"}
    gone |= {name for name in names if name.startswith("x-infermesh-")} - {"x-infermesh-request-id"}
    assert not gone & set(names), sorted(gone & set(names))
    # Connection cannot take away what belongs to the message (RFC 9110 section 7.6.1).
    assert heard.value("authorization") == "Bearer for-the-runtime"
    assert heard.value("x-custom") == "passes"
    assert heard.value("accept-language") == "de"
    assert heard.value("content-type") == "application/x-www-form-urlencoded", "curl's own, untouched"
    assert heard.values("via") == ["1.0 front", "1.1 edge", "1.1 gpu-a"]
    assert json.loads(heard.body)["model"] == MODEL
    assert int(heard.value("content-length")) == len(heard.body)


@pytest.mark.parametrize("stream", [False, True])
def test_fields_of_the_runtimes_connection_do_not_reach_the_client(
    stream: bool,
    program: Program,
    traced: Traced,
) -> None:
    traced.runtime.extra = (
        ("Connection", "keep-alive, X-Runtime-Private"),
        ("X-Runtime-Private", "for this hop"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("X-Infermesh-Load", "i=9;q=9;r=9;k=0.9"),
        ("X-Infermesh-Node", "a-liar"),
        ("X-Runtime", "passes"),
        ("Set-Cookie", "one=1"),
        ("Set-Cookie", "two=2"),
    )
    try:
        out, said = _curl(program, traced, stream=stream)
    finally:
        traced.runtime.extra = ()
    got = [line.removeprefix("< ").strip() for line in said.splitlines() if line.startswith("< ")]
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in got[1:])]
    names = [name for name, _ in fields]
    for gone in ("x-runtime-private", "keep-alive", "proxy-authenticate", "x-infermesh-load"):
        assert gone not in names
    assert ("x-infermesh-node", "gpu-a") in fields
    assert names.count("x-infermesh-node") == 1
    assert ("x-runtime", "passes") in fields
    assert [value for name, value in fields if name == "set-cookie"] == ["one=1", "two=2"]
    if stream:
        assert names.count("transfer-encoding") == 1
        assert "content-length" not in names
        assert out.endswith("data: [DONE]\n\n")
    else:
        assert ("content-length", str(len(out))) in fields
        assert "transfer-encoding" not in names


def test_the_mesh_port_takes_nobody_without_a_certificate(program: Program, traced: Traced) -> None:
    port = traced.fleet["gpu-a"].mesh_port
    before = len(traced.runtime.heard)
    for url in (f"https://127.0.0.1:{port}/v1/completions", f"http://127.0.0.1:{port}/v1/completions"):
        command = [program("curl"), "--silent", "--insecure", "--max-time", "5", url, "--data", '{"model": "tiny"}']
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)
        assert done.returncode != 0
        assert done.stdout == b""
    assert len(traced.runtime.heard) == before
    failed = traced.fleet["gpu-a"].counter("infermesh_tls_handshakes_failed_total", port="mesh")
    assert failed == 2
