"""One HTTP exchange with the standard library's client, and waiting for something to become so.

For looking at daemons and switching their faults. Not the clients that are under test, which are programs that we
did not write, and not the load, which times what it sends (`load.py`).
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

HOST: Final = "127.0.0.1"
TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.02
_NEVER: Final = threading.Event()


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    value: object = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """One exchange on a connection of its own. `value` is sent as JSON. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    body = None if value is None else json.dumps(value).encode()
    try:
        connection.request(method, path, body, dict(headers or {}))
        with connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def wait_until(what: str, is_so: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> float:
    """Look again and again; the seconds it took. Raises TimeoutError that names `what`.

    For what no event tells: the state of another process.
    """
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what}: not so after {timeout_s:g} s")
        _NEVER.wait(POLL_S)
    return time.monotonic() - began
