"""A Triton model that thinks for DELAY_MS before it answers. Runs inside Triton, not here.

It looks every 10 ms whether its request is cancelled, and counts those in `interop_cancelled{model="slow"}`.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

LOOK_EVERY_S = 0.01
NEVER = threading.Event()


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        family = pb_utils.MetricFamily(
            name="interop_cancelled", description="Requests whose cancel arrived.", kind=pb_utils.MetricFamily.COUNTER
        )
        self._family = family
        self._cancelled = family.Metric(labels={"model": "slow", "version": "1"})

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        delay = pb_utils.get_input_tensor_by_name(request, "DELAY_MS")
        until = time.monotonic() + int(delay.as_numpy().reshape(-1)[0]) / 1000
        while time.monotonic() < until:
            if request.is_cancelled():
                self._cancelled.increment(1)
                error = pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
                return pb_utils.InferenceResponse(error=error)
            NEVER.wait(LOOK_EVERY_S)
        return pb_utils.InferenceResponse([pb_utils.Tensor("DELAYED_MS", delay.as_numpy())])
