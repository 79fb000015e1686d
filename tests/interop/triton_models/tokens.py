"""A decoupled Triton model: COUNT answers to one request, one every PAUSE_MS. Runs inside Triton, not here.

Made from a thread of its own for each request, as an engine that batches would; the request that is cancelled stops
it, and is counted in `interop_cancelled{model="tokens"}` so that a client can see that its cancel arrived.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

NEVER = threading.Event()


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        family = pb_utils.MetricFamily(
            name="interop_cancelled", description="Requests whose cancel arrived.", kind=pb_utils.MetricFamily.COUNTER
        )
        self._family = family
        self._cancelled = family.Metric(labels={"model": "tokens", "version": "1"})

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            threading.Thread(target=self._stream, args=(request,), daemon=True).start()

    def _stream(self, request: Any) -> None:
        sender = request.get_response_sender()
        count, pause_ms = (
            int(pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0])
            for name in ("COUNT", "PAUSE_MS")
        )
        for number in range(count):
            if sender.is_cancelled():
                self._cancelled.increment(1)
                break
            token = np.array([f"tok{number} ".encode()], dtype=np.object_)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TOKEN", token)]))
            NEVER.wait(pause_ms / 1000)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
