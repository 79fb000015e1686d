"""Peers that are not who they should be, in both directions: not one byte of a request passes between them and us."""

from __future__ import annotations

import ssl
import time

import pytest
import trio
from h2.connection import H2Connection

from infermesh.core.model.names import NodeId
from infermesh.net.tls import HTTP1_ALPN
from infermesh.testing.bad_certificates import Shape
from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import BadCertificate, TrustDomain, careless_context
from infermesh.testing.completions import PATH, completion_body, error_code
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.mesh import running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan

_B = BadCertificate
SUBSCRIBE = "/infermesh.state.v1.StateService/Subscribe"
FORWARDED = b"POST %b HTTP/1.1\r\nhost: gpu-a\r\nx-infermesh-model: %b\r\ncontent-length: %d\r\n\r\n"

# What a node's mesh port makes of a client with such a certificate.
AS_CLIENT: dict[BadCertificate, str] = {
    _B.OTHER_CA: "wrong_ca",
    _B.SELF_SIGNED: "wrong_ca",
    _B.EXPIRED: "expired",
    _B.NOT_YET_VALID: "not_yet_valid",
    _B.OTHER_TRUST_DOMAIN: "trust_domain",
    _B.SUBDOMAIN_OF_TRUST_DOMAIN: "trust_domain",
    _B.OTHER_WORKLOAD: "node",
    _B.NODE_WITH_CHILD: "node",
    _B.NO_SAN: "san",
    _B.TWO_SPIFFE_IDS: "san",
    _B.DNS_NAME_ONLY: "san",
    _B.UPPERCASE_HOST: "spiffe_id",
    _B.SERVER_ONLY: "wrong_ca",  # OpenSSL sees this purpose itself.
}
# What a router makes of a node that shows such a certificate, as it says it to the client.
AS_NODE: dict[BadCertificate, bytes] = {
    _B.OTHER_CA: b"certificate verify failed",
    _B.SELF_SIGNED: b"certificate verify failed",
    _B.EXPIRED: b"certificate verify failed: certificate has expired",
    _B.NOT_YET_VALID: b"certificate verify failed: certificate is not yet valid",
    _B.OTHER_TRUST_DOMAIN: b"peer refused (trust_domain)",
    _B.OTHER_NODE: b"peer refused (node)",
    _B.OTHER_WORKLOAD: b"peer refused (node)",
    _B.NO_SAN: b"peer refused (san)",
    _B.CLIENT_ONLY: b"certificate verify failed",
}


AS_NODE_COUNTED = {_B.OTHER_NODE: "node", _B.CLIENT_ONLY: "wrong_ca"}


def subscription() -> bytes:
    """A call that lasts: the state stream of a node, from its beginning."""
    client = H2Connection()
    client.initiate_connection()
    head = {":method": "POST", ":scheme": "https", ":authority": "gpu-a", ":path": SUBSCRIBE, "te": "trailers"}
    client.send_headers(1, [*head.items(), ("content-type", "application/grpc")])
    client.send_data(1, b"\x00\x00\x00\x00\x02\x0a\x00")
    return client.data_to_send()


