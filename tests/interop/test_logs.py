"""What daemons write on stderr: one JSON object a line, with the contract's keys, and never a secret.

Secrets are planted where requests carry them; then logs and every page of the admin port are searched for them.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest

from tests.interop.conftest import SharedFleet
from tests.interop.exchange import HOST, ask
from tests.interop.fleet import MODEL, Daemon, Fleet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

LEVELS: Final = {"debug", "info", "warning", "error", "critical"}
SECRETS: Final = {
    "authorization": "Bearer sk-planted-6f1d2c9ab04e47d1",
    "x-api-key": "planted-api-key-0b7e4412",
    "cookie": "session=planted-cookie-55aa01",
    "proxy-authorization": "Basic cGxhbnRlZDpwcm94eS1wYXNzd29yZA==",
}
PROMPT: Final = "planted prompt: the patient's name is Mordecai"


def _marks() -> list[str]:
    """What must be found nowhere: the telling part of each secret."""
    return ["sk-planted-6f1d", "planted-api-key", "planted-cookie", "cGxhbnRlZDpwcm94", "Mordecai"]


@pytest.fixture
def request_ids(fleet: Fleet) -> list[str]:
    """Requests that succeed, are refused by the router, by admission and by the runtime; all carry the secrets."""
    bodies: list[tuple[object, dict[str, str]]] = [
        ({"model": MODEL, "prompt": PROMPT, "max_tokens": 2}, {}),
        ({"model": MODEL, "prompt": PROMPT, "max_tokens": 2, "stream": True}, {}),
        ({"model": "nope", "prompt": PROMPT}, {}),
        ({"model": MODEL, "prompt": PROMPT, "max_tokens": "many"}, {}),
        ({"model": MODEL, "prompt": PROMPT, "max_tokens": 10_000_000}, {}),
        ({"model": MODEL, "prompt": PROMPT}, {"x-infermesh-deadline-ms": "0.01"}),
        ({"model": MODEL, "prompt": PROMPT, "user": "x"}, {"traceparent": "nonsense"}),
    ]
    found = []
    for value, more in bodies:
        answer = ask(fleet.port, "/v1/completions", method="POST", value=value, headers={**SECRETS, **more})
        found.append(answer.headers["x-infermesh-request-id"])
        assert not [mark for mark in _marks() if mark in answer.text and answer.status != 200]
    _send_broken_head(fleet)
    return found


def _send_broken_head(fleet: Fleet) -> None:
    """A request that is refused before it is one, with a secret in it."""
    connection = http.client.HTTPConnection(HOST, fleet.port, timeout=10)
    try:
        connection.connect()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization : {SECRETS['authorization']}\r\n\r\n"
        connection.sock.sendall(head.encode())
        assert connection.sock.recv(4096).startswith(b"HTTP/1.1 400")
    finally:
        connection.close()


@pytest.mark.parametrize("node", ["edge", "gpu-a", "gpu-b"])
def test_every_line_is_one_json_object_with_the_keys_of_the_contract(
    node: str, shared: SharedFleet, request_ids: list[str]
) -> None:
    lines = shared.fleet[node].log_lines()
    assert lines
    for line in lines:
        value = json.loads(line)
        assert list(value)[:4] == ["ts", "level", "event", "node"], line
        assert datetime.fromisoformat(value["ts"]).tzinfo is not None
        assert value["ts"].endswith("Z")
        assert value["level"] in LEVELS
        assert re.fullmatch(r"[a-z][a-z0-9_]+", value["event"]), line
        assert value["node"] == node
        assert re.fullmatch(r"[0-9a-f]{32}", value.get("trace_id", "0" * 32)), line
        assert re.fullmatch(r"[0-9a-f]{16}", value.get("span_id", "0" * 16)), line


def test_each_request_has_one_line_with_its_ids_and_its_ending(fleet: Fleet, request_ids: list[str]) -> None:
    lines = {line["request_id"]: line for line in fleet.router.events("request_ended")}
    assert len(lines) == len(fleet.router.events("request_ended"))
    booked = [lines[request_id] for request_id in request_ids if request_id in lines]
    # Those for an unknown model and with a wrong body never came as far as the books.
    assert [line["ending"] for line in booked] == ["completed", "completed", "invalid", "rejected", "completed"]
    assert [line["status"] for line in booked] == [200, 200, 400, 429, 200]
    assert booked[3]["reason"] == "deadline"
    assert {line["protocol"] for line in booked} == {"http/1.1"}


def test_no_secret_and_no_prompt_is_in_any_log_or_page(fleet: Fleet, request_ids: list[str]) -> None:
    for where, text in _everything(fleet, request_ids):
        found = [mark for mark in _marks() if mark in text]
        assert not found, f"{where} holds {found}"


def test_no_key_material_is_in_any_log_or_page(fleet: Fleet, request_ids: list[str]) -> None:
    keys = [line for daemon in fleet.daemons.values() for line in _key_lines(daemon)]
    assert len(keys) >= len(fleet.daemons)
    for where, text in _everything(fleet, request_ids):
        assert "PRIVATE KEY" not in text, where
        assert not [line for line in keys if line in text], where


def test_the_start_says_what_runs_and_that_it_is_emulated(fleet: Fleet) -> None:
    for daemon in fleet.daemons.values():
        started = daemon.events("node_started")[0]
        assert started["admin"] == f"{HOST}:{daemon.admin_port}"
        assert started["roles"] == daemon.spec.role
    for daemon in fleet.gpus:
        assert daemon.events("emulated_engine")[0]["models"] == [MODEL]
        assert len(daemon.events("gpu_telemetry")) == 1, "the missing driver is said once"


def _everything(fleet: Fleet, request_ids: list[str]) -> Iterator[tuple[str, str]]:
    pages = ["/", "/metrics", "/readyz", "/v1/nodes", "/v1/models", "/v1/targets", "/v1/requests", "/v1/summary"]
    pages.append(f"/v1/score?model={MODEL}")
    for node, daemon in fleet.daemons.items():
        yield f"the log of {node}", daemon.log_file.read_text("utf-8")
        for path in pages + [f"/v1/explain/{request_id}" for request_id in request_ids]:
            answer = ask(daemon.admin_port, path)
            yield f"{node} {path}", answer.text + str(answer.headers)


def _key_lines(daemon: Daemon) -> list[str]:
    key: Path = daemon.config.parent / "trust" / daemon.node / "node.key"
    return [line for line in key.read_text("ascii").splitlines() if not line.startswith("-----")]
