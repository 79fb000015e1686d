"""The certificate authority: what it writes, what it never overwrites, and what others say of its certificates."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infermesh.core.model.names import NodeId
from infermesh.node.authority import CA_LIFE_S, DAY_S, Authority, AuthorityError
from infermesh.node.pem import locked_folder, read_certificates, read_key, write_file
from infermesh.testing.bad_certificates import SHAPES, BadCertificate
from infermesh.testing.certificates import TrustDomain

NOW = 1_700_000_000.0
GPU_A = NodeId("gpu-a")


def _create(folder: Path, *, now: float = NOW, force: bool = False) -> Authority:
    return Authority.create(folder, "test.mesh", now_unix=now, force=force)


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _leaf(folder: Path, node: str = "gpu-a") -> x509.Certificate:
    return read_certificates(folder / node / "node.pem", "certificate")[0]


def test_a_new_authority_lies_in_files_that_only_the_owner_may_use(tmp_path: Path) -> None:
    folder = tmp_path / "mesh"
    _create(folder).issue(GPU_A, now_unix=NOW)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))}
    assert modes == {
        "mesh": 0o700,
        "mesh/.lock": 0o600,
        "mesh/ca.key": 0o600,
        "mesh/ca.pem": 0o644,
        "mesh/gpu-a": 0o700,
        "mesh/gpu-a/ca.pem": 0o644,
        "mesh/gpu-a/node.key": 0o600,
        "mesh/gpu-a/node.pem": 0o644,
    }


def test_the_ca_signs_nodes_only(tmp_path: Path) -> None:
    certificate = _create(tmp_path).certificate
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_a_node_certificate_is_an_svid_of_24_hours(tmp_path: Path) -> None:
    issued = _create(tmp_path).issue(GPU_A, now_unix=NOW)
    certificate = _leaf(tmp_path)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://test.mesh/node/gpu-a")]
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc.timestamp() == NOW - 60.0 == issued.not_before
    assert certificate.not_valid_after_utc.timestamp() == NOW + DAY_S == issued.not_after
    assert (issued.renewed, issued.new_key, issued.cut_short) == (False, True, False)


def test_an_existing_ca_is_never_overwritten_unless_forced(tmp_path: Path) -> None:
    _create(tmp_path)
    before = _snapshot(tmp_path)
    with pytest.raises(AuthorityError, match=r"already holds a CA: nothing was changed"):
        _create(tmp_path)
    assert _snapshot(tmp_path) == before
    _create(tmp_path, force=True)
    after = _snapshot(tmp_path)
    assert after["ca.key"] != before["ca.key"]
    assert after["ca.pem"] != before["ca.pem"]


@pytest.mark.parametrize("gone", ["ca.key", "ca.pem"])
def test_half_of_a_ca_is_neither_used_nor_written_over(tmp_path: Path, gone: str) -> None:
    _create(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(AuthorityError, match=f"{gone} does not exist. Restore the file from your backup"):
        Authority.open(tmp_path, now_unix=NOW)
    with pytest.raises(AuthorityError, match="already holds a CA"):
        _create(tmp_path)


def test_an_authority_that_is_opened_again_issues_as_before(tmp_path: Path) -> None:
    _create(tmp_path).issue(GPU_A, now_unix=NOW)
    again = Authority.open(tmp_path, now_unix=NOW)
    assert again.trust_domain == "test.mesh"
    again.issue(NodeId("gpu-b"), now_unix=NOW)
    _leaf(tmp_path, "gpu-b").verify_directly_issued_by(again.certificate)


def test_an_empty_folder_sends_to_mesh_init(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match=f"mesh init --dir {tmp_path} --domain NAME --node ID"):
        Authority.open(tmp_path, now_unix=NOW)


def test_a_renewal_keeps_the_key_and_makes_a_new_certificate(tmp_path: Path) -> None:
    authority = _create(tmp_path)
    authority.issue(GPU_A, now_unix=NOW)
    key, old = (tmp_path / "gpu-a/node.key").read_bytes(), _leaf(tmp_path)
    issued = authority.issue(GPU_A, now_unix=NOW + 3600)
    new = _leaf(tmp_path)
    assert (issued.renewed, issued.new_key) == (True, False)
    assert (tmp_path / "gpu-a/node.key").read_bytes() == key
    assert new.public_key() == old.public_key()
    assert new.serial_number != old.serial_number
    assert new.not_valid_after_utc.timestamp() == NOW + 3600 + DAY_S


def test_a_new_key_comes_only_when_asked_for(tmp_path: Path) -> None:
    authority = _create(tmp_path)
    authority.issue(GPU_A, now_unix=NOW)
    key = (tmp_path / "gpu-a/node.key").read_bytes()
    assert authority.issue(GPU_A, now_unix=NOW, new_key=True).new_key
    assert (tmp_path / "gpu-a/node.key").read_bytes() != key


def test_an_unusable_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    authority = _create(tmp_path)
    authority.issue(GPU_A, now_unix=NOW)
    (tmp_path / "gpu-a/node.key").write_bytes(b"rubbish")
    before = _snapshot(tmp_path)
    with pytest.raises(AuthorityError, match=f"mesh ca renew --dir {tmp_path} --node gpu-a --new-key"):
        authority.issue(GPU_A, now_unix=NOW)
    assert _snapshot(tmp_path) == before


def test_a_key_that_peers_would_refuse_gets_no_certificate(tmp_path: Path) -> None:
    authority = _create(tmp_path)
    authority.issue(GPU_A, now_unix=NOW)
    weak = rsa.generate_private_key(65537, 1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(tmp_path / "gpu-a/node.key", weak, 0o600)
    with pytest.raises(AuthorityError, match="would be refused: has a key of RSA 1024 bits; allowed: P-256"):
        authority.issue(GPU_A, now_unix=NOW)


def test_a_node_certificate_ends_with_the_ca_at_the_latest(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "test.mesh", now_unix=NOW, life_s=3 * 3600)
    issued = authority.issue(GPU_A, now_unix=NOW)
    assert issued.cut_short
    assert issued.not_after == authority.not_after == NOW + 3 * 3600


def test_an_expired_ca_issues_nothing(tmp_path: Path) -> None:
    _create(tmp_path)
    with pytest.raises(AuthorityError, match=r"ended 2033-11-11T22:13:20Z, .*mesh init --force"):
        Authority.open(tmp_path, now_unix=NOW + CA_LIFE_S + 9 * DAY_S)


def test_a_ca_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    _create(tmp_path)
    (tmp_path / "ca.key").chmod(0o640)
    with pytest.raises(AuthorityError, match=r"chmod 600 .*ca\.key"):
        Authority.open(tmp_path, now_unix=NOW)


def test_a_ca_whose_key_was_swapped_is_not_used(tmp_path: Path) -> None:
    _create(tmp_path / "one")
    _create(tmp_path / "two")
    shutil.copy2(tmp_path / "two/ca.key", tmp_path / "one/ca.key")
    with pytest.raises(AuthorityError, match="does not belong to CA certificate"):
        Authority.open(tmp_path / "one", now_unix=NOW)


def test_a_folder_that_everyone_may_write_to_holds_no_ca(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(AuthorityError, match=f"chmod 700 {tmp_path}"):
        _create(tmp_path)


@pytest.mark.parametrize("node", ["", "..", ".", "-x", "a/b", "../evil", "ca.pem", "ca.key", ".lock", "a" * 129])
def test_a_node_id_that_is_no_folder_name_of_its_own_is_refused(tmp_path: Path, node: str) -> None:
    authority = _create(tmp_path / "mesh")
    before = _snapshot(tmp_path)
    with pytest.raises(AuthorityError, match="node id"):
        authority.issue(NodeId(node), now_unix=NOW)
    assert _snapshot(tmp_path) == before


def test_a_long_node_id_gets_a_certificate(tmp_path: Path) -> None:
    node = NodeId("n" * 128)
    issued = _create(tmp_path).issue(node, now_unix=NOW)
    assert issued.spiffe_id == f"spiffe://test.mesh/node/{node}"


@pytest.mark.parametrize("name", ["", "Test.Mesh", "test.mesh:443", "test mesh", "t" * 256])
def test_a_bad_name_makes_no_trust_domain(tmp_path: Path, name: str) -> None:
    with pytest.raises(AuthorityError, match="trust domain"):
        Authority.create(tmp_path / "mesh", name, now_unix=NOW)
    assert not (tmp_path / "mesh").exists()


def test_the_longest_trust_domain_works(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path, "d" * 255, now_unix=NOW)
    assert domain.identity("gpu-a").trust_domain == "d" * 255


def test_two_commands_at_once_do_not_make_two_cas(tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(AuthorityError, match="in use by another mesh command"):
        _create(tmp_path)
    assert not (tmp_path / "ca.pem").exists()


def test_no_object_shows_key_material(tmp_path: Path) -> None:
    authority = _create(tmp_path)
    issued = authority.issue(GPU_A, now_unix=NOW)
    for key_file in (tmp_path / "ca.key", tmp_path / "gpu-a/node.key"):
        secret = key_file.read_text().splitlines()[1]
        for thing in (authority, issued, vars(authority)):
            assert secret[:16] not in repr(thing)


def test_the_verifier_of_cryptography_agrees(tmp_path: Path) -> None:
    """An outside witness that shares no code with OpenSSL's verifier."""
    domain = TrustDomain(tmp_path)
    store = verification.Store([domain.authority.certificate])
    verifier = verification.PolicyBuilder().store(store).build_client_verifier()
    leaf = read_certificates(domain.node("gpu-a").certificate_file, "certificate")[0]
    verified = verifier.verify(leaf, [])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://test.mesh/node/gpu-a")]


OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on this machine")


def _openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert OPENSSL is not None
    return subprocess.run([OPENSSL, *map(str, arguments)], capture_output=True, text=True, timeout=20, check=False)


@needs_openssl
@pytest.mark.interop
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_verifies_a_node_certificate_strictly(tmp_path: Path, purpose: str) -> None:
    domain = TrustDomain(tmp_path)
    strict = ("verify", "-x509_strict", "-purpose", purpose, "-CAfile", domain.ca_file)
    good = _openssl(*strict, domain.node("gpu-a").certificate_file)
    assert (good.returncode, good.stderr) == (0, "")
    foreign = _openssl(*strict, domain.bad(BadCertificate.OTHER_CA).certificate_file)
    assert foreign.returncode != 0


@needs_openssl
@pytest.mark.interop
def test_a_node_cannot_sign_further_certificates_even_if_it_were_a_ca(tmp_path: Path) -> None:
    """The path length of the CA, seen from outside: a chain over a leaf with CA rights does not verify."""
    domain = TrustDomain(tmp_path)
    rights = frozenset({"digital_signature", "key_cert_sign"})
    files = domain.shaped(msgspec.structs.replace(SHAPES[BadCertificate.CA_LEAF], key_usage=rights))
    middle = read_certificates(files.certificate_file, "certificate")[0]
    middle_key = read_key(files.key_file, "key")
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")]))
        .issuer_name(middle.subject)
        .public_key(middle_key.public_key())
        .serial_number(7)
        .not_valid_before(middle.not_valid_before_utc)
        .not_valid_after(middle.not_valid_after_utc)
        .sign(middle_key, hashes.SHA256())
    )
    write_file(tmp_path / "leaf.pem", leaf.public_bytes(Encoding.PEM), 0o644)
    chain = ("-untrusted", files.certificate_file, tmp_path / "leaf.pem")
    refused = _openssl("verify", "-CAfile", domain.ca_file, *chain)
    assert "path length constraint exceeded" in refused.stderr


@needs_openssl
@pytest.mark.interop
def test_openssl_reads_what_we_wrote(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    text = _openssl("x509", "-in", domain.node("gpu-a").certificate_file, "-noout", "-text").stdout
    assert "URI:spiffe://test.mesh/node/gpu-a" in text
    assert "X509v3 Key Usage: critical\n                Digital Signature\n" in text
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert "ASN1 OID: prime256v1" in text
    assert "ecdsa-with-SHA256" in text
    key = _openssl("pkey", "-in", domain.node("gpu-a").key_file, "-noout", "-check")
    assert key.returncode == 0
    ca = _openssl("x509", "-in", domain.ca_file, "-noout", "-text").stdout
    assert "CA:TRUE, pathlen:0" in ca
    assert "Certificate Sign, CRL Sign" in ca
