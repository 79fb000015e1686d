"""The answer to `GET /v1/models`, as vLLM and other servers of OpenAI's API give it. Pure.

Only what routing needs is read. A name that cannot be a label or a log field (empty, too long, not printable)
is left out and counted, as are names past the limit: the rest of the list is still good.
"""

from __future__ import annotations

from typing import Final

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.planes.signal.adapters.runtime.port import ListedModel, RuntimeAdapterError

EMULATOR_OWNER: Final = "infermesh-emulator"
MODELS_MAX: Final = 256
MODEL_NAME_CHARS_MAX: Final = 256
TOKENS_MAX: Final = 2**31 - 1


def read_model_list(body: bytes, what: str) -> tuple[tuple[ListedModel, ...], int]:
    """The models, and how many were left out. `what` names the request in the error."""
    try:
        cards = msgspec.json.decode(body, type=_ModelList).data
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RuntimeAdapterError(f"{what}: not a model list: {error}") from error
    usable = [card for card in cards if 0 < len(card.id) <= MODEL_NAME_CHARS_MAX and card.id.isprintable()]
    contexts = {card.id: card.max_model_len or 0 for card in usable}
    models = tuple(
        ListedModel(
            name=ModelName(card.id),
            parent=ModelName(card.parent) if card.parent else None,
            # A LoRA adapter has none of its own.
            context_tokens_max=_clamp(contexts[card.id] or contexts.get(card.parent or "", 0)),
            emulated=card.owned_by == EMULATOR_OWNER,
        )
        for card in usable[:MODELS_MAX]
    )
    return models, len(cards) - len(models)


class _ModelCard(msgspec.Struct):
    id: str
    owned_by: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


def _clamp(tokens: int) -> int:
    return max(0, min(TOKENS_MAX, tokens))
