"""The paths of the server that do not generate: health, models, metrics, and the emulator's own switches.

Each is a plain function of the server and the request's body; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from infermesh.emulator.asks import AskError, AskKind
from infermesh.emulator.faults import FaultError, Faults
from infermesh.emulator.prompts import count_tokens
from infermesh.emulator.shapes import VERSION, models_body

if TYPE_CHECKING:
    from infermesh.emulator.server import EmulatorServer

GENERATING = {
    "/v1/completions": AskKind.COMPLETION,
    "/v1/chat/completions": AskKind.CHAT,
    "/v1/embeddings": AskKind.EMBEDDING,
}
"""The paths that go through the engine; all are POST."""

_JSON = "application/json"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Reply(msgspec.Struct, frozen=True):
    body: bytes = b""
    content_type: str = ""
    status: HTTPStatus = HTTPStatus.OK


def plain_reply(server: EmulatorServer, method: str, path: str, body: bytes) -> Reply:
    """Answer a request that does not generate. Raises `AskError` for what is not there."""
    method = "GET" if method == "HEAD" else method
    route = _ROUTES.get((method, path))
    if route is not None:
        return route(server, body)
    if path in GENERATING or any(path == known for _, known in _ROUTES):
        raise AskError(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed", "Method Not Allowed")
    raise AskError(HTTPStatus.NOT_FOUND, "Not Found", "Not Found")


def known_route(path: str) -> str:
    """The path as a metric label: what clients make up must not grow the page."""
    return path if path in _PATHS else "none"


def _empty(server: EmulatorServer, body: bytes) -> Reply:
    return Reply()


def _constant(value: object) -> Callable[[EmulatorServer, bytes], Reply]:
    reply = Reply(msgspec.json.encode(value), _JSON)
    return lambda server, body: reply


def _models(server: EmulatorServer, body: bytes) -> Reply:
    created = int(server.started_unix_s)
    return Reply(models_body(server.config.models, created, server.context_tokens_max), _JSON)


def _load(server: EmulatorServer, body: bytes) -> Reply:
    in_flight = sum(driver.in_flight for driver in server.drivers.values())
    return Reply(msgspec.json.encode({"server_load": in_flight}), _JSON)


def _metrics(server: EmulatorServer, body: bytes) -> Reply:
    return Reply(server.metrics_text(), _TEXT)


def _tokenize(server: EmulatorServer, body: bytes) -> Reply:
    try:
        given = msgspec.json.decode(body, type=_TokenizeBody)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AskError(HTTPStatus.BAD_REQUEST, str(error), "Bad Request") from None
    prompt = given.prompt.encode()
    count = count_tokens(prompt)
    tokens = [int.from_bytes(prompt[start : start + 4], "little") for start in range(0, count * 4, 4)]
    reply = {
        "count": count,
        "max_model_len": server.context_tokens_max,
        "tokens": tokens,
        "token_strs": None,
    }
    return Reply(msgspec.json.encode(reply), _JSON)


def _reset_prefix_cache(server: EmulatorServer, body: bytes) -> Reply:
    for driver in server.drivers.values():
        driver.engine.reset_prefix_cache()
    return Reply(msgspec.json.encode({"success": True}), _JSON)


def _stats(server: EmulatorServer, body: bytes) -> Reply:
    return Reply(msgspec.json.encode(server.stats), _JSON)


def _show_faults(server: EmulatorServer, body: bytes) -> Reply:
    return Reply(msgspec.json.encode(server.faults), _JSON)


def _change_faults(server: EmulatorServer, body: bytes) -> Reply:
    try:
        server.faults.change(body)
    except FaultError as error:
        raise AskError(HTTPStatus.BAD_REQUEST, str(error), "Bad Request") from None
    if server.faults.crash:
        server.crash()
    return _show_faults(server, body)


def _clear_faults(server: EmulatorServer, body: bytes) -> Reply:
    server.faults.become(Faults())
    return _show_faults(server, body)


class _TokenizeBody(msgspec.Struct):
    prompt: str
    model: str | None = None


_ROUTES: dict[tuple[str, str], Callable[[EmulatorServer, bytes], Reply]] = {
    ("GET", "/health"): _empty,
    ("GET", "/ping"): _empty,
    ("POST", "/ping"): _empty,
    ("GET", "/version"): _constant({"version": VERSION}),
    ("GET", "/is_sleeping"): _constant({"is_sleeping": False}),
    ("GET", "/is_paused"): _constant({"is_paused": False}),
    ("GET", "/v1/models"): _models,
    ("GET", "/load"): _load,
    ("GET", "/metrics"): _metrics,
    ("POST", "/tokenize"): _tokenize,
    ("POST", "/reset_prefix_cache"): _reset_prefix_cache,
    ("GET", "/emulator/stats"): _stats,
    ("GET", "/emulator/faults"): _show_faults,
    ("POST", "/emulator/faults"): _change_faults,
    ("DELETE", "/emulator/faults"): _clear_faults,
}
_PATHS = frozenset(GENERATING) | {path for _, path in _ROUTES}
