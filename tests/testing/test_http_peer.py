from __future__ import annotations

import pytest
import trio

from infermesh.net.fetch import FetchError, HttpClient, fetch
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer


async def _answer(request: PeerRequest, response: PeerResponse) -> None:
    if request.target == "/raw":
        await response.send_raw(b"not http")
        await response.abort()
    elif request.target == "/stream":
        await response.start(200, [])
        for piece in (b"a", b"b"):
            await response.write(piece)
        await response.finish()
    else:
        await response.send(request.body, status=201, headers=[(b"x-method", request.method.encode())])


async def test_it_answers_whole_streamed_and_wrong_as_it_was_told(nursery: trio.Nursery) -> None:
    peer: HttpPeer = await nursery.start(serve_http_peer, _answer)
    whole = await fetch(f"{peer.base_url}/w", method="POST", body=b"hi", deadline_s=5.0, body_bytes_max=10)
    assert (whole.status, whole.body, whole.header(b"x-method")) == (201, b"hi", b"POST")
    assert (await fetch(f"{peer.base_url}/stream", deadline_s=5.0, body_bytes_max=10)).body == b"ab"
    with pytest.raises(FetchError):
        await fetch(f"{peer.base_url}/raw", deadline_s=5.0, body_bytes_max=10)
    assert [request.target for request in peer.requests] == ["/w", "/stream", "/raw"]


async def test_it_counts_connections_and_tells_when_the_last_one_is_gone(nursery: trio.Nursery) -> None:
    peer: HttpPeer = await nursery.start(serve_http_peer, _answer)
    await peer.wait_nobody()
    client = HttpClient(peer.base_url)
    for _ in range(2):
        await client.request("/", deadline_s=5.0, body_bytes_max=10)
    assert (peer.connections, peer.connections_open) == (1, 1)
    assert [request.connection for request in peer.requests] == [1, 1]
    await client.aclose()
    with trio.fail_after(5):
        await peer.wait_nobody()
    assert peer.connections_open == 0
