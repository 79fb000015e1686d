"""Triton's own HTTP client against Triton, directly or through the mesh.

Usage: `python -m tests.interop.triton_http_checks ADDRESS METRICS_ADDRESS`. One JSON line a check.
Runs in the environment that `scripts/interop-triton` installs.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from tests.interop.triton_checks import (
    LARGE_COLUMNS,
    Check,
    Triton,
    addsub_inputs,
    ask,
    expect,
    expect_addsub,
    run_checks,
)

MANY = 32


class HttpChecks:
    def __init__(self, address: str, triton: Triton) -> None:
        self._address = address
        self._triton = triton
        self._client = http.InferenceServerClient(address, concurrency=MANY, network_timeout=30)

    def all(self) -> list[Check]:
        return [
            self.http_health,
            self.http_metadata,
            self.http_index,
            self.http_infer_json,
            self.http_infer_binary,
            self.http_infer_version,
            self.http_infer_large,
            self.http_infer_compressed,
            self.http_infer_many_at_once,
            self.http_error_unknown_model,
            self.http_error_bad_input,
            self.http_generate_stream,
            self.http_cancel_reaches_triton,
        ]

    def http_health(self) -> None:
        expect(self._client.is_server_live(), "the server is live")
        expect(self._client.is_server_ready(), "the server is ready")
        for model in ("addsub", "tokens", "slow"):
            expect(self._client.is_model_ready(model), f"{model} is ready")
        expect(not self._client.is_model_ready("nope"), "a model that nobody has is not ready")

    def http_metadata(self) -> dict[str, Any]:
        model = self._client.get_model_metadata("addsub")
        expect([entry["name"] for entry in model["inputs"]] == ["A", "B"], f"metadata names the inputs: {model}")
        config = self._client.get_model_config("tokens")
        expect(config["model_transaction_policy"]["decoupled"], f"the config says that tokens streams: {config}")
        server = self._client.get_server_metadata()
        expect(server.get("name"), f"the server has a name: {server}")
        return {"server": server.get("name"), "extensions": server.get("extensions")}

    def http_index(self) -> dict[str, Any]:
        rows = {row["name"]: row.get("state") for row in self._client.get_model_repository_index()}
        expect(all(rows.get(model) == "READY" for model in ("addsub", "tokens", "slow")), f"the index: {rows}")
        return {"index": rows}

    def http_infer_json(self) -> None:
        inputs, a, b = addsub_inputs(http, binary_data=False)
        outputs = [http.InferRequestedOutput(name, binary_data=False) for name in ("SUM", "DIFF")]
        result = self._client.infer("addsub", inputs, outputs=outputs, request_id="json-1")
        expect_addsub(result, a, b)
        expect(result.get_response()["id"] == "json-1", "the id comes back")

    def http_infer_binary(self) -> None:
        inputs, a, b = addsub_inputs(http, binary_data=True)
        expect_addsub(self._client.infer("addsub", inputs), a, b)

    def http_infer_version(self) -> None:
        inputs, a, b = addsub_inputs(http)
        expect_addsub(self._client.infer("addsub", inputs, model_version="1"), a, b)

    def http_infer_large(self) -> dict[str, Any]:
        inputs, a, b = addsub_inputs(http, LARGE_COLUMNS, binary_data=True)
        expect_addsub(self._client.infer("addsub", inputs), a, b)
        return {"bytes_each_way": 2 * a.nbytes}

    def http_infer_compressed(self) -> None:
        inputs, a, b = addsub_inputs(http, 4096)
        result = self._client.infer(
            "addsub", inputs, request_compression_algorithm="gzip", response_compression_algorithm="gzip"
        )
        expect_addsub(result, a, b)

    def http_infer_many_at_once(self) -> dict[str, Any]:
        inputs, a, b = addsub_inputs(http)
        running = [self._client.async_infer("addsub", inputs) for _ in range(4 * MANY)]
        for each in running:
            expect_addsub(each.get_result(), a, b)
        return {"requests": len(running)}

    def http_error_unknown_model(self) -> dict[str, Any]:
        inputs, _, _ = addsub_inputs(http)
        return self._refusal("nope", inputs, "404")

    def http_error_bad_input(self) -> dict[str, Any]:
        inputs, _, _ = addsub_inputs(http)
        return self._refusal("addsub", inputs[:1], "400")

    def http_generate_stream(self) -> dict[str, Any]:
        body = json.dumps({"COUNT": 5, "PAUSE_MS": 20}).encode()
        kind, text = ask(self._address, "POST", "/v2/models/tokens/generate_stream", body)
        tokens = [json.loads(line[6:])["TOKEN"] for line in text.splitlines() if line.startswith("data: ")]
        expect(tokens == [f"tok{number} " for number in range(5)], f"five tokens: {tokens}")
        expect(kind.startswith("text/event-stream"), f"an event stream, not {kind}")
        return {"events": len(tokens)}

    def http_cancel_reaches_triton(self) -> dict[str, Any]:
        """Leave a stream after its first event: the model is told long before it would have ended."""
        host, _, port = self._address.rpartition(":")
        body = json.dumps({"COUNT": 500, "PAUSE_MS": 20}).encode()
        head = f"POST /v2/models/tokens/generate_stream HTTP/1.1\r\nhost: {self._address}\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        before = self._triton.cancelled("tokens")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            seen = b""
            while b"tok1 " not in seen:
                piece = connection.recv(65_536)
                expect(piece, f"the stream ended early: {seen!r}")
                seen += piece
        return {"cancelled_after_ms": self._triton.wait_cancelled("tokens", before)}

    def _refusal(self, model: str, inputs: list[Any], status: str) -> dict[str, Any]:
        try:
            self._client.infer(model, inputs)
        except InferenceServerException as error:
            expect(status in str(error.status()), f"status {error.status()}, {status} was expected")
            return {"status": error.status(), "message": error.message()}
        raise AssertionError("an error was expected")


def main() -> int:
    address, metrics_address = sys.argv[1:]
    return run_checks(HttpChecks(address, Triton(metrics_address)).all())


if __name__ == "__main__":
    sys.exit(main())