async def ask_over_tls(address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    """What a request brings over a connection that should not come to be."""
    body = completion_body()
    with trio.fail_after(5):
        plain = await trio.open_tcp_stream(*address)
        stream = trio.SSLStream(plain, context, https_compatible=True)
        received = b""
        try:
            # In TLS 1.3 the server judges the client when the client is done already: the request may go out.
            await stream.send_all(FORWARDED % (PATH.encode(), MODEL.encode(), len(body)) + body)
            async for piece in stream:
                received += piece
        except (trio.BrokenResourceError, ssl.SSLError):
            pass
        finally:
            await trio.aclose_forcefully(plain)
    return received


def handshake_failures(port: str, node: str, reason: str) -> dict[str, int]:
    return {f"{node} tls_handshakes_failed {port} {reason}": 1}


# --- Towards us ---


@pytest.mark.parametrize("kind", AS_CLIENT, ids=str)
async def test_a_client_with_a_bad_certificate_gets_no_answer_from_the_mesh_port(
    trust: TrustDomain, kind: BadCertificate
) -> None:
    counted = handshake_failures("mesh", "gpu-a", AS_CLIENT[kind])
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        submitted = mesh.engine.server.stats.models[MODEL].submitted
        files = trust.bad(kind, "edge")
        received = await ask_over_tls(mesh.gpus[0].mesh_address, careless_context(files, server_side=False))
        assert received == b""
        assert mesh.engine.server.stats.models[MODEL].submitted == submitted
    [line] = mesh.log("handshake_failed")
    assert line["reason"] == AS_CLIENT[kind]


async def test_a_client_without_a_certificate_gets_no_answer_from_the_mesh_port(trust: TrustDomain) -> None:
    counted = handshake_failures("mesh", "gpu-a", "no_certificate")
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        received = await ask_over_tls(mesh.gpus[0].mesh_address, careless_context(None, server_side=False))
        assert received == b""


async def test_the_routers_own_mesh_port_is_as_strict(trust: TrustDomain) -> None:
    counted = handshake_failures("mesh", "edge", "wrong_ca")
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        files = trust.bad(BadCertificate.OTHER_CA, "gpu-a")
        received = await ask_over_tls(mesh.router.mesh_address, careless_context(files, server_side=False))
        assert received == b""


@pytest.mark.parametrize(
    ("version", "alpn"),
    [(ssl.TLSVersion.TLSv1_2, [HTTP1_ALPN]), (None, []), (None, ["h3"])],
    ids=["TLS 1.2", "no ALPN", "another ALPN"],
)
async def test_a_good_certificate_in_another_protocol_gets_no_answer(
    trust: TrustDomain, version: ssl.TLSVersion | None, alpn: list[str]
) -> None:
    counted = handshake_failures("mesh", "gpu-a", "protocol")
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        context = careless_context(trust.node("edge"), server_side=False, version=version, alpn=alpn)
        assert await ask_over_tls(mesh.gpus[0].mesh_address, context) == b""


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (FORWARDED % (PATH.encode(), MODEL.encode(), 0), "protocol"),
        (b"\x16\x03\x01\x00\x05hello", "protocol"),
        (b"", "closed"),
        (b"\x16\x03\x01\x02\x00\x01", "closed"),
    ],
    ids=["plain HTTP", "garbage in a TLS record", "nothing", "half a hello"],
)
async def test_a_client_that_speaks_no_tls_is_hung_up_on(trust: TrustDomain, sent: bytes, reason: str) -> None:
    counted = handshake_failures("mesh", "gpu-a", reason)
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        async with await trio.open_tcp_stream(*mesh.gpus[0].mesh_address) as stream:
            await stream.send_all(sent)
            if reason == "closed":
                await stream.send_eof()
            with trio.fail_after(5):
                received = b"".join([bytes(piece) async for piece in stream])
        assert b"HTTP" not in received


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"])
async def test_a_client_that_lets_the_handshake_wait_is_hung_up_on_in_time(trust: TrustDomain, sent: bytes) -> None:
    plan = MeshPlan(gpus=[GpuPlan(settings={"mesh.handshake_timeout_s": "0.15"})])
    counted = handshake_failures("mesh", "gpu-a", "timed_out")
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await trio.open_tcp_stream(*mesh.gpus[0].mesh_address) as stream,
    ):
        await stream.send_all(sent)
        with trio.fail_after(5):
            assert [piece async for piece in stream] == []


@pytest.mark.slow
async def test_a_connection_does_not_outlive_the_certificate_that_opened_it(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}):
        end_s = int(time.time() - trust.now_unix) + 3
        files = trust.shaped(Shape(end_s=end_s), "edge", name="short")
        stream = trio.SSLStream(
            await trio.open_tcp_stream(*mesh.gpus[0].mesh_address),
            careless_context(files, server_side=False, alpn=["h2"]),
        )
        with trio.fail_after(5):
            await stream.send_all(subscription())
            assert await stream.receive_some()
            with pytest.raises(trio.BrokenResourceError):  # Cut off, without the clean end of a stream that is whole.
                while await stream.receive_some():
                    pass
        assert time.time() >= int(trust.now_unix) + end_s
        await trio.aclose_forcefully(stream)


# --- From us ---


