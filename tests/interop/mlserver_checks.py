"""tritonclient, HTTP and gRPC, against MLServer, directly or through the mesh.

Usage: `python -m tests.interop.mlserver_checks HTTP_ADDRESS GRPC_ADDRESS`. One JSON line a check. Runs in the
environment that `scripts/interop-mlserver` installs. Not here, because MLServer 1.7.1 does not give them to this client
even directly: ModelStreamInfer, and the index over HTTP, which tritonclient asks for without a body.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from tests.interop.triton_checks import Check, Failed, expect, run_checks

MODEL = "echo"
REPEATS = 50


class MlserverChecks:
    def __init__(self, http_address: str, grpc_address: str) -> None:
        self._faces: list[tuple[ModuleType, Any, str]] = [
            (over_http, over_http.InferenceServerClient(http_address, network_timeout=30), "404"),
            (over_grpc, over_grpc.InferenceServerClient(grpc_address), "StatusCode.NOT_FOUND"),
        ]

    def all(self) -> list[Check]:
        return [self.health, self.metadata, self.index, self.infer, self.infer_again_and_again, self.unknown_model]

    def health(self) -> None:
        for _, client, _ in self._faces:
            expect(client.is_server_live() and client.is_server_ready(), "the server is live and ready")
            expect(client.is_model_ready(MODEL), "the model is ready")

    def metadata(self) -> None:
        http, grpc = (client.get_model_metadata(MODEL) for _, client, _ in self._faces)
        expect(http["name"] == MODEL and grpc.name == MODEL, f"both name the model: {http}, {grpc}")

    def index(self) -> None:
        _, client, _ = self._faces[1]
        rows = client.get_model_repository_index().models
        expect([row.name for row in rows] == [MODEL], f"the index: {rows}")

    def infer(self) -> None:
        for module, client, _ in self._faces:
            for dtype, name in ((np.float32, "FP32"), (np.int64, "INT64")):
                self._echo(module, client, np.arange(6).reshape(2, 3).astype(dtype), name)

    def infer_again_and_again(self) -> dict[str, Any]:
        for module, client, _ in self._faces:
            for number in range(REPEATS):
                self._echo(module, client, np.full((1, 4), number, dtype=np.float32), "FP32")
        return {"requests": 2 * REPEATS}

    def unknown_model(self) -> dict[str, Any]:
        found = {}
        for module, client, status in self._faces:
            try:
                client.infer("nope", [self._tensor(module, np.zeros((1, 4), dtype=np.float32), "FP32")])
            except InferenceServerException as error:
                expect(error.status() == status, f"status {error.status()}, {status} was expected")
                found[status] = error.message()
            else:
                raise Failed("an error was expected")
        return found

    def _tensor(self, module: ModuleType, array: np.ndarray, datatype: str) -> Any:
        tensor = module.InferInput("x", list(array.shape), datatype)
        # MLServer's REST face takes tensors as JSON.
        tensor.set_data_from_numpy(array, **({"binary_data": False} if module is over_http else {}))
        return tensor

    def _echo(self, module: ModuleType, client: Any, array: np.ndarray, datatype: str) -> None:
        more = {"outputs": [over_http.InferRequestedOutput("x", binary_data=False)]} if module is over_http else {}
        result = client.infer(MODEL, [self._tensor(module, array, datatype)], **more).as_numpy("x")
        expect(np.array_equal(result, array), f"{result} came back for {array}")


def main() -> int:
    return run_checks(MlserverChecks(*sys.argv[1:]).all())


if __name__ == "__main__":
    sys.exit(main())
