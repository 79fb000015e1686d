"""WebSocket clients that others wrote stream tokens from real daemons: Python's websockets, Node's ws, Chromium."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import trustme
from websockets.sync.client import ClientConnection, connect

from infermesh.emulator import answer_text
from tests.interop.conftest import STEP_S, Program
from tests.interop.exchange import wait_until
from tests.interop.fleet import MODEL, Fleet, gpu, router, running_fleet
from tests.interop.websocket_browser import PageServer, page_server, visit

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TOKENS: Final = 40
TIMEOUT_S: Final = 30
Message = dict[str, Any]

# Two requests on one socket, the second cancelled; a line for each message as it comes.
NODE: Final = """
const {WebSocket} = require("ws");
const [url, body, deflate] = process.argv.slice(1);
const socket = new WebSocket(url, {perMessageDeflate: deflate === "deflate"});
let ended = 0, seen = 0;
socket.on("open", () => socket.send(body));
socket.on("ping", () => console.log("ping"));
socket.on("message", (data) => {
  const message = JSON.parse(data);
  console.log(data.toString());
  seen += 1;
  if (ended === 1 && seen === 3) socket.send('{"type":"cancel"}');
  if (!message.object.startsWith("infermesh.")) return;
  ended += 1;
  seen = 0;
  if (ended === 1) socket.send(body.replace(/"max_tokens": *[0-9]+/, '"max_tokens": 2000'));
  else socket.close(1000);
});
socket.on("close", (code) => console.log(JSON.stringify({object: "close", code, extensions: socket.extensions})));
"""


@dataclass
class Browsed:
    fleet: Fleet
    page: PageServer


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browsed]:
    """A fleet whose router lets the page of a page server in, and asks silent clients soon."""
    with page_server() as page:
        settings = {"websocket": {"origins": [page.origin], "ping_interval_s": 0.2}}
        specs = [router(settings), gpu("gpu-a", speed=0.75)]
        with running_fleet(tmp_path_factory.mktemp("browsed"), specs) as fleet:
            yield Browsed(fleet, page)


@pytest.fixture(scope="module")
def browsed_by_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browsed]:
    """The same by TLS, where HTTP/2 is agreed on."""
    folder: Path = tmp_path_factory.mktemp("certificate")
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    client = {"certificate_file": str(folder / "certificate.pem"), "key_file": str(folder / "key.pem")}
    with page_server() as page:
        specs = [router({"client": client, "websocket": {"origins": [page.origin]}}), gpu("gpu-a", speed=0.75)]
        with running_fleet(tmp_path_factory.mktemp("secure"), specs) as fleet:
            yield Browsed(fleet, page)


def _url(fleet: Fleet) -> str:
    return f"{fleet.url.replace('http', 'ws', 1)}/v1/completions"


def _request(prompt: str, tokens: int = TOKENS) -> str:
    return json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": tokens})


def _aborted(fleet: Fleet) -> int:
    return sum(int(daemon.engine()["aborted_total"]) for daemon in fleet.gpus)


def _check(texts: list[str], times: list[float], prompt: str) -> None:
    """The whole answer came, and it came as it was made."""
    assert "".join(texts) == answer_text(prompt.encode(), TOKENS)
    assert times[-1] - times[0] > 0.3 * (TOKENS - 1) * STEP_S


def _answer(socket: ClientConnection) -> tuple[list[str], list[float], Message]:
    texts: list[str] = []
    times: list[float] = []
    while True:
        message: Message = json.loads(socket.recv(TIMEOUT_S))
        if message["object"].startswith("infermesh."):
            return texts, times, message
        texts.append(message["choices"][0]["text"])
        times.append(time.monotonic())


@pytest.mark.parametrize("compression", ["deflate", None])
def test_the_websockets_package_streams_and_cancels(browsed: Browsed, compression: Literal["deflate"] | None) -> None:
    fleet = browsed.fleet
    before = _aborted(fleet)
    with connect(_url(fleet), compression=compression, subprotocols=["infermesh.v1"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "infermesh.v1"
        offered = socket.response.headers.get("sec-websocket-extensions", "") if socket.response else ""
        assert offered.startswith("permessage-deflate") == (compression is not None)
        socket.send(_request("python"))
        texts, times, last = _answer(socket)
        _check(texts, times, "python")
        assert (last["object"], last["node"]) == ("infermesh.done", "gpu-a")
        socket.send(_request("python", 2000))
        socket.recv(TIMEOUT_S)
        socket.send('{"type":"cancel"}')
        assert _answer(socket)[2]["cancelled"]
        assert socket.ping().wait(TIMEOUT_S)
        # Longer than one frame's short forms, and worth compressing both ways.
        socket.send(json.dumps({"model": "nobody" * 40, "prompt": "x" * 100_000}))
        error = _answer(socket)[2]["error"]
        assert (error["status"], error["code"]) == (404, "model_not_found")
    assert socket.close_code == 1000
    wait_until("the engine was told to abort", lambda: _aborted(fleet) == before + 1, TIMEOUT_S)


@pytest.fixture(scope="module")
def ws_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the package ws; the tests are skipped where it cannot be had."""
    folder: Path = tmp_path_factory.mktemp("node")
    try:
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "ws@8"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot install ws: {error}")
    if done.returncode:
        pytest.skip(f"npm cannot install ws: {done.stderr[-300:]}")
    return folder


