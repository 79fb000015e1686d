from __future__ import annotations

import itertools
import math
import ssl

import pytest
import trio
import trustme
from trio.testing import MockClock

from infermesh.net.fetch import (
    FetchError,
    FetchRefusedError,
    FetchTimeoutError,
    HttpClient,
    fetch,
)
from infermesh.testing.http_peer import HttpPeer, PeerAnswer, PeerRequest, PeerResponse, serve_http_peer


async def _echo(request: PeerRequest, response: PeerResponse) -> None:
    await response.send(request.body or request.target.encode(), headers=[(b"X-Seen", request.method.encode())])


async def _started(nursery: trio.Nursery, answer: PeerAnswer, tls: ssl.SSLContext | None = None) -> HttpPeer:
    peer: HttpPeer = await nursery.start(lambda task_status: serve_http_peer(answer, tls=tls, task_status=task_status))
    return peer


async def test_a_get_brings_status_headers_and_body(nursery: trio.Nursery) -> None:
    peer = await _started(nursery, _echo)
    response = await fetch(f"{peer.base_url}/metrics?a=b", deadline_s=5.0, body_bytes_max=1000)
    assert (response.status, response.body) == (200, b"/metrics?a=b")
    assert response.header(b"x-seen") == b"GET"
    assert response.header(b"x-missing") is None


async def test_a_post_carries_its_body_and_its_headers(nursery: trio.Nursery) -> None:
    peer = await _started(nursery, _echo)
    response = await fetch(
        peer.base_url, method="POST", headers=[(b"x-a", b"1")], body=b"hello", deadline_s=5.0, body_bytes_max=5
    )
    assert response.body == b"hello"
    assert (b"x-a", b"1") in peer.requests[0].headers
    assert (b"content-length", b"5") in peer.requests[0].headers


