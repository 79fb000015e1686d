"""The Open Inference Protocol (KServe v2) in REST, through router and node to a runtime, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from infermesh import __version__
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.h2_peer import H2Client, H2Peer
from infermesh.testing.h11_client import ClientAnswer, H11Client
from infermesh.testing.kserve_runtime import MODEL, scripted_grpc_runtime
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import GpuPlan, MeshPlan, Settings

Fetch = Callable[..., Awaitable[ClientAnswer]]
INFER = f"/v2/models/{MODEL}/infer"
TENSORS = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]}).encode()


async def hung(peer: H2Peer) -> None:
    await peer.read_until(lambda: False)


@asynccontextmanager
async def kserve_mesh(trust: TrustDomain, router: Settings | None = None) -> AsyncIterator[Mesh]:
    async with scripted_grpc_runtime(hung) as runtime:
        plan = MeshPlan(gpus=[GpuPlan(engines=(), runtimes=[runtime])], router=router or {}, bystander=None)
        async with running_mesh(plan, trust=trust) as mesh:
            yield mesh


@asynccontextmanager
async def asking(mesh: Mesh, version: str) -> AsyncIterator[Fetch]:
    """One client's `fetch`, by either protocol."""
    if version == "1.1":
        async with await mesh.client() as client:
            yield client.fetch
        return

    async with await H2Client.dial(mesh.router.client_address) as peer:

        async def fetch(
            method: str, target: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
        ) -> ClientAnswer:
            fields = [*headers, *([("content-type", "application/json")] if body else [])]
            answer = await peer.fetch(method, target, body, headers=fields)
            assert answer.ended
            return ClientAnswer(answer.status, answer.headers, bytes(answer.body))

        yield fetch


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_what_concerns_a_model_goes_to_its_runtime_as_it_is(trust: TrustDomain, version: str) -> None:
    async with kserve_mesh(trust) as mesh, asking(mesh, version) as fetch:
        answer = await fetch("POST", INFER, TENSORS, headers=[("x-infermesh-tenant", "acme"), ("x-infermesh-x", "1")])
        assert (answer.status, answer.body) == (200, TENSORS)
        assert answer.headers["x-saw"] == "x-infermesh-request-id"
        ours = {name for name in answer.headers if name.startswith("x-infermesh-")}
        assert ours == {"x-infermesh-request-id", "x-infermesh-node", "x-infermesh-attempts"}
        versioned = await fetch("POST", f"/v2/models/{MODEL}/versions/1/infer", TENSORS)
        assert (versioned.status, versioned.body) == (200, TENSORS)
        about = await fetch("GET", f"/v2/models/{MODEL}")
        assert json.loads(about.body) == {"name": MODEL, "platform": "test"}
        stream = await fetch("POST", f"/v2/models/{MODEL}/generate_stream", b'{"text_input": "hi"}')
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.body == b'data: {"text_output": "one"}\n\ndata: {"text_output": "two"}\n\n'
        unknown_there = await fetch("GET", f"/v2/models/{MODEL}/stats")
        assert unknown_there.status == 404
        assert unknown_there.headers["x-infermesh-node"] == "gpu-a"


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_what_concerns_a_server_is_answered_for_the_fleet(trust: TrustDomain, version: str) -> None:
    async with kserve_mesh(trust) as mesh, asking(mesh, version) as fetch:
        for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready"):
            assert (await fetch("GET", path)).status == 200
        about = json.loads((await fetch("GET", "/v2")).body)
        assert (about["name"], about["version"]) == ("infermesh", __version__)
        index = json.loads((await fetch("POST", "/v2/repository/index", b"{}")).body)
        assert index == [{"name": MODEL, "state": "READY"}]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v2/models/nobody/infer", 404, "model_not_found"),
        ("GET", "/v2/models/nobody/ready", 404, "model_not_found"),
        ("GET", INFER, 405, "method_not_allowed"),
        ("POST", f"/v2/models/{MODEL}", 405, "method_not_allowed"),
        ("GET", "/v2/models", 404, "unknown_path"),
        ("POST", f"/v2/repository/models/{MODEL}/load", 403, "placement_only"),
        ("POST", f"/v2/repository/models/{MODEL}/unload", 403, "placement_only"),
        ("POST", "/v2/systemsharedmemory/region/x/register", 404, "unknown_path"),
    ],
)
async def test_what_cannot_be_served_is_refused(
    trust: TrustDomain, method: str, path: str, status: int, code: str
) -> None:
    async with kserve_mesh(trust) as mesh:
        for version in ("1.1", "2"):
            async with asking(mesh, version) as fetch:
                answer = await fetch(method, path, b"{}" if method == "POST" else b"")
                assert answer.status == status
                assert json.loads(answer.body)["error"]["code"] == code
        assert mesh.router.node.holdings().requests == 0


async def test_the_client_port_of_a_whole_router_speaks_tls(trust: TrustDomain, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    settings = {"client.certificate_file": str(certificate), "client.key_file": str(key)}
    async with kserve_mesh(trust, settings) as mesh:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        trusting.set_alpn_protocols(["h2"])
        async with await H2Client.dial(mesh.router.client_address, tls=trusting) as client:
            answer = await client.fetch("POST", INFER, TENSORS)
            assert (answer.status, bytes(answer.body)) == (200, TENSORS)
        async with await H11Client.dial(mesh.router.client_address) as plain:
            refused = await plain.fetch("POST", INFER, TENSORS)
            assert refused.status == 400
            assert json.loads(refused.body)["error"]["code"] == "tls_required"


async def test_a_runtime_without_a_grpc_port_says_so_to_a_call(trust: TrustDomain) -> None:
    """The model is known; only its way of being asked is not."""
    headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-infermesh-model", "emulated-8b")]
    async with running_mesh(MeshPlan(bystander=None), trust=trust) as mesh:
        async with await H2Client.dial(mesh.router.client_address) as client:
            with trio.fail_after(5):
                answer = await client.fetch("POST", "/any.Service/Do", bytes(5), headers=headers)
        assert answer.headers["grpc-status"] == "5"
        assert "grpc_url" in answer.headers["grpc-message"]
