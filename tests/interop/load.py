"""Closed-loop load on a router: clients that stream and clients that do not, and what became of each request.

Each client sends one request after the other on one kept connection, streams and whole answers in turn, and looks
closely at how each ended: an answer is complete only if its text is the engine's to the last token.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from infermesh.emulator import answer_text
from tests.interop.exchange import HOST
from tests.interop.fleet import MODEL

PATH: Final = "/v1/completions"
_JOIN_TIMEOUT_S: Final = 30.0


@dataclass
class Shot:
    """One request. Times are Unix seconds, so that they compare with those in logs."""

    stream: bool
    sent_at: float
    status: int = 0
    node: str = ""
    attempts: int = 0
    request_id: str = ""
    event_times: list[float] = field(default_factory=list)
    text: str = ""
    complete: bool = False  # The whole text came, and the stream said [DONE].
    error_code: str = ""  # Of an error event in the stream, or of an error body.
    failure: str = ""  # What the client's library raised: the answer had no clean end.
    retry_after: str = ""
    ended_at: float = 0.0

    @property
    def broken_off(self) -> bool:
        """A stream that was told to have broken, and ended without a clean end."""
        return self.error_code == "stream_broken" and bool(self.failure) and not self.complete


def fire(
    connection: http.client.HTTPConnection,
    prompt: str,
    *,
    tokens: int,
    stream: bool,
    headers: dict[str, str] | None = None,
) -> Shot:
    """One request, whatever becomes of it. The connection is closed after a failure, else kept."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "stream": stream}
    shot = Shot(stream=stream, sent_at=time.time())
    try:
        connection.request("POST", PATH, json.dumps(body), {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        shot.status = response.status
        shot.node = response.headers.get("x-infermesh-node", "")
        shot.attempts = int(response.headers.get("x-infermesh-attempts", "0"))
        shot.request_id = response.headers.get("x-infermesh-request-id", "")
        shot.retry_after = response.headers.get("retry-after", "")
        if stream and response.status == 200:
            _read_stream(response, shot)
        else:
            _read_whole(response, shot)
        shot.complete = shot.complete and shot.text == answer_text(prompt.encode(), tokens)
    except (OSError, http.client.HTTPException) as error:
        shot.failure = f"{type(error).__name__}: {error}"
        connection.close()
    shot.ended_at = time.time()
    return shot


def _read_whole(response: http.client.HTTPResponse, shot: Shot) -> None:
    value = json.loads(response.read())
    shot.event_times.append(time.time())
    if response.status == 200:
        shot.text = value["choices"][0]["text"]
        shot.complete = True
    else:
        shot.error_code = value["error"]["code"]


def _read_stream(response: http.client.HTTPResponse, shot: Shot) -> None:
    for event in events_of(response):
        shot.event_times.append(time.time())
        if event == "[DONE]":
            shot.complete = True
            continue
        value = json.loads(event)
        if "error" in value:
            shot.error_code = value["error"]["code"]
        elif value["choices"]:
            shot.text += value["choices"][0]["text"]


def events_of(response: http.client.HTTPResponse) -> Iterator[str]:
    """The payloads of server-sent events as they come. Raises IncompleteRead where the body has no end."""
    rest = b""
    while piece := response.read1(65_536):
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if data := event.strip():
                yield data.decode().removeprefix("data: ")
    assert not rest.strip(), f"the stream ended inside an event: {rest!r}"


class Load:
    """Clients that go on until they are told to stop."""

    def __init__(self, port: int, *, clients: int, tokens: int) -> None:
        self._port = port
        self._tokens = tokens
        self._stop = threading.Event()
        self._shots: list[list[Shot]] = [[] for _ in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """All clients have stopped at the end: each finishes the request that it is at."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(_JOIN_TIMEOUT_S)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    @property
    def shots(self) -> list[Shot]:
        """Those that have ended, in the order of their sending."""
        return sorted((shot for shots in self._shots for shot in shots), key=lambda shot: shot.sent_at)

    def count(self, node: str = "") -> int:
        """Of answers so far, or of those by one node."""
        return sum(1 for shots in self._shots for shot in shots if shot.complete and shot.node == (node or shot.node))

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=_JOIN_TIMEOUT_S)
        shots = self._shots[number]
        try:
            while not self._stop.is_set():
                prompt = f"client {number} asks for the {len(shots)}th time"
                shots.append(fire(connection, prompt, tokens=self._tokens, stream=(number + len(shots)) % 2 == 0))
        finally:
            connection.close()


def told(shots: Sequence[Shot]) -> list[dict[str, Any]]:
    """What a failed assertion should show of requests."""
    return [{**vars(shot), "event_times": len(shot.event_times)} for shot in shots[:5]]
