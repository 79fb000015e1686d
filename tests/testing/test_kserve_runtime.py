from __future__ import annotations

import json
from urllib.parse import urlsplit

from infermesh.testing.h2_peer import H2Client, H2Peer
from infermesh.testing.h11_client import H11Client
from infermesh.testing.kserve_runtime import MODEL, scripted_grpc_runtime


async def test_its_pages_are_what_an_adapter_asks_for_and_its_grpc_port_is_the_script() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: peer.of(1).ended)
        await peer.send_headers(1, [(":status", "200"), ("grpc-status", "5")], end=True)

    async with scripted_grpc_runtime(script, slots=3) as at:
        assert (at.model, at.slots, at.kind) == (MODEL, 3, "kserve")
        assert at.grpc_address is not None
        address = urlsplit(at.url)
        assert address.hostname is not None
        assert address.port is not None
        async with await H11Client.dial((address.hostname, address.port)) as client:
            index = await client.fetch("POST", "/v2/repository/index", b"{}")
            assert json.loads(index.body) == [{"name": MODEL, "state": "READY"}]
            for path in (f"/v2/models/{MODEL}/ready", "/v2/health/ready"):
                assert (await client.fetch("GET", path)).status == 200
            echoed = await client.fetch("POST", f"/v2/models/{MODEL}/infer", b"[1]", [("x-infermesh-a", "1")])
            assert (echoed.body, echoed.headers["x-saw"]) == (b"[1]", "x-infermesh-a")
            assert (await client.fetch("GET", "/v2/models/nobody/ready")).status == 404
        async with await H2Client.dial(at.grpc_address) as caller:
            answer = await caller.fetch("POST", "/a.B/C", b"")
            assert answer.headers["grpc-status"] == "5"
