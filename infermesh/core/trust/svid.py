"""The rules of an X.509-SVID (SPIFFE X509-SVID standard, sections 2 to 5) for one certificate at one time.

This is the second half of a check, never the whole: who signed the certificate and who holds its key is for
OpenSSL (or the loader of files) to have shown first. It exists because a chain check alone, strict as it is set,
accepts 38 of the 49 bad kinds in `infermesh.testing`: two URI names, no key usage, a CA as a leaf, and more.

Where the standard says "should" and our CA always does, the rule here is "must" (an extended key usage is
required): a certificate without it was not made by `mesh`, and nobody else signs for our trust domain.

Pure: the caller passes the certificate and the time. All faults are collected, in the order of the rules, so
that `mesh ca show` can list them; a handshake looks at the first.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from infermesh.core.trust.refusal import Refusal, RefusalReason, shown, span
from infermesh.core.trust.spiffe import SpiffeId, parse_spiffe_id

CERTIFICATE_BYTES_MAX = 16384  # Ours are under 700 bytes; OpenSSL itself allows 100 KiB a chain.
_RSA_BITS_MIN = 2048
_UTC = "%Y-%m-%dT%H:%M:%SZ"
T = TypeVar("T", bound=x509.ExtensionType)

_CURVES = (ec.SECP256R1, ec.SECP384R1)

# Everything that the parser of `cryptography` raises for bytes that are no good certificate; its lazy
# properties parse too, so each access to one stands under this. It warns of oddities (a serial number of 0,
# a name of 80 characters) and goes on; where warnings are errors, the oddity is a refusal and not a crash.
PARSE_ERRORS = (
    UserWarning,
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one certificate. It may be used only if `refusals` is empty."""

    spiffe_id: SpiffeId | None
    not_before: float  # Unix seconds; 0.0 when the certificate could not be read.
    not_after: float
    refusals: tuple[Refusal, ...]


def parse_certificate(der: bytes) -> x509.Certificate | Refusal:
    if len(der) > CERTIFICATE_BYTES_MAX:
        return _malformed(f"{len(der)} bytes, more than {CERTIFICATE_BYTES_MAX}")
    try:
        return x509.load_der_x509_certificate(der)
    except PARSE_ERRORS as error:
        return _malformed(shown(str(error)))


def examine_leaf(certificate: x509.Certificate, *, now_unix: float) -> Examination:
    """A certificate that authenticates a node."""
    return _examine(certificate, now_unix=now_unix, signer=False)


def examine_signer(certificate: x509.Certificate, *, now_unix: float) -> Examination:
    """A certificate that signs others (a CA)."""
    return _examine(certificate, now_unix=now_unix, signer=True)


def _examine(certificate: x509.Certificate, *, now_unix: float, signer: bool) -> Examination:
    try:
        not_before = certificate.not_valid_before_utc.timestamp()
        not_after = certificate.not_valid_after_utc.timestamp()
        extensions = certificate.extensions
        key = certificate.public_key()
    except PARSE_ERRORS as error:
        refusal = _malformed(shown(str(error)))
        return Examination(spiffe_id=None, not_before=0.0, not_after=0.0, refusals=(refusal,))
    found: list[Refusal] = []
    found += _check_time(certificate, now_unix)
    found += _check_critical(extensions)
    names = _find(extensions, x509.SubjectAlternativeName)
    spiffe_id = None
    if signer:
        found += _check_signer(extensions)
        if names is not None:
            spiffe_id = _signer_name(names, found)
    else:
        found += _check_leaf_usage(extensions)
        spiffe_id = _leaf_name(certificate, names, found)
    found += _check_key(key)
    return Examination(spiffe_id=spiffe_id, not_before=not_before, not_after=not_after, refusals=tuple(found))