async def test_an_answer_of_the_largest_allowed_size_is_taken_and_one_byte_more_is_not(
    nursery: trio.Nursery,
) -> None:
    async def in_chunks(request: PeerRequest, response: PeerResponse) -> None:
        await response.start(200, [])  # No length: h11 uses chunks, so that only counting can find the excess.
        await response.write(b"x" * 600)
        await response.write(b"x" * 400)
        await response.finish()

    async def announced(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(b"x" * 1000)

    for answer in (in_chunks, announced):
        peer = await _started(nursery, answer)
        response = await fetch(peer.base_url, deadline_s=5.0, body_bytes_max=1000)
        assert len(response.body) == 1000
        with pytest.raises(FetchError, match="limit"):
            await fetch(peer.base_url, deadline_s=5.0, body_bytes_max=999)


async def test_a_port_where_nobody_listens_is_told_apart_from_other_failures() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(FetchRefusedError, match=f"GET http://127.0.0.1:{port}/x: .*refused"):
        await fetch(f"http://127.0.0.1:{port}/x", deadline_s=5.0, body_bytes_max=10)


async def _reset(request: PeerRequest, response: PeerResponse) -> None:
    await response.abort()


async def _garbage(request: PeerRequest, response: PeerResponse) -> None:
    await response.send_raw(b"220 mail.example ESMTP\r\n\r\n")
    await response.abort()


async def _cut(request: PeerRequest, response: PeerResponse) -> None:
    await response.send_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await response.abort()


async def _compressed(request: PeerRequest, response: PeerResponse) -> None:
    await response.send(b"\x1f\x8b", headers=[(b"content-encoding", b"gzip")])


async def _endless_head(request: PeerRequest, response: PeerResponse) -> None:
    await response.send_raw(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000)
    await response.abort()


async def _endless_interim(request: PeerRequest, response: PeerResponse) -> None:
    await response.send_raw(b"HTTP/1.1 102 Processing\r\n\r\n" * 17)
    await response.abort()


@pytest.mark.parametrize("answer", [_reset, _garbage, _cut, _compressed, _endless_head, _endless_interim])
async def test_a_broken_answer_is_one_plain_error_that_names_the_server(
    nursery: trio.Nursery, answer: PeerAnswer
) -> None:
    peer = await _started(nursery, answer)
    with pytest.raises(FetchError) as caught:
        await fetch(f"{peer.base_url}/a?secret=b", deadline_s=5.0, body_bytes_max=1000)
    assert type(caught.value) is FetchError
    assert str(caught.value).startswith(f"GET {peer.base_url}/a: ")
    assert "secret" not in str(caught.value)


async def test_an_interim_answer_is_passed_over(nursery: trio.Nursery) -> None:
    async def early(request: PeerRequest, response: PeerResponse) -> None:
        await response.send_raw(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await response.send(b"late")

    peer = await _started(nursery, early)
    assert (await fetch(peer.base_url, deadline_s=5.0, body_bytes_max=10)).body == b"late"


async def test_a_silent_server_costs_exactly_the_deadline_and_leaves_nothing_open(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # Real sockets: let the kernel deliver before time jumps.
    peer = await _started(nursery, _silence)
    began = trio.current_time()
    with pytest.raises(FetchTimeoutError, match="no complete answer within 2 s"):
        await fetch(peer.base_url, deadline_s=2.0, body_bytes_max=10)
    assert math.isclose(trio.current_time() - began, 2.0, abs_tol=0.01)


async def _silence(request: PeerRequest, response: PeerResponse) -> None:
    await trio.sleep_forever()


async def test_a_client_keeps_its_connection_between_requests(nursery: trio.Nursery) -> None:
    peer = await _started(nursery, _echo)
    client = HttpClient(f"{peer.base_url}/prefix/")
    for number in range(3):
        response = await client.request(f"/{number}", deadline_s=5.0, body_bytes_max=100)
        assert response.body == b"/prefix/%d" % number
    assert peer.connections == 1
    await client.aclose()


async def test_a_kept_connection_that_died_is_replaced_once_and_silently(nursery: trio.Nursery) -> None:
    async def only_once(request: PeerRequest, response: PeerResponse) -> None:
        if len(peer.requests) == 2:
            await response.abort()
        else:
            await response.send(b"ok")

    peer = await _started(nursery, only_once)
    client = HttpClient(peer.base_url)
    for _ in range(2):
        assert (await client.request("/", deadline_s=5.0, body_bytes_max=10)).body == b"ok"
    assert peer.connections == 2
    await client.aclose()


async def test_a_post_is_never_sent_twice(nursery: trio.Nursery) -> None:
    async def second_dies(request: PeerRequest, response: PeerResponse) -> None:
        if len(peer.requests) == 2:
            await response.abort()
        else:
            await response.send(b"ok")

    peer = await _started(nursery, second_dies)
    client = HttpClient(peer.base_url)
    await client.request("/", method="POST", deadline_s=5.0, body_bytes_max=10)
    with pytest.raises(FetchError):
        await client.request("/", method="POST", deadline_s=5.0, body_bytes_max=10)
    assert len(peer.requests) == 2
    await client.aclose()


async def test_a_server_that_closes_after_each_answer_is_dialled_again(nursery: trio.Nursery) -> None:
    async def once(request: PeerRequest, response: PeerResponse) -> None:
        await response.send(b"ok", headers=[(b"connection", b"close")])

    peer = await _started(nursery, once)
    client = HttpClient(peer.base_url)
    for _ in range(2):
        await client.request("/", deadline_s=5.0, body_bytes_max=10)
    assert peer.connections == 2
    await client.aclose()


async def test_requests_that_overlap_wait_for_each_other(nursery: trio.Nursery) -> None:
    peer = await _started(nursery, _echo)
    client = HttpClient(peer.base_url)
    async with trio.open_nursery() as inner:
        for _ in range(5):
            inner.start_soon(lambda: client.request("/", deadline_s=5.0, body_bytes_max=10))
    assert (peer.connections, len(peer.requests)) == (1, 5)
    await client.aclose()


async def test_a_request_cancelled_in_the_middle_closes_its_connection(nursery: trio.Nursery) -> None:
    asked = trio.Event()
    cut_off = trio.Event()

    async def slow(request: PeerRequest, response: PeerResponse) -> None:
        if request.target == "/quick":
            await response.send(b"ok")
            return
        await response.start(200, [])
        await response.write(b"first")
        asked.set()
        try:
            while True:
                await response.write(b"more")
                await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError:
            cut_off.set()
            raise

    peer = await _started(nursery, slow)
    client = HttpClient(peer.base_url)
    with trio.CancelScope() as scope:
        nursery.start_soon(_cancel_when, asked, scope)
        await client.request("/slow", deadline_s=5.0, body_bytes_max=10**9)
    assert scope.cancelled_caught
    with trio.fail_after(5):
        await cut_off.wait()
    # The next request does not meet what is left of the one before.
    assert (await client.request("/quick", deadline_s=5.0, body_bytes_max=10)).body == b"ok"
    await client.aclose()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:80", "must begin with http"),
        ("ftp://a/", "must begin with http"),
        ("http://", "no usable host"),
        ("http://a:99999/", "not a URL"),
        ("http://a:b/", "not a URL"),
        ("http://user:secret@a/", "password"),
        ("http://[::1/", "not a URL"),
    ],
)
async def test_a_bad_url_says_what_is_wrong_with_it(url: str, why: str) -> None:
    with pytest.raises(FetchError, match=why) as caught:
        await fetch(url, deadline_s=1.0, body_bytes_max=1)
    assert "secret" not in str(caught.value)


def _authority() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_an_exchange_over_tls(nursery: trio.Nursery) -> None:
    server, client = _authority()
    peer = await _started(nursery, _echo, server)
    answer = await fetch(peer.base_url, deadline_s=5.0, body_bytes_max=10, tls=client)
    assert answer.body == b"/"


async def test_a_certificate_of_another_authority_is_an_error_that_says_so(nursery: trio.Nursery) -> None:
    server, _ = _authority()
    _, stranger = _authority()
    peer = await _started(nursery, _echo, server)
    with pytest.raises(FetchError, match="certificate verify failed"):
        await fetch(peer.base_url, deadline_s=5.0, body_bytes_max=10, tls=stranger)


async def test_cancelled_at_any_step_an_exchange_leaves_no_connection(nursery: trio.Nursery) -> None:
    server, client = _authority()
    peer = await _started(nursery, _echo, server)
    for steps in itertools.count():
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_after, steps, scope)
            await fetch(peer.base_url, deadline_s=5.0, body_bytes_max=10, tls=client)
        if not scope.cancelled_caught:
            break
    assert steps > 5
    with trio.fail_after(5):
        await peer.wait_nobody()


async def _cancel_after(steps: int, scope: trio.CancelScope) -> None:
    for _ in range(steps):
        await trio.lowlevel.checkpoint()
    scope.cancel()