@pytest.mark.parametrize("deflate", ["deflate", "plain"])
def test_nodes_ws_streams_and_cancels(program: Program, browsed: Browsed, ws_folder: Path, deflate: str) -> None:
    command = [program("node"), "--eval", NODE, _url(browsed.fleet), _request("node"), deflate]
    texts: list[str] = []
    times: list[float] = []
    last: list[Message] = []
    with subprocess.Popen(command, cwd=ws_folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ping\n":
                continue
            message = json.loads(line)
            if "choices" not in message:
                last.append(message)
            elif not last:
                texts.append(message["choices"][0]["text"])
                times.append(time.monotonic())
        assert process.wait(TIMEOUT_S) == 0
    _check(texts, times, "node")
    done, cancelled, close = last
    assert (done["object"], done["cancelled"], cancelled["cancelled"]) == ("infermesh.done", False, True)
    assert close == {
        "object": "close",
        "code": 1000,
        "extensions": "permessage-deflate" if deflate == "deflate" else "",
    }


def test_a_page_in_chromium_streams_and_cancels(program: Program, browsed: Browsed, tmp_path: Path) -> None:
    chromium, page = program("chromium"), browsed.page
    page.question = {"url": _url(browsed.fleet), "request": json.loads(_request("page"))}
    visit(chromium, page, tmp_path, timeout_s=60)
    seen = page.seen
    assert seen.get("error") is None, seen
    _check(seen["tokens"], [milliseconds / 1e3 for milliseconds in seen["times"]], "page")
    assert (seen["protocol"], seen["extensions"]) == (
        "infermesh.v1",
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    )
    assert (seen["done"]["object"], seen["done"]["node"], seen["done"]["cancelled"]) == (
        "infermesh.done",
        "gpu-a",
        False,
    )
    assert seen["cancelled"]["cancelled"]
    assert seen["refused"]["error"]["code"] == "model_not_found"
    assert seen["close"] == {"code": 1000, "wasClean": True}


def test_a_page_in_chromium_streams_over_http2_and_tls(
    program: Program, browsed_by_tls: Browsed, tmp_path: Path
) -> None:
    chromium, page, port = program("chromium"), browsed_by_tls.page, browsed_by_tls.fleet.port
    url = f"wss://localhost:{port}/v1/completions"
    page.question = {"url": url, "first": f"https://localhost:{port}/health", "request": json.loads(_request("page"))}
    log = tmp_path / "net.json"
    visit(chromium, page, tmp_path, timeout_s=60, more=("--ignore-certificate-errors", f"--log-net-log={log}"))
    seen = page.seen
    assert seen.get("error") is None, seen
    _check(seen["tokens"], [milliseconds / 1e3 for milliseconds in seen["times"]], "page")
    assert seen["cancelled"]["cancelled"]
    assert seen["close"] == {"code": 1000, "wasClean": True}
    assert ":protocol: websocket" in log.read_text("utf-8"), "it went over HTTP/1.1"


def test_a_page_of_an_origin_without_leave_gets_nothing(program: Program, browsed: Browsed, tmp_path: Path) -> None:
    chromium = program("chromium")
    with page_server() as other:
        other.question = {"url": _url(browsed.fleet), "request": {}}
        visit(chromium, other, tmp_path, timeout_s=60)
        assert other.seen["error"] == "Error: not opened"
        assert other.seen["close"] == {"code": 1006, "wasClean": False}
