"""The answer to `POST /v2/repository/index`, as Triton and MLServer give it. Pure.

One row per version of a model; of a model with several the best version counts, since a request without a version
goes there. A row without a state was never loaded (Triton), one that is UNAVAILABLE because it was unloaded is not
served either: both are left out. MLServer's gRPC face writes `State.READY` where everyone else writes `READY`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.core.model.state import Lifecycle
from infermesh.planes.signal.adapters.runtime.openai_models import MODEL_NAME_CHARS_MAX, MODELS_MAX
from infermesh.planes.signal.adapters.runtime.port import RuntimeAdapterError

_UNLOADED: Final = frozenset({"", "unloaded"})
# Best first: what a model with several versions is said to be.
_ORDER: Final = (Lifecycle.READY, Lifecycle.LOADING, Lifecycle.UNKNOWN, Lifecycle.FAILED)


def read_index(body: bytes, what: str) -> tuple[dict[ModelName, Lifecycle], int]:
    """The models that are, or may soon be, served, and how many were left out for their name or their number."""
    try:
        rows = msgspec.json.decode(body, type=list[_Row])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RuntimeAdapterError(f"{what}: not a repository index: {error}") from error
    found: dict[ModelName, Lifecycle] = {}
    left_out: set[str] = set()
    for row in rows:
        lifecycle = _lifecycle(row)
        if lifecycle is None:
            continue
        name = ModelName(row.name)
        known = found.get(name)
        if not is_usable(row.name) or (known is None and len(found) >= MODELS_MAX):
            left_out.add(row.name)
        elif known is None or _ORDER.index(lifecycle) < _ORDER.index(known):
            found[name] = lifecycle
    return found, len(left_out)


def is_usable(name: str) -> bool:
    """Whether a name can be a label and a log field."""
    return 0 < len(name) <= MODEL_NAME_CHARS_MAX and name.isprintable()


class _Row(msgspec.Struct):
    name: str
    state: str | None = None
    reason: str | None = None


def _lifecycle(row: _Row) -> Lifecycle | None:
    """None: it is not served, and nobody is loading it."""
    state = (row.state or "").rpartition(".")[2].upper()
    if state == "UNAVAILABLE":
        return None if (row.reason or "").strip().lower() in _UNLOADED else Lifecycle.FAILED
    return _STATES.get(state)


_STATES: Final = {
    "READY": Lifecycle.READY,
    "LOADING": Lifecycle.LOADING,
    # Still answering what it has begun; nothing new should go there.
    "UNLOADING": Lifecycle.UNKNOWN,
    "UNKNOWN": Lifecycle.UNKNOWN,
}
