"""Attacks that are slow: connections and streams that are begun and never brought to their end.

Each coroutine plays one against a port and returns when the server has put an end to it, in the way that it asserts.
Who waits longer than `WITHIN_S` for that end fails. They hold nothing but their own connection, so that all of them,
and many of each, can run at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from tests.conformance.http2.frames import (
    PREFACE,
    WINDOW_MAX,
    Code,
    Kind,
    Setting,
    continuation,
    data,
    frame,
    headers,
    ping,
    settings,
    settings_ack,
    window_update,
)
from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import RawPeer

WITHIN_S: Final = 50.0
_DRIP_S: Final = 0.5
_HELD: Final = 50
_HTTP1_HEAD: Final = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-slow: " + b"s" * 500


@dataclass(frozen=True, slots=True)
class Stall:
    play: Callable[[Port], Awaitable[None]]
    reason: str = ""
    """What is counted, `times` for each; empty: nothing, for nothing is wrong with it."""
    plain_reason: str | None = None
    """Where the port has to find out first which protocol it is; None: the same."""
    times: int = 1
    plain_only: bool = False
    clients_only: bool = False  # Between nodes a stream may stand still for ten minutes: the slow client is a router's.

    def __str__(self) -> str:
        return self.play.__name__.replace("_", " ")

    def reason_on(self, port: Port) -> str:
        return self.reason if port.tls is not None or self.plain_reason is None else self.plain_reason


def _octets(text: bytes) -> Iterator[bytes]:
    return (bytes([octet]) for octet in text)


# --- before the first request ---


async def says_nothing(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.bytes_end()


async def begins_a_preface(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.send(PREFACE[:12])
        await peer.bytes_end()


async def sends_no_settings(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.send(PREFACE)
        await peer.connection_error(Code.PROTOCOL_ERROR)


async def acknowledges_no_settings(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.send(PREFACE, settings())
        await peer.drip((peer.get(number) for number in itertools.count(1, 2)), every_s=_DRIP_S)
        await peer.connection_error(Code.SETTINGS_TIMEOUT)


async def is_idle(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.connection_error(Code.NO_ERROR)


async def is_idle_after_a_request(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.send(peer.get(1))
        await peer.connection_error(Code.NO_ERROR)


# --- frames and field blocks that are not whole ---


async def sends_half_a_frame_head(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.send(ping(b"12345678")[:5])
        await peer.connection_error(Code.ENHANCE_YOUR_CALM)


async def sends_headers_in_drips(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.drip(_octets(peer.get(1, (b"x-slow", b"s" * 500))), every_s=_DRIP_S)
        await peer.connection_error(Code.ENHANCE_YOUR_CALM)


async def ends_no_field_block(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.send(headers(1, peer.block(peer.fields()), end=True, whole=False))
        await peer.connection_error(Code.ENHANCE_YOUR_CALM)


async def continues_a_field_block_in_drips(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.send(headers(1, peer.block(peer.fields()), end=True, whole=False))
        await peer.drip(itertools.repeat(continuation(1, b"", whole=False)), every_s=_DRIP_S)
        await peer.connection_error(Code.ENHANCE_YOUR_CALM)


async def sends_an_unknown_frame_in_drips(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.drip(_octets(frame(0xF0, 0, 0, bytes(500))), every_s=_DRIP_S)
        await peer.connection_error(Code.ENHANCE_YOUR_CALM)


# --- bodies ---


async def sends_no_body(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.send(peer.post(1, (b"content-length", b"1000")))
        assert (await peer.response(1)).status == 408


async def sends_a_body_in_drips(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet()
        await peer.send(peer.post(1, (b"content-length", b"1000")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drip_data, peer)
            assert (await peer.response(1)).status == 408
            nursery.cancel_scope.cancel()


async def _drip_data(peer: RawPeer) -> None:
    while True:
        await peer.send(data(1, b"x"))
        await trio.sleep(_DRIP_S)


# --- answers that are not taken ---


async def opens_no_window(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet((Setting.INITIAL_WINDOW_SIZE, 0))
        await peer.send(*(peer.get(2 * number + 1) for number in range(_HELD)))
        for _ in range(_HELD):
            (*_, each) = await peer.until(lambda each: each.kind == Kind.RST_STREAM)
            assert each.code == Code.ENHANCE_YOUR_CALM


async def opens_its_window_in_drips(port: Port) -> None:
    """One octet now and then: less than is progress."""
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.greet((Setting.INITIAL_WINDOW_SIZE, 0))
        await peer.send(peer.get(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drip_window, peer)
            (*_, reset) = await peer.until(lambda each: each.kind == Kind.RST_STREAM)
            assert reset.code == Code.ENHANCE_YOUR_CALM
            nursery.cancel_scope.cancel()


async def _drip_window(peer: RawPeer) -> None:
    while True:
        await peer.send(window_update(1, 1))
        await trio.sleep(_DRIP_S)


async def reads_nothing(port: Port) -> None:
    """All windows are open, and nothing is read from the socket: more is asked for until nobody listens."""
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.send(PREFACE, settings((Setting.INITIAL_WINDOW_SIZE, WINDOW_MAX)), settings_ack())
        await peer.send(window_update(0, WINDOW_MAX - 65_535))
        with trio.fail_after(WITHIN_S):
            await peer.send_unread(peer.get(number) for number in range(1, WINDOW_MAX, 2))


# --- HTTP/1.1 on the same port ---


async def sends_a_head_of_http1_in_drips(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.drip(_octets(_HTTP1_HEAD), every_s=_DRIP_S)
        assert b"408" in await peer.bytes_end()


async def upgrades_and_says_nothing(port: Port) -> None:
    async with port.peer(patience_s=WITHIN_S) as peer:
        await peer.send(
            b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n"
            b"upgrade: h2c\r\nhttp2-settings: \r\n\r\n"
        )
        assert b" 101 " in await peer.line_block()
        await peer.connection_error(Code.PROTOCOL_ERROR)


STALLS: Final = (
    Stall(says_nothing, "preface_timeout", ""),
    Stall(begins_a_preface, "preface_timeout", "head_timed_out"),
    Stall(sends_no_settings, "preface_timeout"),
    Stall(acknowledges_no_settings, "settings_timeout"),
    Stall(is_idle),
    Stall(is_idle_after_a_request),
    Stall(sends_half_a_frame_head, "header_block_timeout"),
    Stall(sends_headers_in_drips, "header_block_timeout"),
    Stall(ends_no_field_block, "header_block_timeout"),
    Stall(continues_a_field_block_in_drips, "header_block_timeout"),
    Stall(sends_an_unknown_frame_in_drips, "header_block_timeout"),
    Stall(sends_no_body, "body_timed_out"),
    Stall(sends_a_body_in_drips, "body_timed_out"),
    Stall(opens_no_window, "stream_error", times=_HELD, clients_only=True),
    Stall(opens_its_window_in_drips, "stream_error", clients_only=True),
    Stall(sends_a_head_of_http1_in_drips, "head_timed_out", plain_only=True),
    Stall(upgrades_and_says_nothing, "preface_timeout", plain_only=True),
)
