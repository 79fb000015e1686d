"""Runtimes of the Open Inference Protocol for tests: REST pages that an adapter finds ready, and gRPC as a test says.

`serve_kserve_pages` answers what the adapter asks and echoes `infer`; `scripted_grpc_runtime` adds a gRPC port whose
every connection is a test's own function, by the `h2` package. Not a model, and not complete: what no test asks for is
answered with 404.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from infermesh.testing.h2_peer import H2Peer, H2Server
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.mesh_plan import RuntimeAt

MODEL: Final = "echo"
Script = Callable[[H2Peer], Awaitable[None]]
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = [(b"content-type", b"text/event-stream"), (b"transfer-encoding", b"chunked")]


async def serve_kserve_pages(
    model: str = MODEL, *, task_status: trio.TaskStatus[HttpPeer] = trio.TASK_STATUS_IGNORED
) -> None:
    await serve_http_peer(partial(_answer, model), task_status=task_status)


@asynccontextmanager
async def scripted_grpc_runtime(script: Script, *, slots: int = 8) -> AsyncGenerator[RuntimeAt, None]:
    """`script` gets each connection to the gRPC port."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        pages: HttpPeer = await nursery.start(serve_kserve_pages)
        server = H2Server(script)
        nursery.start_soon(server.run)
        try:
            yield RuntimeAt(pages.base_url, MODEL, slots, kind="kserve", grpc_address=server.address)
        except Exception as error:  # noqa: BLE001 - carried out of the nursery, and raised again there.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _answer(model: str, request: PeerRequest, response: PeerResponse) -> None:
    """`infer` gives its body back, and in `x-saw` the names of the mesh's own fields that it came with."""
    of_model = request.target.removeprefix(f"/v2/models/{model}")
    match (request.method, of_model):
        case ("POST", "/v2/repository/index"):
            await response.send(json.dumps([{"name": model, "state": "READY"}]).encode(), headers=[_JSON])
        case ("GET", "/ready" | "/v2/health/ready"):
            await response.send()
        case ("GET", ""):
            await response.send(json.dumps({"name": model, "platform": "test"}).encode(), headers=[_JSON])
        case ("POST", action) if action.endswith("/infer"):
            ours = b", ".join(sorted(name for name, _ in request.headers if name.startswith(b"x-infermesh-")))
            await response.send(request.body, headers=[_JSON, (b"x-saw", ours)])
        case ("POST", "/generate_stream"):
            await response.start(200, _STREAM)
            for word in ("one", "two"):
                await response.write(f'data: {{"text_output": "{word}"}}\n\n'.encode())
            await response.finish()
        case _:
            await response.send(b'{"error": "unknown"}', status=404, headers=[_JSON])
