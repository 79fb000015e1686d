"""How a connection comes to HTTP/2 (RFC 9113 sections 3.1 to 3.3, RFC 7301; RFC 7540 section 3.2 for the upgrade).

Octet by octet where it matters: a client may send its first request in the segment that ends its TLS handshake.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.conformance.http2.frames import PREFACE, Code, Kind, Setting, ping, settings
from tests.conformance.http2.port import HOST, Port
from tests.conformance.http2.raw_peer import ANSWER_S, RawPeer

_any = pytest.mark.parametrize("port", ["client-h2c", "client-tls", "mesh-mtls"], indirect=True)
_plain = pytest.mark.parametrize("port", ["client-h2c"], indirect=True)
_client_tls = pytest.mark.parametrize("port", ["client-tls"], indirect=True)
_secure = pytest.mark.parametrize("port", ["client-tls", "mesh-mtls"], indirect=True)
_GET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"


class _LastFlight:
    """A TLS client in the moment before its handshake is complete for the server."""

    def __init__(
        self, raw: trio.SocketStream, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._raw = raw
        self._outgoing = outgoing
        self.incoming = incoming
        self.tls = tls

    async def send_with(self, data: bytes, *, goodbye: bool = False) -> None:
        """The end of the handshake and the first octets of HTTP, in one segment. `goodbye`: and that was all."""
        flight = self._outgoing.read()
        if data:
            self.tls.write(data)
        if goodbye:
            with pytest.raises(ssl.SSLWantReadError):
                self.tls.unwrap()
        await self._raw.send_all(flight + self._outgoing.read())

    async def read_some(self) -> bytes:
        """The server's next octets, still encrypted."""
        with trio.fail_after(ANSWER_S):
            return bytes(await self._raw.receive_some(65_536))


@asynccontextmanager
async def _before_the_last_flight(port: Port, alpn: list[str]) -> AsyncIterator[_LastFlight]:
    assert port.tls is not None
    port.tls.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = port.tls.wrap_bio(incoming, outgoing, server_hostname=HOST)
    async with await trio.open_tcp_stream(HOST, port.number) as raw:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await raw.send_all(outgoing.read())
                incoming.write(await raw.receive_some(65_536))
        yield _LastFlight(raw, tls, incoming, outgoing)


async def _still_serves(port: Port) -> None:
    async with port.peer() as peer:
        await peer.greet()
        await peer.send(peer.get(1))
        assert (await peer.response(1)).status == port.status


# --- TLS and ALPN ---

_FIRST_OCTETS = {
    "nothing": b"",
    "garbage": b"INVALID CONNECTION PREFACE\r\n\r\n",
    "a request of HTTP/1.1": _GET,
    "half a request of HTTP/1.1": _GET[:20],
    "half a preface": PREFACE[:10],
    "a preface": PREFACE,
    "a preface and garbage": PREFACE + b"\xff" * 100,
    "a preface and a wrong frame": PREFACE + settings() + b"\x00\x00\x01\x06\x00\x00\x00\x00\x00\x00",
}