async def serve_impostor(nursery: trio.Nursery, trust: TrustDomain, kind: BadCertificate) -> HttpPeer:
    """A node that shows a bad certificate, asks nobody for theirs, and would answer anything."""

    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(b"{}")

    context = careless_context(trust.bad(kind, "gpu-a"), server_side=True, alpn=["h2", HTTP1_ALPN])

    async def serve(*, task_status: trio.TaskStatus[HttpPeer]) -> None:
        await serve_http_peer(answer, tls=context, task_status=task_status)

    peer: HttpPeer = await nursery.start(serve)
    return peer


IMPOSTOR_PLAN = MeshPlan(
    gpus=[GpuPlan(relayed=True), GpuPlan(engines=())], bystander=1, router={"admission.queue_wait_max_s": "0.02"}
)


@pytest.mark.parametrize("kind", AS_NODE, ids=str)
async def test_a_router_sends_no_request_to_a_node_with_a_bad_certificate(
    trust: TrustDomain, kind: BadCertificate, nursery: trio.Nursery
) -> None:
    """The node was good when it was chosen: its state stream stands, and the next connection meets an impostor."""
    impostor = await serve_impostor(nursery, trust, kind)
    counted = {
        f"edge inferences {MODEL} - - failed": 1,
        "edge upstream_attempts gpu-a connect_failed": 1,
        **handshake_failures("-", "edge", AS_CLIENT.get(kind) or AS_NODE_COUNTED[kind]),
    }
    async with (
        running_mesh(IMPOSTOR_PLAN, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await mesh.client() as client,
    ):
        mesh.relays[0].target = (impostor.host, impostor.port)
        answer = await client.fetch("POST", PATH, completion_body())
        assert answer.status == 502
        assert error_code(answer.body) == "no_answer"
        assert AS_NODE[kind] in answer.body
        await impostor.wait_nobody()
        assert impostor.requests == []


@pytest.mark.parametrize("kind", AS_NODE, ids=str)
async def test_a_router_follows_no_node_with_a_bad_certificate_and_says_why(
    trust: TrustDomain, kind: BadCertificate, nursery: trio.Nursery
) -> None:
    impostor = await serve_impostor(nursery, trust, kind)
    async with running_mesh(IMPOSTOR_PLAN, trust=trust) as mesh:
        mesh.relays[0].target = (impostor.host, impostor.port)
        mesh.relays[0].cut()
        await mesh.wait_out(0)
        node = mesh.router.node.sources.view().nodes[NodeId("gpu-a")]
        assert node.state == "dead"
        assert AS_NODE[kind].decode() in node.reason
        async with await mesh.client() as client:
            answer = await client.fetch("POST", PATH, completion_body())
            assert answer.status == 503
            assert error_code(answer.body) == "no_capacity"
            assert int(answer.headers["retry-after"]) >= 1
        assert impostor.requests == []


@pytest.mark.slow
async def test_a_node_whose_certificate_is_good_again_is_used_again(trust: TrustDomain, nursery: trio.Nursery) -> None:
    impostor = await serve_impostor(nursery, trust, BadCertificate.EXPIRED)
    async with running_mesh(IMPOSTOR_PLAN, trust=trust) as mesh:
        relay = mesh.relays[0]
        good, relay.target = relay.target, (impostor.host, impostor.port)
        relay.cut()
        await mesh.wait_out(0)
        relay.target = good
        await mesh.wait_ready()
        async with await mesh.client() as client:
            assert (await client.fetch("POST", PATH, completion_body())).status == 200


async def test_a_node_that_speaks_plain_http_on_its_mesh_port_gets_no_request(
    trust: TrustDomain, nursery: trio.Nursery
) -> None:
    async def answer(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(b"{}")

    plain: HttpPeer = await nursery.start(serve_http_peer, answer)
    counted = {
        f"edge inferences {MODEL} - - failed": 1,
        "edge upstream_attempts gpu-a connect_failed": 1,
        **handshake_failures("-", "edge", "closed"),
    }
    async with (
        running_mesh(IMPOSTOR_PLAN, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await mesh.client() as client,
    ):
        mesh.relays[0].target = (plain.host, plain.port)
        answer_ = await client.fetch("POST", PATH, completion_body())
        assert answer_.status == 502
        assert plain.requests == []
