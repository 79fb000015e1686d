"""`GET /v1/models`: what the fleet serves, merged from the routing view; no request to any runtime."""

from __future__ import annotations

from typing import Final

from infermesh.core.model.names import ModelName
from infermesh.core.model.state import Lifecycle
from infermesh.core.model.targets import RoutingView, Target

EMULATED: Final = "emulated"
_OWNERS: Final = {EMULATED: "infermesh-emulator"}


def list_models(view: RoutingView) -> list[dict[str, object]]:
    """One entry per model that some node has ready, in the order of their names."""
    return [entry(model, targets) for model, targets in sorted(ready_targets(view).items())]


def find_model(view: RoutingView, model: str) -> dict[str, object] | None:
    targets = ready_targets(view).get(ModelName(model))
    return entry(ModelName(model), targets) if targets else None


def entry(model: ModelName, targets: list[Target]) -> dict[str, object]:
    first = targets[0].state
    contexts = [target.state.context_tokens_max for target in targets if target.state.context_tokens_max]
    value: dict[str, object] = {
        "id": model,
        "object": "model",
        "created": int(min(target.state.incarnation for target in targets) / 1000),
        "owned_by": _OWNERS.get(first.runtime, first.runtime),
    }
    if contexts:
        # A prompt must fit wherever it is sent.
        value["max_model_len"] = min(contexts)
    return value


def ready_targets(view: RoutingView) -> dict[ModelName, list[Target]]:
    """Targets that are ready, by model."""
    found: dict[ModelName, list[Target]] = {}
    for _, target in sorted(view.targets.items()):
        if target.state.lifecycle is Lifecycle.READY:
            found.setdefault(target.model, []).append(target)
    return found
