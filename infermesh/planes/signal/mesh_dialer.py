"""How a router reaches one peer's state: mutual TLS to its mesh port, identity checked before a byte is sent.

One long connection carries the stream, a second, kept one the pings that measure the round trip. A connection
never outlives the certificate that it was admitted with.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import trio

from infermesh.core.model.nodes import NodeRecord
from infermesh.core.trust import PeerIdentity
from infermesh.net.fetch import FetchError, HttpClient, ResponseStream, open_stream
from infermesh.net.tls import Handshaken, TlsEpoch, admit_peer
from infermesh.planes.signal.publisher import PING_PATH, STREAM_CONTENT_TYPE, SUBSCRIBE_PATH

_PING_BYTES_MAX: Final = 4_096


class SubscriptionRefusedError(FetchError):
    """The peer is there and answered, but not with a state stream."""


class DialTiming(msgspec.Struct, frozen=True, kw_only=True):
    dial_deadline_s: float = 2.0  # Connect, handshake and head together; `upstream.connect_timeout_s`.
    stall_s: float = 10.0  # The longest wait for a piece; liveness gives up much earlier.
    ping_deadline_s: float = 1.0


class MeshDialer:
    """Dials one peer. `epoch` gives the TLS contexts of now, so that a renewed identity is used by the next dial."""

    def __init__(
        self,
        peer: NodeRecord,
        epoch: Callable[[], TlsEpoch],
        *,
        timing: DialTiming | None = None,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        assert peer.mesh_address is not None, "this very node is not dialled"
        self._peer = peer
        self._epoch = epoch
        self._timing = timing if timing is not None else DialTiming()
        self._unix_time = unix_time
        self._base_url = f"https://{peer.mesh_address}"
        self._pings: HttpClient | None = None
        self._pings_epoch: TlsEpoch | None = None

    @contextlib.asynccontextmanager
    async def subscribe(self) -> AsyncIterator[ResponseStream]:
        """The peer's state stream. Raises FetchError or PeerRefused while dialling."""
        epoch = self._epoch()
        admitted: list[PeerIdentity] = []
        async with open_stream(
            self._base_url + SUBSCRIBE_PATH,
            method="POST",
            head_deadline_s=self._timing.dial_deadline_s,
            stall_s=self._timing.stall_s,
            tls=epoch.client,
            check_peer=lambda tls: admitted.append(self._admit(tls, epoch)),
        ) as stream:
            if stream.status != 200 or (b"content-type", STREAM_CONTENT_TYPE) not in stream.headers:
                raise SubscriptionRefusedError(
                    f"POST {self._base_url}{SUBSCRIBE_PATH}: answered {stream.status}, a state stream was expected"
                )
            lifetime_s = admitted[0].not_after - self._unix_time()
            with trio.move_on_after(max(0.0, lifetime_s)) as lifetime:
                yield stream
            if lifetime.cancelled_caught:
                raise FetchError(f"{self._base_url}: the peer's certificate has expired under the connection")

    async def ping(self) -> float:
        """One round trip on the kept connection, in seconds. Raises FetchError or PeerRefused."""
        client = await self._ping_client()
        dialled = client.connections_made
        rtt_s = await self._round_trip(client)
        if client.connections_made != dialled:
            # That one paid for the handshake as well.
            rtt_s = await self._round_trip(client)
        return rtt_s

    async def aclose(self) -> None:
        if self._pings is not None:
            await self._pings.aclose()

    async def _round_trip(self, client: HttpClient) -> float:
        began = trio.current_time()
        # Whatever it answers has come all the way and back.
        await client.request(PING_PATH, deadline_s=self._timing.ping_deadline_s, body_bytes_max=_PING_BYTES_MAX)
        return trio.current_time() - began

    async def _ping_client(self) -> HttpClient:
        epoch = self._epoch()
        if self._pings is None or self._pings_epoch is not epoch:
            await self.aclose()
            self._pings_epoch = epoch
            self._pings = HttpClient(
                self._base_url, tls=epoch.client, check_peer=lambda tls: self._admit_silently(tls, epoch)
            )
        return self._pings

    def _admit(self, tls: Handshaken, epoch: TlsEpoch) -> PeerIdentity:
        return admit_peer(
            tls,
            trust_domain=epoch.identity.trust_domain,
            expected_node=self._peer.node,
            now_unix=self._unix_time(),
        )

    def _admit_silently(self, tls: Handshaken, epoch: TlsEpoch) -> None:
        self._admit(tls, epoch)
