"""Each way in which a node's identity can be wrong: refused at the start, with what was seen and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from infermesh.core.model.names import NodeId
from infermesh.core.trust import IdentityError
from infermesh.node.identity import Identity, load_identity, utc
from infermesh.testing.bad_certificates import DAY_S, SHAPES, BadCertificate
from infermesh.testing.certificates import NodeFiles, TrustDomain

NOW = 1_700_000_000.0
GPU_A = NodeId("gpu-a")


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path, now_unix=NOW)


def _refusal(files: NodeFiles, node: NodeId = GPU_A, now: float = NOW) -> str:
    with pytest.raises(IdentityError) as refused:
        load_identity(files, node, now)
    text = str(refused.value)
    # What every refusal owes to the one who reads it: a command or a setting, in one paragraph.
    assert "mesh " in text or "chmod" in text or "[trust]" in text or "[node]" in text or "clock" in text
    assert text.isprintable()
    assert "PRIVATE" not in text
    return text


def test_a_good_identity_is_loaded_with_its_facts(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    assert load_identity(files, GPU_A, NOW) == Identity(
        node=GPU_A,
        trust_domain="test.mesh",
        spiffe_id="spiffe://test.mesh/node/gpu-a",
        certificate_file=str(files.certificate_file),
        key_file=str(files.key_file),
        ca_file=str(files.ca_file),
        not_before=NOW - 60.0,
        not_after=NOW + DAY_S,
    )


@pytest.mark.parametrize("name", ["ca.pem", "node.pem", "node.key"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(domain: TrustDomain, name: str) -> None:
    files = domain.node("gpu-a")
    (files.folder / name).unlink()
    text = _refusal(files)
    assert f"{files.folder / name} does not exist" in text
    assert "mesh ca renew --dir DIR --node gpu-a" in text
    assert "mesh init --dir DIR --node gpu-a" in text


@pytest.mark.parametrize("name", ["ca.pem", "node.pem", "node.key"])
def test_a_file_of_rubbish_is_named(domain: TrustDomain, name: str) -> None:
    files = domain.node("gpu-a")
    (files.folder / name).write_bytes(b"rubbish")
    assert f"{files.folder / name} is not a PEM " in _refusal(files)


def test_a_key_that_others_may_read_is_refused(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    files.key_file.chmod(0o644)
    assert f"mode 0644, allowed 0600): run `chmod 600 {files.key_file}`" in _refusal(files)


def test_an_expired_certificate_says_when_it_ended_and_how_to_renew(domain: TrustDomain) -> None:
    text = _refusal(domain.node("gpu-a"), now=NOW + 3 * DAY_S)
    assert f"ended {utc(NOW + DAY_S)}, 2.0 days ago" in text
    assert "mesh ca renew --dir DIR --node gpu-a" in text


def test_a_certificate_of_the_future_sends_the_operator_to_the_clock(domain: TrustDomain) -> None:
    text = _refusal(domain.bad(BadCertificate.NOT_YET_VALID))
    assert f"begins {utc(NOW + 3600)}, in 60.0 min" in text
    assert f"Check this machine's clock (it says {utc(NOW)})" in text


def test_a_node_whose_clock_is_behind_the_whole_domain_is_sent_to_its_clock(domain: TrustDomain) -> None:
    assert "Check this machine's clock" in _refusal(domain.node("gpu-a"), now=NOW - DAY_S)


def test_the_files_of_another_node_are_refused_with_both_names(domain: TrustDomain) -> None:
    text = _refusal(domain.node("gpu-b"))
    assert "is for node 'gpu-b' (spiffe://test.mesh/node/gpu-b), the config says 'gpu-a'" in text
    assert "[node] id" in text


def test_another_trust_domain_in_the_config_is_refused_with_both_names(domain: TrustDomain) -> None:
    files = msgspec.structs.replace(domain.node("gpu-a"), domain="prod.mesh")
    text = _refusal(files)
    assert "is of trust domain 'test.mesh', the config says 'prod.mesh'" in text
    assert "[trust] domain" in text


def test_a_certificate_of_another_trust_domain_is_refused_with_both_names(domain: TrustDomain) -> None:
    text = _refusal(domain.bad(BadCertificate.OTHER_TRUST_DOMAIN))
    assert "is of trust domain 'other.mesh', ours is 'test.mesh'" in text


def test_a_certificate_of_another_ca_names_issuer_and_ca(domain: TrustDomain) -> None:
    text = _refusal(domain.bad(BadCertificate.OTHER_CA))
    assert "is not signed by the CA in" in text
    assert text.count("CN=infermesh CA ") == 2


def test_a_ca_file_that_was_replaced_is_seen(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    files.ca_file.write_bytes(domain.other.ca_file.read_bytes())
    assert "is not signed by the CA in" in _refusal(files)


def test_a_key_of_another_certificate_is_seen(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    files.key_file.write_bytes(domain.node("gpu-b").key_file.read_bytes())
    text = _refusal(files)
    assert f"key {files.key_file} does not belong to certificate {files.certificate_file}" in text


def test_a_node_certificate_in_the_place_of_the_ca_is_seen(domain: TrustDomain) -> None:
    files = domain.node("gpu-a")
    files.ca_file.write_bytes(files.certificate_file.read_bytes())
    text = _refusal(files)
    assert f"CA file {files.ca_file}: is not a CA" in text
    assert "Put the ca.pem that `mesh init` wrote there" in text


def test_an_expired_ca_says_that_the_whole_domain_has_ended(domain: TrustDomain) -> None:
    text = _refusal(domain.node("gpu-a"), now=NOW + 4000 * DAY_S)
    assert "The whole trust domain has ended" in text
    assert "mesh init --force" in text


def test_two_cas_in_the_file_serve_nodes_of_both(domain: TrustDomain) -> None:
    """The middle of a rotation of CAs."""
    bundle = domain.ca_file.read_bytes() + domain.other.ca_file.read_bytes()
    for each in (domain, domain.other):
        files = each.node("gpu-a")
        files.ca_file.write_bytes(bundle)
        assert load_identity(files, GPU_A, NOW).node == GPU_A


@pytest.mark.parametrize("kind", BadCertificate)
def test_no_bad_certificate_starts_a_node(domain: TrustDomain, kind: BadCertificate) -> None:
    _refusal(domain.bad(kind))


def test_further_faults_are_counted_and_the_command_that_lists_them_is_named(domain: TrustDomain) -> None:
    shape = msgspec.structs.replace(SHAPES[BadCertificate.NO_SAN], purposes=None, key_usage=None)
    files = domain.shaped(shape)
    assert f"(2 more: see `mesh ca show {files.certificate_file}`)" in _refusal(files)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x"])
def test_a_bad_node_id_in_the_config_is_refused_before_any_file_is_read(domain: TrustDomain, name: str) -> None:
    assert "set [node] id" in _refusal(domain.node("gpu-a"), node=NodeId(name))


def test_a_bad_trust_domain_in_the_config_is_refused(domain: TrustDomain) -> None:
    files = msgspec.structs.replace(domain.node("gpu-a"), domain="Test.Mesh")
    assert "set [trust] domain" in _refusal(files)


BREAK: dict[str, Callable[[NodeFiles], object]] = {
    "certificate": lambda files: files.certificate_file.unlink(),
    "key": lambda files: files.key_file.chmod(0o666),
}


@pytest.mark.parametrize("what", BREAK)
def test_the_text_of_a_refusal_names_the_node(domain: TrustDomain, what: str) -> None:
    files = domain.node("gpu-a")
    BREAK[what](files)
    assert re.match(r"node gpu-a: ", _refusal(files))
