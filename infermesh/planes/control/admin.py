"""The admin port's application: metrics, health, and the fleet as JSON. Reads only; changes nothing.

It knows the node through `AdminSources` alone. Everything is bounded: the path, the query, the body (no route takes
one), the requests at once. Errors are JSON in the shape of the client port's. Not here: serving (`admin_server`), and
what the JSON of a node or a model holds (`admin_values`).

Anybody who reaches this port may read it: keep it on loopback or a trusted network (`admin.listen`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infermesh.core.model.names import TargetKey
from infermesh.core.model.targets import RoutingView
from infermesh.observe.metrics import Metrics
from infermesh.observe.summary import summarize
from infermesh.observe.view_gauges import set_view_gauges
from infermesh.planes.control.admin_values import models_value, nodes_value, targets_value

PORT = "admin"
PATH_BYTES_MAX = 2048
QUERY_BYTES_MAX = 2048
BODY_BYTES_MAX = 65_536
REQUESTS_AT_ONCE_MAX = 64
REQUEST_ID_CHARS_MAX = 128
REQUESTS_SHOWN_MAX = 1000
TOKENS_MAX = 10_000_000

Json = dict[str, object]


class AdminSources(Protocol):
    """What the node tells. Called from the trio thread; answers at once."""

    @property
    def me(self) -> str: ...
    @property
    def metrics(self) -> Metrics:
        """Brought up to date where something is read off rather than counted."""

    def view(self) -> RoutingView: ...
    def inflight(self, key: TargetKey) -> int:
        """Attempts of this router under way at a target."""

    def ready(self) -> tuple[bool, Sequence[str]]:
        """Whether the node can do its work, else what is missing."""

    def score(self, model: str, prompt_tokens: int, output_tokens: int) -> Json | None:
        """Every candidate as it would be scored now; None for a model that nobody serves."""

    def explain(self, request_id: str) -> Json | None: ...
    def requests(self, limit: int) -> Sequence[Json]:
        """The last requests, newest first."""


def admin_app(sources: AdminSources) -> ASGIApp:
    endpoints = _Endpoints(sources)
    app = Starlette(
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.table()],
        exception_handlers={HTTPException: _refused, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return _Bounds(app, sources)


class _Endpoints:
    """One method per path."""

    def __init__(self, sources: AdminSources) -> None:
        self._sources = sources

    def table(self) -> list[tuple[str, Callable[[Request], Awaitable[Response]]]]:
        return [
            ("/", self.index),
            ("/metrics", self.metrics),
            ("/healthz", self.healthz),
            ("/readyz", self.readyz),
            ("/v1/nodes", self.nodes),
            ("/v1/models", self.models),
            ("/v1/targets", self.targets),
            ("/v1/score", self.score),
            ("/v1/explain/{request_id}", self.explain),
            ("/v1/requests", self.requests),
            ("/v1/summary", self.summary),
        ]

    async def index(self, request: Request) -> Response:
        return _json({"service": "infermesh", "node": self._sources.me, "paths": [path for path, _ in self.table()]})

    async def metrics(self, request: Request) -> Response:
        metrics = self._sources.metrics
        set_view_gauges(metrics, self._sources.view(), trio.current_time())
        body, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def healthz(self, request: Request) -> Response:
        """The process answers: that is all it says."""
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        ready, reasons = self._sources.ready()
        return _json({"ready": ready, "reasons": list(reasons)}, 200 if ready else 503)

    async def nodes(self, request: Request) -> Response:
        return _json(nodes_value(self._sources.view(), self._sources.me, trio.current_time(), self._sources.inflight))

    async def models(self, request: Request) -> Response:
        return _json(models_value(self._sources.view()))

    async def targets(self, request: Request) -> Response:
        return _json(targets_value(self._sources.view(), trio.current_time(), self._sources.inflight))

    async def score(self, request: Request) -> Response:
        model = request.query_params.get("model", "")
        if not model:
            raise _fault(400, "missing_parameter", "model is missing: /v1/score?model=NAME", "model")
        prompt_tokens = _count(request, "prompt_tokens", 512)
        output_tokens = _count(request, "output_tokens", 128)
        found = self._sources.score(model, prompt_tokens, output_tokens)
        if found is None:
            raise _fault(
                404, "model_not_found", f"no node serves {model[:128]!r}; /v1/models lists the models", "model"
            )
        return _json(found)

    async def explain(self, request: Request) -> Response:
        request_id = str(request.path_params["request_id"])[:REQUEST_ID_CHARS_MAX]
        found = self._sources.explain(request_id)
        if found is None:
            raise _fault(
                404,
                "request_not_found",
                f"request {request_id!r} is not among those this node remembers; ask the router that took it",
                "request_id",
            )
        return _json(found)

    async def requests(self, request: Request) -> Response:
        limit = _count(request, "limit", 100, REQUESTS_SHOWN_MAX)
        return _json({"requests": list(self._sources.requests(limit))})

    async def summary(self, request: Request) -> Response:
        return _json(summarize(self._sources.metrics))


def _count(request: Request, name: str, default: int, most: int = TOKENS_MAX) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= most):
        raise _fault(400, "bad_parameter", f"{name} = {text[:32]!r} is no count; allowed: 0 to {most}", name)
    return int(text)


# --- Answers ---

_encode = msgspec.json.Encoder(enc_hook=str).encode
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(value), status, headers, media_type="application/json")


def _error(status: int, code: str, message: str, parameter: str | None = None) -> Json:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "code": code, "param": parameter}}


def _fault(status: int, code: str, message: str, parameter: str) -> HTTPException:
    # Starlette keeps `detail` as it is; only `_refused` below reads it.
    return HTTPException(status, detail=_error(status, code, message, parameter))  # type: ignore[arg-type]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body: object = error.detail
    if not isinstance(body, dict):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        path = request.url.path[:128]
        body = _error(error.status_code, code, f"{request.method} {path}: {str(error.detail).lower()}")
    return _json(body, error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    # Starlette raises it again for the server, whose log has the traceback.
    return _json(_error(500, "internal", "this node failed to answer; its log says why"), 500)


class _Bounds:
    """In front of the application: refuses what is too large or too much, and counts every answer."""

    def __init__(self, app: ASGIApp, sources: AdminSources) -> None:
        self._app = app
        self._sources = sources
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                self._sources.metrics.http_responses.at(PORT, str(message["status"])).value += 1
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, counted)
            return
        self._running += 1
        try:
            await self._app(scope, receive, counted)
        finally:
            self._running -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        path, query = scope.get("raw_path") or b"", scope.get("query_string") or b""
        if len(path) > PATH_BYTES_MAX or len(query) > QUERY_BYTES_MAX:
            text = f"path of {len(path)} and query of {len(query)} bytes; allowed: {PATH_BYTES_MAX}, {QUERY_BYTES_MAX}"
            return _json(_error(414, "uri_too_long", text), 414)
        if self._running >= REQUESTS_AT_ONCE_MAX:
            text = f"this node answers {REQUESTS_AT_ONCE_MAX} admin requests at once; try again"
            return _json(_error(503, "busy", text), 503, {"retry-after": "1"})
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length) > BODY_BYTES_MAX:
            text = f"no path here takes a body; one of up to {BODY_BYTES_MAX} bytes is ignored"
            return _json(_error(413, "body_too_large", text), 413, {"connection": "close"})
        return None
