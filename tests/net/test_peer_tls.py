"""Who is admitted as the peer of a pool, what is kept for the next handshake, and until when."""

from __future__ import annotations

import math

import pytest
import trio

from infermesh.core.model.names import NodeId
from infermesh.core.trust import RefusalReason
from infermesh.net.peer_tls import PeerTls
from infermesh.net.tls import HTTP1_ALPN, HTTP2_ALPN, PeerRefused, TlsEpoch
from infermesh.net.tls_session import TlsSession
from infermesh.testing.certificates import TrustDomain

GPU = NodeId("gpu-a")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"))


def _shaken(secure: PeerTls, server: TlsEpoch) -> TlsSession:
    """Our side of a finished handshake with `server`, and its ticket; nobody is admitted yet."""
    ours, theirs = TlsSession(secure.wrap), TlsSession(server.accept)
    data = ours.handshake()
    while not theirs.ready:
        data = ours.handshake(theirs.handshake(data))
    assert ours.ready
    ours.decrypt(theirs.owed() + theirs.encrypt(b"hello"))
    return ours


class _Towards:
    """A router's side towards gpu-a, with a clock of our own."""

    def __init__(self, domain: TrustDomain, *, alpn: str = HTTP1_ALPN, node: NodeId = GPU) -> None:
        self.epochs = [domain.epoch("router")]
        self.now_unix = domain.now_unix
        self.failed: list[tuple[NodeId, str]] = []
        self.tls = PeerTls(
            node,
            lambda: self.epochs[-1],
            lambda peer, why: self.failed.append((peer, why)),
            alpn=alpn,
            unix_time=lambda: self.now_unix,
        )


@pytest.mark.parametrize("alpn", [HTTP1_ALPN, HTTP2_ALPN])
async def test_the_node_that_was_dialled_is_admitted_until_its_certificate_ends(domain: TrustDomain, alpn: str) -> None:
    here = _Towards(domain, alpn=alpn)
    session = _shaken(here.tls, domain.epoch("gpu-a"))
    assert session.object.selected_alpn_protocol() == alpn
    here.now_unix = domain.identity("gpu-a").not_after - 100.0
    here.tls.admit(session)
    assert session.retire_at - trio.current_time() == pytest.approx(100.0, abs=0.5)


async def test_another_node_of_the_domain_is_refused(domain: TrustDomain) -> None:
    here = _Towards(domain)
    session = _shaken(here.tls, domain.epoch("gpu-b"))
    with pytest.raises(PeerRefused) as caught:
        here.tls.admit(session)
    assert caught.value.reason is RefusalReason.NODE
    assert session.retire_at == math.inf


async def test_a_session_is_taken_up_again_until_its_certificate_has_ended(domain: TrustDomain) -> None:
    here, server = _Towards(domain), domain.epoch("gpu-a")
    first = _shaken(here.tls, server)
    here.tls.admit(first)
    here.tls.remember(first)
    second = _shaken(here.tls, server)
    assert second.object.session_reused
    here.tls.admit(second)
    here.now_unix = domain.identity("gpu-a").not_after + 1.0
    with pytest.raises(PeerRefused) as caught:
        here.tls.admit(second)
    assert caught.value.reason is RefusalReason.EXPIRED
    assert not _shaken(here.tls, server).object.session_reused  # Whoever was refused is asked for everything again.


async def test_a_renewed_identity_is_used_by_the_next_handshake(domain: TrustDomain) -> None:
    here, server = _Towards(domain), domain.epoch("gpu-a")
    first = _shaken(here.tls, server)
    here.tls.admit(first)
    here.epochs.append(domain.epoch("router"))
    here.tls.remember(first)  # Of the epoch before: not kept in the new one.
    second = _shaken(here.tls, server)
    assert not second.object.session_reused
    assert second.object.context is here.epochs[-1].client


async def test_a_handshake_that_failed_is_told_with_the_node_it_was_for(domain: TrustDomain) -> None:
    here = _Towards(domain)
    here.tls.failed("certificate verify failed")
    assert here.failed == [(GPU, "certificate verify failed")]
