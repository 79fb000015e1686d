"""Paths of the Open Inference Protocol (KServe v2, REST): which model a request is for, and what stays here.

https://github.com/kserve/open-inference-protocol: the model's name is in the path, so nothing of a body is read. What
concerns one model goes to a node that serves it, unchanged; what concerns a server is answered by the router, for the
fleet. Loading and unloading is placement's to do, not a client's.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.core.model.targets import RoutingView
from infermesh.planes.data.models import ready_targets
from infermesh.planes.data.peek import MODEL_CHARS_MAX

PREFIX: Final = b"/v2"
_ACTIONS: Final = {
    b"": b"GET",
    b"ready": b"GET",
    b"config": b"GET",
    b"stats": b"GET",
    b"infer": b"POST",
    b"generate": b"POST",
    b"generate_stream": b"POST",
}
_STREAMS: Final = b"generate_stream"
_PROMPTS: Final = frozenset({b"generate", b"generate_stream"})


class ModelCall(msgspec.Struct, frozen=True):
    """A request for one model."""

    model: ModelName
    action: bytes  # b"infer", or b"" for the model's metadata.
    method: bytes  # What the action takes.
    route: str  # Without the model's name: what it is counted and shown under.

    @property
    def streams(self) -> bool:
        return self.action == _STREAMS

    @property
    def has_prompt(self) -> bool:
        """Whether its body is a prompt's text rather than tensors."""
        return self.action in _PROMPTS


def parse_model_path(path: bytes) -> ModelCall | None:
    """`/v2/models/NAME[/versions/VERSION][/ACTION]`, the name percent-decoded once; None for anything else."""
    parts = path.split(b"/")
    if len(parts) < 4 or parts[1:3] != [b"v2", b"models"] or not parts[3]:
        return None
    rest = parts[4:]
    if len(rest) >= 2 and rest[0] == b"versions":
        rest = rest[2:]
    action = rest[0] if rest else b""
    if len(rest) > 1 or action not in _ACTIONS:
        return None
    model = unquote_to_bytes(parts[3]).decode("utf-8", "replace")
    if len(model) > MODEL_CHARS_MAX:
        return None
    shown = f"/v2/models/{action.decode()}" if action else "/v2/models"
    return ModelCall(ModelName(model), action, _ACTIONS[action], shown)


def list_repository(view: RoutingView) -> list[dict[str, str]]:
    """`POST /v2/repository/index`, for the fleet: what some node has ready."""
    return [{"name": str(model), "state": "READY"} for model in sorted(ready_targets(view))]
