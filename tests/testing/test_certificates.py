from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from infermesh.core.model.names import NodeId
from infermesh.testing.bad_certificates import BadCertificate
from infermesh.testing.certificates import TrustDomain, careless_context


def test_good_nodes_are_made_once_and_found_again(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    assert domain.node("gpu-a") == domain.node("gpu-a")
    assert domain.node("gpu-a").der == domain.node("gpu-a").der
    assert domain.identity("gpu-a").node == NodeId("gpu-a")


def test_it_lives_at_the_present_unless_told_otherwise(tmp_path: Path) -> None:
    assert abs(TrustDomain(tmp_path / "a").identity().not_after - time.time() - 86_400) < 60
    assert TrustDomain(tmp_path / "b", now_unix=1e9).identity().not_after == 1e9 + 86_400


def test_the_other_ca_has_the_same_name_and_another_key(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    assert domain.other is domain.other
    assert domain.other.domain == domain.domain
    assert domain.other.authority.certificate.public_key() != domain.authority.certificate.public_key()


@pytest.mark.parametrize("kind", BadCertificate)
def test_a_careless_peer_can_hold_every_bad_certificate(tmp_path: Path, kind: BadCertificate) -> None:
    files = TrustDomain(tmp_path).bad(kind)
    for server_side in (True, False):
        context = careless_context(files, server_side=server_side)
        assert context.verify_mode != ssl.CERT_REQUIRED


def test_bad_certificates_of_several_nodes_do_not_share_files(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    one, two = (domain.bad(BadCertificate.EXPIRED, node) for node in ("gpu-a", "gpu-b"))
    assert one.folder != two.folder
