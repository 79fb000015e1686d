"""A router that stops, and clients of HTTP/2 that do not know yet (RFC 9113 section 6.8)."""

from __future__ import annotations

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import completion_body, expected_text, unary_text
from infermesh.testing.mesh import running_mesh
from infermesh.testing.waiting import wait_until
from tests.net.http2.raw_client import RawClient
from tests.wire.http2.raw_peer import ACK, DATA, END_STREAM, GOAWAY, PING, POST, content, frame, head
from wire.http1 import Field

ASK: list[Field] = [*POST[:2], (b":path", b"/v1/completions"), *POST[3:], (b"content-type", b"application/json")]
WATCH: list[Field] = [
    *POST[:2],
    (b":path", b"/grpc.health.v1.Health/Watch"),
    *POST[3:],
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
EVERYTHING = b"\x00\x00\x00\x00\x00"  # A HealthCheckRequest of the whole server.
NOT_SERVING = b"\x00\x00\x00\x00\x02\x08\x02"
ANY_STREAM = b"\x7f\xff\xff\xff"


async def test_a_request_that_crosses_the_warning_is_answered_and_then_the_connection_ends(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, await RawClient.dial(mesh.router.client_address) as client:
        mesh.router.node.stop()
        assert (await client.next_of(GOAWAY)).payload[:4] == ANY_STREAM
        ping = await client.next_of(PING)
        await client.send(head(1, ASK, end=False) + content(1, completion_body("hello"), end=True))
        await client.send(frame(PING, ACK, 0, ping.payload))
        rest = await client.rest()
        body = b"".join(each.payload for each in rest if each.kind == DATA)
        assert unary_text(body) == expected_text("hello", 4)
        assert [each.payload[:4] for each in rest if each.kind == GOAWAY] == [b"\x00\x00\x00\x01"]
        assert any(each.flags & END_STREAM for each in rest if each.kind == DATA)


async def test_a_client_that_does_not_answer_the_warning_holds_a_node_up_for_a_moment_only(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, await RawClient.dial(mesh.router.client_address) as client:
        mesh.router.node.stop()
        await client.next_of(GOAWAY)
        await wait_until(lambda: not mesh.router.running, "it has stopped")


async def test_a_watcher_of_its_health_hears_that_it_serves_no_longer(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, await RawClient.dial(mesh.router.client_address) as client:
        await client.send(head(1, WATCH, end=False) + content(1, EVERYTHING, end=True))
        await client.next_of(DATA)
        mesh.router.node.stop()
        assert (await client.next_of(DATA)).payload == NOT_SERVING
        await wait_until(lambda: not mesh.router.running, "a watcher does not hold it up")