@_secure
@pytest.mark.parametrize("goodbye", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("alpn", [["h2"], ["http/1.1"], []], ids=["h2", "http/1.1", "none"])
@pytest.mark.parametrize("first", _FIRST_OCTETS.values(), ids=_FIRST_OCTETS)
async def test_whatever_comes_with_the_end_of_the_handshake_hurts_that_connection_only(
    port: Port, first: bytes, alpn: list[str], goodbye: bool
) -> None:
    async with _before_the_last_flight(port, alpn) as flight:
        await flight.send_with(first, goodbye=goodbye)
        await _still_serves(port)
    await _still_serves(port)


@_secure
async def test_a_preface_with_the_end_of_the_handshake_is_understood(port: Port) -> None:
    async with _before_the_last_flight(port, ["h2"]) as flight:
        await flight.send_with(PREFACE + settings() + ping(b"at once!"))
        tls = flight.tls
        plain = b""
        while b"at once!" not in plain:
            flight.incoming.write(await flight.read_some())
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    plain += tls.read(65_536)


@_secure
async def test_what_was_negotiated_is_spoken(port: Port) -> None:
    """A client that chose HTTP/2 and speaks HTTP/1.1 gets no answer of that protocol."""
    stream = await port.dial()
    async with stream:
        await stream.send_all(_GET)
        peer = RawPeer(stream, scheme=b"https", authority=port.authority, path=port.path)
        await peer.connection_error(Code.PROTOCOL_ERROR)


@_secure
async def test_a_client_that_chose_http1_is_served_http1(port: Port) -> None:
    await _served_http1(port, ["http/1.1"])


@_client_tls
async def test_a_client_that_chose_nothing_is_served_http1(port: Port) -> None:
    await _served_http1(port, [])


async def _served_http1(port: Port, alpn: list[str]) -> None:
    stream = await port.dial(alpn)
    async with stream:
        await stream.send_all(_GET)
        with trio.fail_after(ANSWER_S):
            assert bytes(await stream.receive_some(65_536)).startswith(b"HTTP/1.1 ")


@_secure
async def test_a_preface_without_its_negotiation_is_refused(port: Port) -> None:
    stream = await port.dial(["http/1.1"])
    async with stream:
        await stream.send_all(PREFACE + settings())
        with trio.fail_after(ANSWER_S):
            assert bytes(await stream.receive_some(65_536)).startswith(b"HTTP/1.1 4")


# --- plain text: by prior knowledge, by the first octets ---


@_plain
@pytest.mark.parametrize(
    "opening", [b"INVALID CONNECTION PREFACE\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"SSH-2.0-x\r\n\r\n"]
)
async def test_what_begins_as_neither_protocol_gets_no_answer_in_either(port: Port, opening: bytes) -> None:
    async with port.peer() as peer:
        await peer.send(opening)
        if opening[0] != 0x16:  # The port takes that for TLS, which has an alert to say.
            assert await peer.bytes_end() == b""


@_plain
async def test_a_request_of_http1_is_answered_in_http1(port: Port) -> None:
    async with port.peer() as peer:
        await peer.send(_GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert (await peer.bytes_end()).startswith(b"HTTP/1.1 200 ")


@_plain
async def test_a_preface_is_no_preface_after_a_request(port: Port) -> None:
    async with port.peer() as peer:
        await peer.send(_GET + PREFACE + settings())
        answers = await peer.bytes_end()
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 505 " in answers


# --- the upgrade from HTTP/1.1 ---


def _upgrade(*pairs: tuple[int, int], path: bytes = b"/v1/models", extra: bytes = b"") -> bytes:
    payload = b"".join(struct.pack(">HI", *pair) for pair in pairs)
    value = base64.urlsafe_b64encode(payload).rstrip(b"=")
    return (
        b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: %b\r\n%b\r\n" % (path, value, extra)
    )


async def _upgraded(peer: RawPeer, request: bytes) -> None:
    await peer.send(request)
    assert (await peer.line_block()).startswith(b"HTTP/1.1 101 ")
    await peer.send(PREFACE, settings())


@_plain
async def test_an_upgrade_is_answered_on_stream_one(port: Port) -> None:
    async with port.peer() as peer:
        await _upgraded(peer, _upgrade())
        response = await peer.response(1)
        assert response.status == 200
        assert response.body
        await peer.send(peer.get(3))
        assert (await peer.response(3)).status == 200
        await peer.barrier()


@_plain
async def test_the_settings_of_an_upgrade_hold_for_its_answer(port: Port) -> None:
    async with port.peer() as peer:
        await peer.send(_upgrade((Setting.INITIAL_WINDOW_SIZE, 3)))
        await peer.line_block()
        await peer.send(PREFACE, settings((Setting.INITIAL_WINDOW_SIZE, 3)))
        (*_, first) = await peer.until(lambda each: each.kind == Kind.DATA)
        assert len(first.payload) == 3


@_plain
async def test_the_stream_of_an_upgrade_cannot_be_opened_again(port: Port) -> None:
    async with port.peer() as peer:
        await _upgraded(peer, _upgrade())
        await peer.response(1)
        await peer.send(peer.get(1))
        await peer.connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


@_plain
async def test_after_an_upgrade_the_preface_must_come(port: Port) -> None:
    async with port.peer() as peer:
        await peer.send(_upgrade())
        await peer.line_block()
        await peer.send(_GET)
        await peer.connection_error(Code.PROTOCOL_ERROR)


@_plain
async def test_a_pipelined_request_behind_an_upgrade_is_not_answered(port: Port) -> None:
    async with port.peer() as peer:
        await peer.send(_upgrade() + _GET)
        await peer.line_block()
        await peer.connection_error(Code.PROTOCOL_ERROR)


_NO_UPGRADES = {
    "no settings": b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\r\n",
    "settings twice": _upgrade(extra=b"http2-settings: \r\n"),
    "settings that are no base64": _upgrade().replace(b"http2-settings: ", b"http2-settings: !!!"),
    "settings cut short": _upgrade().replace(b"http2-settings: ", b"http2-settings: AAMAAABk"[:-2]),
    "not named by Connection": _upgrade().replace(b"Upgrade, HTTP2-Settings", b"Upgrade"),
    "another protocol": _upgrade().replace(b"upgrade: h2c", b"upgrade: h2"),
}


@_plain
@pytest.mark.parametrize("request_bytes", _NO_UPGRADES.values(), ids=_NO_UPGRADES)
async def test_an_upgrade_that_is_none_is_answered_in_http1(port: Port, request_bytes: bytes) -> None:
    async with port.peer() as peer:
        await peer.send(request_bytes)
        assert (await peer.line_block()).startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 4"))


_BAD_SETTINGS = {
    "a window of 2^31": (Setting.INITIAL_WINDOW_SIZE, 2**31),
    "frames of nothing": (Setting.MAX_FRAME_SIZE, 0),
    "a push of 2": (Setting.ENABLE_PUSH, 2),
}


@_plain
@pytest.mark.parametrize("pair", _BAD_SETTINGS.values(), ids=_BAD_SETTINGS)
async def test_bad_settings_in_an_upgrade_end_that_connection_only(port: Port, pair: tuple[int, int]) -> None:
    async with port.peer() as peer:
        await peer.send(_upgrade(pair))
        said = await peer.line_block()
        if said.startswith(b"HTTP/1.1 101 "):
            await peer.send(PREFACE, settings())
            await peer.connection_error(Code.PROTOCOL_ERROR, Code.FLOW_CONTROL_ERROR)
    await _still_serves(port)


@_any
async def test_an_upgrade_within_http2_is_malformed(port: Port) -> None:
    async with port.peer() as peer:
        await peer.greet()
        await peer.send(peer.get(1, (b"upgrade", b"h2c")))
        await peer.stream_error(1, Code.PROTOCOL_ERROR)
