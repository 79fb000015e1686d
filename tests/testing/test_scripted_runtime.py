from __future__ import annotations

from infermesh.testing.h11_client import H11Client
from infermesh.testing.http_peer import PeerResponse
from infermesh.testing.mesh_plan import MODEL
from infermesh.testing.scripted_runtime import scripted_runtime


async def test_its_pages_are_those_of_an_engine_and_its_answers_are_the_scripts() -> None:
    async def script(response: PeerResponse) -> None:
        await response.send(b"anything", status=418)

    async with scripted_runtime(script) as runtime:
        host, port = runtime.url.removeprefix("http://").split(":")
        async with await H11Client.dial((host, int(port))) as client:
            assert (await client.fetch("GET", "/health")).status == 200
            assert MODEL.encode() in (await client.fetch("GET", "/v1/models")).body
            assert b"vllm:num_requests_running" in (await client.fetch("GET", "/metrics")).body
            answer = await client.fetch("POST", "/v1/completions", b"{}")
            assert (answer.status, answer.body) == (418, b"anything")
