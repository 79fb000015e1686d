"""What the two client checks of Triton share: tensors, running a list of checks, and reading the server's metrics.

Runs in the environment that `scripts/interop-triton` installs, which has tritonclient and not this project.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

CANCEL_TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.02
NEVER = threading.Event()
# Of an answer of SUM and DIFF to one row; together the largest message is 8 MiB one way and 8 MiB back.
LARGE_COLUMNS = 1 << 20

Check = Callable[[], dict[str, Any] | None]


class Failed(Exception):
    """A check did not find what it expects."""


class Triton:
    """The server itself, asked past the mesh: what it counted."""

    def __init__(self, metrics_address: str) -> None:
        self._address = metrics_address

    def cancelled(self, model: str) -> float:
        return self.metric("interop_cancelled", model)

    def succeeded(self, model: str) -> float:
        return self.metric("nv_inference_request_success", model)

    def metric(self, name: str, model: str) -> float:
        lines = ask(self._address, "GET", "/metrics")[1].splitlines()
        wanted = f'model="{model}"'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{") and wanted in line)

    def wait_cancelled(self, model: str, before: float) -> float:
        """Until the model counts one more; returns the milliseconds that took."""
        began = time.monotonic()
        while self.cancelled(model) <= before:
            if time.monotonic() - began > CANCEL_TIMEOUT_S:
                raise Failed(f"{model}: no cancel arrived within {CANCEL_TIMEOUT_S:g} s")
            NEVER.wait(LOOK_EVERY_S)
        return round(1e3 * (time.monotonic() - began), 1)


def ask(address: str, method: str, path: str, body: bytes = b"") -> tuple[str, str]:
    """One HTTP exchange that must succeed: content type and text of the answer."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body or None, {"content-type": "application/json"} if body else {})
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    expect(response.status == 200, f"{method} {path}: status {response.status}: {text[:200]}")
    return response.headers.get("content-type") or "", text


def addsub_inputs(client: ModuleType, columns: int = 4, **how: Any) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Inputs for `addsub`, made with the module `client` (tritonclient.http or .grpc), and the arrays in them."""
    a = np.arange(columns, dtype=np.float32).reshape(1, columns)
    b = np.full((1, columns), 3, dtype=np.float32)
    inputs = []
    for name, array in (("A", a), ("B", b)):
        tensor = client.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array, **how)
        inputs.append(tensor)
    return inputs, a, b


def whole_numbers(client: ModuleType, **values: int) -> list[Any]:
    """Inputs of one INT32 each."""
    inputs = []
    for name, value in values.items():
        tensor = client.InferInput(name, [1], "INT32")
        tensor.set_data_from_numpy(np.array([value], dtype=np.int32))
        inputs.append(tensor)
    return inputs


def expect_addsub(result: Any, a: np.ndarray, b: np.ndarray) -> None:
    for name, wanted in (("SUM", a + b), ("DIFF", a - b)):
        found = result.as_numpy(name)
        expect(found is not None and np.array_equal(found, wanted), f"{name} is {found}, {wanted} was expected")


def expect(is_so: object, what: str) -> None:
    if not is_so:
        raise Failed(what)


def run_checks(checks: list[Check]) -> int:
    """One JSON line a check on stdout; the exit code."""
    failed = 0
    for check in checks:
        began = time.monotonic()
        try:
            found = check() or {}
        except Exception as error:  # noqa: BLE001 - each is a line of the report; the later ones still tell something.
            failed += 1
            line: dict[str, Any] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:600]}
            print(traceback.format_exc(), file=sys.stderr)
        else:
            line = {"ok": True, **found}
        line = {"check": check.__name__, **line, "took_ms": round(1e3 * (time.monotonic() - began), 1)}
        print(json.dumps(line), flush=True)
    return 1 if failed else 0
