"""Who a peer is, from its certificate, and the one act that is authorised so far."""

from __future__ import annotations

import pytest

from infermesh.core.model.names import NodeId
from infermesh.core.trust import PeerIdentity, Refusal, RefusalReason, identify_peer, refuse_report
from infermesh.testing.bad_certificates import DAY_S, REASONS, BadCertificate
from infermesh.testing.certificates import TrustDomain

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"), now_unix=NOW)


def _identify(der: bytes | None, expected: str | None = "gpu-a", now: float = NOW) -> PeerIdentity | Refusal:
    node = None if expected is None else NodeId(expected)
    return identify_peer(der, trust_domain="test.mesh", expected_node=node, now_unix=now)


def test_a_good_node_is_who_its_certificate_says(domain: TrustDomain) -> None:
    expected = PeerIdentity(NodeId("gpu-a"), "test.mesh", NOW + DAY_S)
    assert _identify(domain.node("gpu-a").der) == expected
    assert _identify(domain.node("gpu-a").der, expected=None) == expected


@pytest.mark.parametrize("kind", [kind for kind, reason in REASONS.items() if reason is not None])
def test_a_bad_certificate_identifies_nobody(domain: TrustDomain, kind: BadCertificate) -> None:
    refusal = _identify(domain.bad(kind).der)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is REASONS[kind]
    assert refusal.detail.isprintable()


def test_no_certificate_identifies_nobody() -> None:
    for der in (None, b""):
        refusal = _identify(der)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is RefusalReason.NO_CERTIFICATE


def test_a_good_certificate_of_a_node_that_was_not_dialled_is_refused(domain: TrustDomain) -> None:
    refusal = _identify(domain.node("gpu-b").der, expected="gpu-a")
    assert refusal == Refusal(RefusalReason.NODE, "is node 'gpu-b', expected node 'gpu-a'")


def test_node_ids_differ_by_case(domain: TrustDomain) -> None:
    assert isinstance(_identify(domain.node("GPU-A").der, expected="gpu-a"), Refusal)


def test_another_trust_domain_is_named_beside_ours(domain: TrustDomain) -> None:
    refusal = _identify(domain.bad(BadCertificate.OTHER_TRUST_DOMAIN).der)
    assert refusal == Refusal(RefusalReason.TRUST_DOMAIN, "is of trust domain 'other.mesh', ours is 'test.mesh'")


def test_a_node_may_report_its_own_state_and_no_other() -> None:
    peer = PeerIdentity(NodeId("gpu-a"), "test.mesh")
    assert refuse_report(peer, NodeId("gpu-a")) is None
    for other in ("gpu-b", "GPU-A", "gpu-a ", ""):
        refusal = refuse_report(peer, NodeId(other))
        assert refusal is not None
        assert refusal.reason is RefusalReason.FORBIDDEN


def test_a_report_about_another_names_both_nodes() -> None:
    refusal = refuse_report(PeerIdentity(NodeId("gpu-a"), "test.mesh"), NodeId("b\n"))
    assert refusal is not None
    assert refusal.detail == "node 'gpu-a' reported state of node 'b\\n'; a node may report only its own"
