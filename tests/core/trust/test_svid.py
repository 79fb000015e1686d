"""The rules of certificates, on every bad kind of `infermesh.testing`, by the certificate alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from infermesh.core.trust import Refusal, RefusalReason, examine_leaf, examine_signer, parse_certificate
from infermesh.core.trust.svid import CERTIFICATE_BYTES_MAX
from infermesh.testing.bad_certificates import DAY_S, GOOD, REASONS, SHAPES, BadCertificate, Shape
from infermesh.testing.certificates import NodeFiles, TrustDomain

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"), now_unix=NOW)


def _parsed(files: NodeFiles) -> x509.Certificate:
    certificate = parse_certificate(files.der)
    assert isinstance(certificate, x509.Certificate)
    return certificate


def test_a_certificate_of_our_own_authority_has_no_fault(domain: TrustDomain) -> None:
    examined = examine_leaf(_parsed(domain.node("gpu-a")), now_unix=NOW)
    assert examined.refusals == ()
    assert str(examined.spiffe_id) == "spiffe://test.mesh/node/gpu-a"
    assert (examined.not_before, examined.not_after) == (NOW - 60.0, NOW + DAY_S)


def test_the_shape_that_bad_ones_deviate_from_has_no_fault(domain: TrustDomain) -> None:
    assert examine_leaf(_parsed(domain.shaped(GOOD)), now_unix=NOW).refusals == ()


_BY_THE_RULES = [
    kind
    for kind, reason in REASONS.items()
    # These two need to know our trust domain and nodes: see test_identity.
    if reason not in (None, RefusalReason.TRUST_DOMAIN, RefusalReason.NODE)
]


@pytest.mark.parametrize("kind", _BY_THE_RULES)
def test_a_bad_certificate_is_refused_for_its_one_fault(domain: TrustDomain, kind: BadCertificate) -> None:
    examined = examine_leaf(_parsed(domain.bad(kind)), now_unix=NOW)
    assert {refusal.reason for refusal in examined.refusals} == {REASONS[kind]}


def test_every_bad_kind_has_a_shape_and_a_reason() -> None:
    assert set(SHAPES) == set(REASONS) == set(BadCertificate)
    assert all(shape != GOOD for shape in SHAPES.values())


def test_all_faults_are_listed_not_only_the_first(domain: TrustDomain) -> None:
    files = domain.shaped(Shape(begin_s=-9.0, end_s=-1.0, has_san=False, purposes=None), name="many")
    reasons = [refusal.reason for refusal in examine_leaf(_parsed(files), now_unix=NOW).refusals]
    assert reasons == [RefusalReason.EXPIRED, RefusalReason.EXTENDED_KEY_USAGE, RefusalReason.SAN]


@pytest.mark.parametrize(
    ("after_s", "reason"),
    [
        (-60.0, None),
        (DAY_S, None),
        (-60.5, RefusalReason.NOT_YET_VALID),
        (DAY_S + 0.5, RefusalReason.EXPIRED),
    ],
)
def test_validity_is_inclusive_at_both_ends(domain: TrustDomain, after_s: float, reason: RefusalReason | None) -> None:
    refusals = examine_leaf(_parsed(domain.node("gpu-a")), now_unix=NOW + after_s).refusals
    assert [refusal.reason for refusal in refusals] == ([] if reason is None else [reason])


def test_an_expired_certificate_says_when_it_ended(domain: TrustDomain) -> None:
    (refusal,) = examine_leaf(_parsed(domain.node("gpu-a")), now_unix=NOW + 2 * DAY_S).refusals
    assert refusal.detail == "ended 2023-11-15T22:13:20Z, 24.0 h ago"


def test_a_critical_name_makes_up_for_an_empty_subject(domain: TrustDomain) -> None:
    shape = Shape(has_subject=False, san_critical=True)
    assert examine_leaf(_parsed(domain.shaped(shape, name="critical-san")), now_unix=NOW).refusals == ()


def test_names_in_dns_beside_the_spiffe_id_are_fine(domain: TrustDomain) -> None:
    shape = Shape(dns=("gpu-a", "gpu-a.example"))
    assert examine_leaf(_parsed(domain.shaped(shape, name="with-dns")), now_unix=NOW).refusals == ()


def test_our_ca_is_a_signer_of_its_trust_domain_and_no_leaf(domain: TrustDomain) -> None:
    certificate = domain.authority.certificate
    examined = examine_signer(certificate, now_unix=NOW)
    assert examined.refusals == ()
    assert str(examined.spiffe_id) == "spiffe://test.mesh"
    reasons = {refusal.reason for refusal in examine_leaf(certificate, now_unix=NOW).refusals}
    assert RefusalReason.SIGNER_AS_LEAF in reasons


def test_a_node_certificate_is_no_signer(domain: TrustDomain) -> None:
    reasons = [refusal.reason for refusal in examine_signer(_parsed(domain.node("gpu-a")), now_unix=NOW).refusals]
    assert RefusalReason.NOT_A_SIGNER in reasons
    # A signer's SPIFFE id has no path: a leaf that was given CA rights cannot pass as the CA either.
    leaf = _parsed(domain.bad(BadCertificate.CA_LEAF))
    reasons = [refusal.reason for refusal in examine_signer(leaf, now_unix=NOW).refusals]
    assert RefusalReason.SPIFFE_ID in reasons


@pytest.mark.parametrize("der", [b"", b"\x30", b"hello", b"\x30\x03\x02\x01\x01", b"\x00" * 700])
def test_bytes_that_are_no_certificate_are_malformed(der: bytes) -> None:
    refusal = parse_certificate(der)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.MALFORMED


def test_a_certificate_of_too_many_bytes_is_not_even_parsed() -> None:
    refusal = parse_certificate(b"\x30" * (CERTIFICATE_BYTES_MAX + 1))
    assert refusal == Refusal(RefusalReason.MALFORMED, "cannot be read as a certificate: 16385 bytes, more than 16384")


def test_bytes_behind_the_certificate_are_malformed(domain: TrustDomain) -> None:
    assert isinstance(parse_certificate(domain.node("gpu-a").der + b"\0"), Refusal)


def test_an_extension_that_comes_twice_is_malformed(domain: TrustDomain) -> None:
    # The subject key identifier (2.5.29.14) renamed to a second key usage (2.5.29.15).
    der = domain.node("gpu-a").der.replace(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x0f")
    certificate = parse_certificate(der)
    assert isinstance(certificate, x509.Certificate)
    (refusal,) = examine_leaf(certificate, now_unix=NOW).refusals
    assert refusal.reason is RefusalReason.MALFORMED


_DER: dict[str, bytes] = {}


def _good_der(folder: Path) -> bytes:
    if not _DER:
        _DER["good"] = TrustDomain(folder, now_unix=NOW).node("gpu-a").der
    return _DER["good"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_damage_to_the_bytes_raises(tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]) -> None:
    """For every damaged certificate: a refusal or an examination, never an exception, and printable words."""
    der = bytearray(_good_der(tmp_path_factory.getbasetemp() / "fuzz"))
    for position, value in damage:
        der[position % len(der)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # As in production: the parser warns of odd numbers and goes on.
        parsed = parse_certificate(bytes(der))
        if isinstance(parsed, Refusal):
            refusals: tuple[Refusal, ...] = (parsed,)
        else:
            refusals = examine_leaf(parsed, now_unix=NOW).refusals + examine_signer(parsed, now_unix=NOW).refusals
    assert all(refusal.detail.isprintable() for refusal in refusals)
