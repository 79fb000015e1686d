import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.types import ASGIApp, Message

from infermesh.core.model.names import NodeId, TargetKey
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView
from infermesh.observe.metrics import Metrics
from infermesh.planes.control.admin import (
    BODY_BYTES_MAX,
    PATH_BYTES_MAX,
    QUERY_BYTES_MAX,
    REQUESTS_AT_ONCE_MAX,
    Json,
    admin_app,
)


class Sources:
    """A node that knows one model and one request."""

    def __init__(self, view: RoutingView = EMPTY_VIEW) -> None:
        self.me = "edge"
        self.metrics = Metrics(NodeId("edge"), "0.1.0")
        self.state: tuple[bool, Sequence[str]] = (True, ())
        self.asked: list[tuple[object, ...]] = []
        self._view = view

    def view(self) -> RoutingView:
        return self._view

    def inflight(self, key: TargetKey) -> int:
        return 0

    def ready(self) -> tuple[bool, Sequence[str]]:
        return self.state

    def score(self, model: str, prompt_tokens: int, output_tokens: int) -> Json | None:
        self.asked.append((model, prompt_tokens, output_tokens))
        return {"model": model, "candidates": []} if model == "m" else None

    def explain(self, request_id: str) -> Json | None:
        if request_id == "broken":
            raise RuntimeError("planted")
        return {"request_id": request_id} if request_id == "r1" else None

    def requests(self, limit: int) -> Sequence[Json]:
        self.asked.append((limit,))
        return [{"request_id": "r1"}]


class Answer:
    def __init__(self, messages: list[Message]) -> None:
        start = messages[0]
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


