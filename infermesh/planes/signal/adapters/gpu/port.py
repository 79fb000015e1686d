"""What every GPU adapter offers: the state of the GPUs of this node, now.

Duties of an adapter: `sample` never raises for a fault of the driver or the hardware, waits no longer than its
config says, and invents nothing. Without a driver it reports no GPU, and says why once. Health that cannot be
read is `unknown`, never `healthy`.

Duties of the owner: one `sample` at a time, `aclose` at the end.
"""

from __future__ import annotations

import enum
from typing import Protocol

from infermesh.core.model.state import GpuState


class GpuCondition(enum.StrEnum):
    """How the telemetry itself is doing; the health of the GPUs is in their states."""

    NOT_ASKED = "not_asked"
    READING = "reading"
    NO_DRIVER = "no_driver"
    FAILING = "failing"  # The driver answers with errors.
    HUNG = "hung"  # A call into the driver has not come back.


class GpuAdapter(Protocol):
    @property
    def condition(self) -> GpuCondition: ...

    @property
    def reason(self) -> str:
        """Why the condition is not `reading`, in words for an operator; empty when it is."""

    async def sample(self) -> tuple[GpuState, ...]: ...

    async def aclose(self) -> None: ...
