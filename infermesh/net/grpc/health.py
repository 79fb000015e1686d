"""The standard health service (grpc.health.v1): whether this server, or one service of it, may be sent calls.

Whoever knows sets the status; whoever watches is told of each change, the newest one if they come faster than it reads.
The empty name is the server as a whole and serves from the start.
"""

from __future__ import annotations

from typing import Final

import trio

from wire.grpc import Code
from wire.grpc.service import Sender, ServerContext
from wire.proto.grpc.health.v1.health_grpc import HealthBase
from wire.proto.grpc.health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

WHOLE_SERVER: Final = ""
_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.SERVING)
_NOT_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)
_SERVICE_UNKNOWN: Final = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)


class HealthService(HealthBase):
    def __init__(self) -> None:
        self._statuses: dict[str, HealthCheckResponse] = {WHOLE_SERVER: _SERVING}
        self._changed = trio.Event()
        self._shut_down = False

    def set_serving(self, service: str = WHOLE_SERVER, *, serving: bool = True) -> None:
        """Ignored after `shut_down`: a late report must not send calls to a server that is leaving."""
        if not self._shut_down:
            self._set(service, _SERVING if serving else _NOT_SERVING)

    def shut_down(self) -> None:
        """Everything is not serving from now on; watchers are told, and go elsewhere."""
        self._shut_down = True
        for service in list(self._statuses):
            self._set(service, _NOT_SERVING)

    def check(self, request: HealthCheckRequest, context: ServerContext) -> HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            known = ", ".join(repr(name) for name in sorted(self._statuses))
            context.abort(Code.NOT_FOUND, f"no health is kept of {request.service[:200]!r}; known are {known}")
        return status

    def list(self, request: HealthListRequest, context: ServerContext) -> HealthListResponse:
        return HealthListResponse(statuses=self._statuses)

    async def watch(
        self, request: HealthCheckRequest, responses: Sender[HealthCheckResponse], context: ServerContext
    ) -> None:
        told: HealthCheckResponse | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
            if status is not told:
                told = status
                await responses.send(status)
            else:
                await changed.wait()

    def _set(self, service: str, status: HealthCheckResponse) -> None:
        self._statuses[service] = status
        self._changed.set()
        self._changed = trio.Event()
