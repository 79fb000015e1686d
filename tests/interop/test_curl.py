"""curl against the client port: streams, kept connections, versions, bodies of all framings, wrong methods."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from infermesh.emulator import answer_text
from tests.interop.conftest import STEP_S, Program
from tests.interop.exchange import wait_until
from tests.interop.fleet import MODEL, Fleet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TIMEOUT_S = 20


@dataclass(frozen=True)
class Curled:
    out: str
    said: str  # What --verbose tells.
    code: int

    @property
    def statuses(self) -> list[int]:
        """Of all responses, interim ones among them."""
        return [int(status) for status in re.findall(r"^< HTTP/1\.[01] (\d+)", self.said, re.MULTILINE)]

    def header(self, name: str) -> str | None:
        """The last value of a response header."""
        found = re.findall(rf"^< {name}: (.*?)\r?$", self.said, re.MULTILINE | re.IGNORECASE)
        return found[-1] if found else None


@pytest.fixture
def curl(program: Program) -> Callable[..., Curled]:
    path = program("curl")

    def run(*arguments: str | Path, stdin: bytes = b"") -> Curled:
        done = subprocess.run(
            [path, "--silent", "--verbose", "--max-time", str(TIMEOUT_S), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            timeout=2 * TIMEOUT_S,
            check=False,
        )
        return Curled(done.stdout.decode(), done.stderr.decode("utf-8", "replace"), done.returncode)

    return run


Curl = Callable[..., Curled]


def _body(prompt: str, tokens: int, **more: object) -> str:
    return json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": tokens, **more})


def _text(out: str) -> str:
    text: str = json.loads(out)["choices"][0]["text"]
    return text


def _texts(events: list[str]) -> str:
    assert events[-1] == "data: [DONE]"
    return "".join(_text(event.removeprefix("data: ")) for event in events[:-1])


def test_curl_sees_each_token_when_it_is_made(program: Program, fleet: Fleet) -> None:
    body = _body("no buffer", 40, stream=True)
    command = [program("curl"), "--no-buffer", "--silent", "--max-time", str(TIMEOUT_S)]
    with subprocess.Popen([*command, f"{fleet.url}/v1/completions", "--data", body], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        times: list[float] = []
        events: list[str] = []
        running = 0
        for line in process.stdout:
            if line.strip():
                times.append(time.monotonic())
                events.append(line.decode().strip())
            if len(times) == 1 and not running:
                running = sum(daemon.engine()["running"] for daemon in fleet.gpus)
    assert process.returncode == 0
    assert running == 1, "the engine had ended when the first token arrived"
    assert _texts(events) == answer_text(b"no buffer", 40)
    assert times[-1] - times[0] > 0.5 * 39 * STEP_S


def test_two_requests_share_one_connection(curl: Curl, fleet: Fleet) -> None:
    url = f"{fleet.url}/v1/completions"
    counts = ["--write-out", "%{stderr}opened %{num_connects}\\n"]
    one = [url, "--data", _body("first", 3, stream=True), *counts]
    two = [url, "--data", _body("second", 3), *counts]
    done = curl(*one, "--next", "--silent", "--verbose", *two)
    assert done.code == 0
    assert re.findall(r"^opened (\d)", done.said, re.MULTILINE) == ["1", "0"]
    stream, _, whole = done.out.rpartition("\n\n")
    assert _texts(stream.split("\n\n")) == answer_text(b"first", 3)
    assert _text(whole) == answer_text(b"second", 3)


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_gets_a_whole_answer_and_its_end_by_length_or_by_close(
    stream: bool,
    curl: Curl,
    fleet: Fleet,
) -> None:
    done = curl("--http1.0", f"{fleet.url}/v1/completions", "--data", _body("old", 4, stream=stream))
    assert done.code == 0
    assert done.statuses == [200]
    # No chunks: HTTP/1.0 has none (RFC 9112 section 6.1).
    assert done.header("transfer-encoding") is None
    if stream:
        assert _texts(done.out.strip().split("\n\n")) == answer_text(b"old", 4)
        assert done.header("content-length") is None
    else:
        assert _text(done.out) == answer_text(b"old", 4)
        assert done.header("content-length") == str(len(done.out))


def test_a_large_body_waits_for_100_continue_and_is_then_taken(curl: Curl, fleet: Fleet) -> None:
    body = _body("large", 2, padding="x" * 3_000_000).encode()
    done = curl("-H", "expect: 100-continue", f"{fleet.url}/v1/completions", "--data-binary", "@-", stdin=body)
    assert done.code == 0
    assert done.statuses == [100, 200]
    assert _text(done.out) == answer_text(b"large", 2)


def test_a_body_above_the_limit_is_refused_before_it_is_sent(curl: Curl, fleet: Fleet) -> None:
    body = _body("too large", 2, padding="x" * (17 << 20)).encode()
    done = curl("-H", "expect: 100-continue", f"{fleet.url}/v1/completions", "--data-binary", "@-", stdin=body)
    assert done.statuses == [413]
    assert json.loads(done.out)["error"]["type"] == "invalid_request_error"
    assert "16777216" in done.out, "the message names the limit"


@pytest.mark.parametrize("padding_bytes", [0, 300_000])
def test_a_chunked_upload_is_taken(padding_bytes: int, curl: Curl, fleet: Fleet) -> None:
    body = _body("chunks", 3, padding="x" * padding_bytes).encode()
    # -T - has no length to tell: curl sends chunks, and with a large body asks for 100-continue first.
    done = curl("-X", "POST", "-T", "-", f"{fleet.url}/v1/completions", stdin=body)
    assert done.code == 0
    assert done.statuses[-1] == 200
    assert "> Transfer-Encoding: chunked" in done.said
    assert _text(done.out) == answer_text(b"chunks", 3)


def test_a_chunked_upload_by_header_is_taken(curl: Curl, fleet: Fleet) -> None:
    header = "transfer-encoding: chunked"
    done = curl("-H", header, f"{fleet.url}/v1/completions", "--data", _body("header", 3))
    assert done.code == 0
    assert _text(done.out) == answer_text(b"header", 3)


def test_head_and_get_of_the_models_agree(curl: Curl, fleet: Fleet) -> None:
    for path in ("/v1/models", f"/v1/models/{MODEL}"):
        got, head = curl(f"{fleet.url}{path}"), curl("--head", f"{fleet.url}{path}")
        assert (got.statuses, head.statuses) == ([200], [200])
        assert head.header("content-length") == got.header("content-length") == str(len(got.out))
        assert head.header("content-type") == "application/json"
        assert MODEL in got.out
    missing = curl(f"{fleet.url}/v1/models/nope")
    assert missing.statuses == [404]
    assert json.loads(missing.out)["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("OPTIONS", f"/v1/models/{MODEL}", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_which_are_allowed(
    method: str, path: str, allowed: str, curl: Curl, fleet: Fleet
) -> None:
    done = curl("-X", method, f"{fleet.url}{path}")
    assert done.statuses == [405]
    assert done.header("allow") == allowed
    assert json.loads(done.out)["error"]["code"] == "method_not_allowed"


def test_an_unknown_path_is_told_the_known_ones(curl: Curl, fleet: Fleet) -> None:
    done = curl(f"{fleet.url}/v2/anything")
    assert done.statuses == [404]
    assert "/v1/chat/completions" in json.loads(done.out)["error"]["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", '{"model": 7}', '{"prompt": "no model"}', "\x00\x01"])
def test_a_body_that_is_no_request_is_refused_in_the_shape_of_openai(body: str, curl: Curl, fleet: Fleet) -> None:
    done = curl(f"{fleet.url}/v1/completions", "--data-binary", "@-", stdin=body.encode())
    assert done.statuses == [400]
    error = json.loads(done.out)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("invalid_json", "invalid_body")


def test_a_connection_that_is_asked_to_close_closes(curl: Curl, fleet: Fleet) -> None:
    done = curl("-H", "connection: close", f"{fleet.url}/v1/models")
    assert done.statuses == [200]
    assert done.header("connection") == "close"
    assert "Closing connection" in done.said
    assert "left intact" not in done.said


def test_a_curl_that_is_killed_frees_its_place_in_the_engine(program: Program, fleet: Fleet) -> None:
    body = _body("killed", 3_000, stream=True)
    command = [program("curl"), "--no-buffer", "--silent", f"{fleet.url}/v1/completions", "--data", body]

    def running() -> int:
        count: int = sum(daemon.engine()["running"] for daemon in fleet.gpus)
        return count

    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert running() == 1
        process.kill()
        killed_at = time.time()
    wait_until("the engine runs nothing", lambda: running() == 0, 5)
    assert max(daemon.engine()["last_abort_unix_s"] for daemon in fleet.gpus) - killed_at < 0.5