async def ask(app: ASGIApp, target: str, method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """One request straight to the application, as hypercorn hands it over."""
    path, _, query = target.partition("?")
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"x"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return Answer(messages)


async def test_the_index_names_the_node_and_every_path() -> None:
    answer = await ask(admin_app(Sources()), "/")
    assert answer.status == 200
    assert answer.json()["node"] == "edge"
    assert "/v1/explain/{request_id}" in answer.json()["paths"]
    assert answer.headers["cache-control"] == "no-store"
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_metrics_are_served_with_the_gauges_of_the_view() -> None:
    sources = Sources(RoutingView(version=9, built_at=0.0, nodes={}, eligible={}, targets={}))
    answer = await ask(admin_app(sources), "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse_text(answer.body.decode())}
    assert [sample.value for sample in families["infermesh_view_version"].samples] == [9.0]


async def test_openmetrics_is_served_to_who_prefers_it() -> None:
    accept = [(b"accept", b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5")]
    answer = await ask(admin_app(Sources()), "/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


async def test_health_is_that_the_process_answers_and_readiness_is_the_nodes_word() -> None:
    sources = Sources()
    app = admin_app(sources)
    assert (await ask(app, "/readyz")).status == 200
    sources.state = (False, ["no model can be served yet"])
    answer = await ask(app, "/readyz")
    assert answer.status == 503
    assert answer.json() == {"ready": False, "reasons": ["no model can be served yet"]}
    assert (await ask(app, "/healthz")).json() == {"status": "ok"}


async def test_the_fleet_is_served_as_json() -> None:
    app = admin_app(Sources())
    assert (await ask(app, "/v1/nodes")).json()["nodes"] == []
    assert (await ask(app, "/v1/models")).json() == {"models": []}
    assert (await ask(app, "/v1/targets")).json()["targets"] == []
    assert (await ask(app, "/v1/summary")).json()["requests"] == 0


async def test_a_score_is_asked_with_counts_and_their_defaults() -> None:
    sources = Sources()
    app = admin_app(sources)
    assert (await ask(app, "/v1/score?model=m")).json() == {"model": "m", "candidates": []}
    await ask(app, "/v1/score?model=m&prompt_tokens=7&output_tokens=0")
    assert sources.asked == [("m", 512, 128), ("m", 7, 0)]


@pytest.mark.parametrize(
    ("target", "status", "code", "parameter"),
    [
        ("/v1/score", 400, "missing_parameter", "model"),
        ("/v1/score?model=nobody", 404, "model_not_found", "model"),
        ("/v1/score?model=m&prompt_tokens=-1", 400, "bad_parameter", "prompt_tokens"),
        ("/v1/score?model=m&prompt_tokens=1e3", 400, "bad_parameter", "prompt_tokens"),
        ("/v1/score?model=m&output_tokens=10000001", 400, "bad_parameter", "output_tokens"),
        ("/v1/score?model=m&output_tokens=" + "9" * 1000, 400, "bad_parameter", "output_tokens"),
        ("/v1/requests?limit=1001", 400, "bad_parameter", "limit"),
        ("/v1/explain/unknown", 404, "request_not_found", "request_id"),
        ("/nonsense", 404, "not_found", None),
        ("/healthz/", 404, "not_found", None),
        ("/v1/explain/", 404, "not_found", None),
    ],
)
async def test_what_is_wrong_is_said_in_json(target: str, status: int, code: str, parameter: str | None) -> None:
    answer = await ask(admin_app(Sources()), target)
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, parameter)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_known_requests_are_explained_and_listed() -> None:
    sources = Sources()
    app = admin_app(sources)
    assert (await ask(app, "/v1/explain/r1")).json() == {"request_id": "r1"}
    assert (await ask(app, "/v1/requests?limit=5")).json() == {"requests": [{"request_id": "r1"}]}
    assert sources.asked == [(5,)]


async def test_other_methods_are_refused_and_head_is_fine() -> None:
    app = admin_app(Sources())
    answer = await ask(app, "/v1/nodes", "POST")
    assert (answer.status, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
    assert (await ask(app, "/healthz", "HEAD")).status == 200


async def test_a_fault_of_the_node_is_a_500_without_its_words() -> None:
    app = admin_app(Sources())
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing reads a body")

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/explain/broken",
        "raw_path": b"/v1/explain/broken",
        "query_string": b"",
        "headers": [],
    }
    with pytest.raises(RuntimeError, match="planted"):  # For the log of whoever serves it.
        await app(scope, receive, send)
    answer = Answer(messages)
    assert (answer.status, answer.json()["error"]["code"]) == (500, "internal")
    assert b"planted" not in answer.body


@pytest.mark.parametrize(
    ("length", "status"), [(PATH_BYTES_MAX, 404), (PATH_BYTES_MAX + 1, 414)], ids=["at the limit", "beyond it"]
)
async def test_paths_have_a_limit(length: int, status: int) -> None:
    assert (await ask(admin_app(Sources()), "/" + "x" * (length - 1))).status == status


async def test_queries_have_a_limit() -> None:
    app = admin_app(Sources())
    assert (await ask(app, "/healthz?" + "x" * QUERY_BYTES_MAX)).status == 200
    assert (await ask(app, "/healthz?" + "x" * (QUERY_BYTES_MAX + 1))).status == 414


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"content-length", str(BODY_BYTES_MAX).encode(), 200),
        (b"content-length", str(BODY_BYTES_MAX + 1).encode(), 413),
        (b"content-length", b"9" * 500, 413),
        (b"content-length", b"-1", 413),
        (b"transfer-encoding", b"chunked", 413),
    ],
)
async def test_bodies_have_a_limit(name: bytes, value: bytes, status: int) -> None:
    answer = await ask(admin_app(Sources()), "/healthz", headers=[(name, value)])
    assert answer.status == status
    assert (answer.headers.get("connection") == "close") is (status == 413)


async def test_too_many_requests_at_once_are_refused_and_leave_the_others_alone() -> None:
    release = trio.Event()

    async def stuck(message: Message) -> None:
        await release.wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    app = admin_app(Sources())
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/healthz",
        "raw_path": b"/healthz",
        "query_string": b"",
        "headers": [],
    }
    async with trio.open_nursery() as nursery:
        for _ in range(REQUESTS_AT_ONCE_MAX):
            nursery.start_soon(app, dict(scope), receive, stuck)
        await trio.testing.wait_all_tasks_blocked()
        refused = await ask(app, "/healthz")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        release.set()
    assert (await ask(app, "/healthz")).status == 200


async def test_every_answer_is_counted_by_its_code() -> None:
    sources = Sources()
    app = admin_app(sources)
    for target in ("/healthz", "/healthz", "/nonsense", "/" + "x" * PATH_BYTES_MAX):
        await ask(app, target)
    assert sources.metrics.http_responses.by("code", port="admin") == {"200": 2, "404": 1, "414": 1}