def _check_time(certificate: x509.Certificate, now_unix: float) -> list[Refusal]:
    """Both ends count as valid, as in RFC 5280."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    late_s, early_s = now_unix - end.timestamp(), begin.timestamp() - now_unix
    if late_s > 0:
        return [Refusal(RefusalReason.EXPIRED, f"ended {end:{_UTC}}, {span(late_s)} ago")]
    if early_s > 0:
        detail = f"begins {begin:{_UTC}}, in {span(early_s)}: clocks differ, or it is for later"
        return [Refusal(RefusalReason.NOT_YET_VALID, detail)]
    return []


def _check_critical(extensions: x509.Extensions) -> list[Refusal]:
    return [
        Refusal(RefusalReason.CRITICAL_EXTENSION, f"has the unknown critical extension {extension.oid.dotted_string}")
        for extension in extensions
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension)
    ]


def _check_leaf_usage(extensions: x509.Extensions) -> list[Refusal]:
    found: list[Refusal] = []
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        found.append(Refusal(RefusalReason.SIGNER_AS_LEAF, "is a CA (basicConstraints cA is true)"))
    usage = _find(extensions, x509.KeyUsage)
    if usage is None:
        found.append(Refusal(RefusalReason.KEY_USAGE, "has no keyUsage"))
    else:
        if usage.value.key_cert_sign or usage.value.crl_sign:
            found.append(
                Refusal(RefusalReason.SIGNER_AS_LEAF, "may sign certificates (keyUsage has keyCertSign or cRLSign)")
            )
        if not usage.critical:
            found.append(Refusal(RefusalReason.KEY_USAGE, "keyUsage is not critical"))
        if not usage.value.digital_signature:
            found.append(Refusal(RefusalReason.KEY_USAGE, "keyUsage lacks digitalSignature"))
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if purposes is None:
        found.append(Refusal(RefusalReason.EXTENDED_KEY_USAGE, "has no extendedKeyUsage"))
    else:
        for purpose, name in _PURPOSES:
            if purpose not in purposes.value:
                found.append(Refusal(RefusalReason.EXTENDED_KEY_USAGE, f"extendedKeyUsage lacks {name}"))
    return found


# Both: every node is a server of its mesh port and a client of the others'.
_PURPOSES = ((ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"), (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth"))


def _check_signer(extensions: x509.Extensions) -> list[Refusal]:
    found: list[Refusal] = []
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        found.append(Refusal(RefusalReason.NOT_A_SIGNER, "is not a CA (basicConstraints cA is not true)"))
    usage = _find(extensions, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        found.append(Refusal(RefusalReason.NOT_A_SIGNER, "keyUsage lacks keyCertSign"))
    return found


def _leaf_name(
    certificate: x509.Certificate,
    names: x509.Extension[x509.SubjectAlternativeName] | None,
    found: list[Refusal],
) -> SpiffeId | None:
    uris = [] if names is None else names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if names is None or len(uris) != 1:
        seen = ", ".join(shown(uri) for uri in uris[:3]) or "none"
        detail = f"has {len(uris)} URI names in subjectAltName where exactly 1 must be: {seen}"
        found.append(Refusal(RefusalReason.SAN, detail))
        return None
    if not names.critical and _has_empty_subject(certificate):
        found.append(Refusal(RefusalReason.SAN, "has an empty subject and no critical subjectAltName"))
    parsed = parse_spiffe_id(uris[0])
    if isinstance(parsed, Refusal):
        found.append(parsed)
        return None
    if not parsed.path:
        detail = f"{shown(uris[0])} names the trust domain itself, not a workload in it"
        found.append(Refusal(RefusalReason.SPIFFE_ID, detail))
        return None
    return parsed


def _has_empty_subject(certificate: x509.Certificate) -> bool:
    try:
        return not certificate.subject.rdns
    except PARSE_ERRORS:
        return True  # A subject that cannot be read names nobody.


def _signer_name(names: x509.Extension[x509.SubjectAlternativeName], found: list[Refusal]) -> SpiffeId | None:
    """A signer need not carry a SPIFFE id; when it does, it is the trust domain's own."""
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        return None
    parsed = parse_spiffe_id(uris[0])
    if len(uris) > 1 or isinstance(parsed, Refusal) or parsed.path:
        detail = f"must have spiffe://<trust domain> as its only URI name, seen {shown(', '.join(uris))}"
        found.append(Refusal(RefusalReason.SPIFFE_ID, detail))
        return None
    return parsed


def _check_key(key: object) -> list[Refusal]:
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return []
        case ed25519.Ed25519PublicKey():
            return []
        case rsa.RSAPublicKey() if key.key_size >= _RSA_BITS_MIN:
            return []
        case _:
            detail = f"has a key of {key_type(key)}; allowed: P-256, P-384, Ed25519, RSA from {_RSA_BITS_MIN} bits"
            return [Refusal(RefusalReason.WEAK_KEY, detail)]


def key_type(key: object) -> str:
    """The kind of a public key in words: "ECDSA secp256r1", "RSA 2048 bits"."""
    match key:
        case ec.EllipticCurvePublicKey():
            return f"ECDSA {key.curve.name}"
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size} bits"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case _:
            return type(key).__name__


def _find(extensions: x509.Extensions, kind: type[T]) -> x509.Extension[T] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _malformed(why: str) -> Refusal:
    return Refusal(RefusalReason.MALFORMED, f"cannot be read as a certificate: {why}")
