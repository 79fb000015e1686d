"""An MLServer model that gives its inputs back. Runs inside MLServer, not here."""

from __future__ import annotations

from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Echo(MLModel):  # type: ignore[misc]
    async def predict(self, payload: Any) -> Any:
        outputs = [NumpyCodec.encode_output(given.name, NumpyCodec.decode_input(given)) for given in payload.inputs]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
