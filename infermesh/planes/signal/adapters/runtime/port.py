"""What every runtime adapter offers, whatever the runtime speaks.

An adapter belongs to one runtime process of this node. Its duties:
- `sample` never raises for a fault of the runtime. A runtime that is slow, wrong or gone gives the models last
  known with lifecycle unknown: never idle, never ready.
- Every wait is under a deadline of the adapter's own config.
- A fact is logged once when it begins and once when it ends, not at each sample.
- What it cannot do is missing from `capabilities`, and asking for it raises CapabilityMissingError.

Duties of the owner: `start` before anything else, one `sample` at a time, `aclose` at the end.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.core.model.state import ModelState


class Capability(enum.StrEnum):
    SAMPLE = "sample"
    LIST = "list"
    HEALTH = "health"
    LOAD = "load"
    UNLOAD = "unload"


class RuntimeAdapterError(Exception):
    """The runtime refused, failed or did not answer; the message names it and says what was seen."""


class CapabilityMissingError(RuntimeAdapterError):
    """This kind of runtime cannot do what was asked."""


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model as the runtime names it to clients."""

    name: ModelName
    parent: ModelName | None = None  # The base model of a LoRA adapter.
    context_tokens_max: int = 0  # 0 unknown.
    emulated: bool = False


class RuntimeAdapter(Protocol):
    @property
    def kind(self) -> str:
        """What stands in `ModelState.runtime` and in the metrics label `runtime`."""

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    async def start(self) -> None:
        """First contact. Raises RuntimeAdapterError; sampling may go on regardless and will find it later."""

    async def sample(self) -> tuple[ModelState, ...]:
        """The state of each model now; () when none was ever seen."""

    async def list(self) -> tuple[ListedModel, ...]: ...

    async def load(self, name: ModelName) -> None: ...

    async def unload(self, name: ModelName) -> None: ...

    async def health(self) -> bool:
        """Whether the runtime says that it can serve. Raises RuntimeAdapterError when it says nothing."""

    async def aclose(self) -> None: ...
