"""Every kind of bad node certificate that we know of: what is wrong with each, and why it must be refused.

Public, for tests of anything that meets a peer. Only shapes are here; `infermesh.testing.certificates` makes the
files. Each kind is good in all but the one thing its name says, so that a check which misses that one thing
lets it in.
"""

from __future__ import annotations

import enum

import msgspec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from infermesh.core.trust import RefusalReason

DAY_S = 86_400.0

_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Signer(enum.Enum):
    OURS = enum.auto()
    OTHER = enum.auto()  # A CA of the same name and trust domain, with a key of its own.
    ITSELF = enum.auto()


class KeyKind(enum.Enum):
    P256 = enum.auto()
    P521 = enum.auto()
    RSA_1024 = enum.auto()


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf certificate to make. `{d}` and `{n}` in `uris` are its trust domain and node. Defaults are good."""

    signer: Signer = Signer.OURS
    uris: tuple[str, ...] = ("spiffe://{d}/node/{n}",)
    dns: tuple[str, ...] = ()
    has_san: bool = True
    san_critical: bool = False
    has_subject: bool = True
    begin_s: float = -60.0  # From now.
    end_s: float = DAY_S
    ca: bool = False
    key_usage: frozenset[str] | None = frozenset({"digital_signature"})
    key_usage_critical: bool = True
    purposes: tuple[ObjectIdentifier, ...] | None = _BOTH
    key: KeyKind = KeyKind.P256
    unknown_critical: bool = False


GOOD = Shape()


def _named(uri: str) -> Shape:
    return Shape(uris=(uri,))


def _usage(*names: str) -> Shape:
    return Shape(key_usage=frozenset(names))


class BadCertificate(enum.StrEnum):
    """One thing wrong with each. `SHAPES` and `REASONS` have a row for every member."""

    OTHER_CA = "other_ca"
    SELF_SIGNED = "self_signed"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    NO_SAN = "no_san"
    DNS_NAME_ONLY = "dns_name_only"
    TWO_SPIFFE_IDS = "two_spiffe_ids"
    SAME_SPIFFE_ID_TWICE = "same_spiffe_id_twice"
    SECOND_URI_OF_OTHER_SCHEME = "second_uri_of_other_scheme"
    EMPTY_SUBJECT_SAN_NOT_CRITICAL = "empty_subject_san_not_critical"
    OTHER_TRUST_DOMAIN = "other_trust_domain"
    SUBDOMAIN_OF_TRUST_DOMAIN = "subdomain_of_trust_domain"
    OTHER_NODE = "other_node"
    OTHER_WORKLOAD = "other_workload"
    NODE_WITH_CHILD = "node_with_child"
    CAPITAL_IN_NODE = "capital_in_node"
    NO_PATH = "no_path"
    ROOT_PATH = "root_path"
    TRAILING_SLASH = "trailing_slash"
    EMPTY_SEGMENT = "empty_segment"
    DOT_SEGMENT = "dot_segment"
    DOT_DOT_SEGMENT = "dot_dot_segment"
    PERCENT_ENCODED = "percent_encoded"
    UPPERCASE_HOST = "uppercase_host"
    UPPERCASE_SCHEME = "uppercase_scheme"
    HTTPS_SCHEME = "https_scheme"
    NO_HOST = "no_host"
    PORT = "port"
    USER_INFO = "user_info"
    QUERY = "query"
    FRAGMENT = "fragment"
    NUL_BYTE = "nul_byte"
    TRAILING_NEWLINE = "trailing_newline"
    ID_TOO_LONG = "id_too_long"
    TRUST_DOMAIN_TOO_LONG = "trust_domain_too_long"
    CA_LEAF = "ca_leaf"
    NO_KEY_USAGE = "no_key_usage"
    KEY_USAGE_NOT_CRITICAL = "key_usage_not_critical"
    NO_DIGITAL_SIGNATURE = "no_digital_signature"
    KEY_CERT_SIGN = "key_cert_sign"
    CRL_SIGN = "crl_sign"
    NO_PURPOSE = "no_purpose"
    SERVER_ONLY = "server_only"
    CLIENT_ONLY = "client_only"
    OTHER_PURPOSE = "other_purpose"
    ANY_PURPOSE = "any_purpose"
    SMALL_RSA_KEY = "small_rsa_key"
    UNUSUAL_CURVE = "unusual_curve"
    UNKNOWN_CRITICAL_EXTENSION = "unknown_critical_extension"


_B = BadCertificate
_R = RefusalReason

# What it is like, and the reason that the rules of core/trust give. None: the certificate is well-formed, and
# only the signature is wrong, which is for OpenSSL to see.
_TABLE: dict[BadCertificate, tuple[Shape, RefusalReason | None]] = {
    _B.OTHER_CA: (Shape(signer=Signer.OTHER), None),
    _B.SELF_SIGNED: (Shape(signer=Signer.ITSELF), None),
    _B.EXPIRED: (Shape(begin_s=-2 * DAY_S, end_s=-1.0), _R.EXPIRED),
    _B.NOT_YET_VALID: (Shape(begin_s=3600.0), _R.NOT_YET_VALID),
    _B.NO_SAN: (Shape(has_san=False), _R.SAN),
    _B.DNS_NAME_ONLY: (Shape(uris=(), dns=("gpu-a.test.mesh",)), _R.SAN),
    _B.TWO_SPIFFE_IDS: (Shape(uris=("spiffe://{d}/node/{n}", "spiffe://{d}/node/other")), _R.SAN),
    _B.SAME_SPIFFE_ID_TWICE: (Shape(uris=("spiffe://{d}/node/{n}",) * 2), _R.SAN),
    _B.SECOND_URI_OF_OTHER_SCHEME: (Shape(uris=("spiffe://{d}/node/{n}", "https://{d}/")), _R.SAN),
    _B.EMPTY_SUBJECT_SAN_NOT_CRITICAL: (Shape(has_subject=False), _R.SAN),
    _B.OTHER_TRUST_DOMAIN: (_named("spiffe://other.mesh/node/{n}"), _R.TRUST_DOMAIN),
    _B.SUBDOMAIN_OF_TRUST_DOMAIN: (_named("spiffe://a.{d}/node/{n}"), _R.TRUST_DOMAIN),
    _B.OTHER_NODE: (_named("spiffe://{d}/node/somebody-else"), _R.NODE),
    _B.OTHER_WORKLOAD: (_named("spiffe://{d}/workload/{n}"), _R.NODE),
    _B.NODE_WITH_CHILD: (_named("spiffe://{d}/node/{n}/x"), _R.NODE),
    _B.CAPITAL_IN_NODE: (_named("spiffe://{d}/Node/{n}"), _R.NODE),
    _B.NO_PATH: (_named("spiffe://{d}"), _R.SPIFFE_ID),
    _B.ROOT_PATH: (_named("spiffe://{d}/"), _R.SPIFFE_ID),
    _B.TRAILING_SLASH: (_named("spiffe://{d}/node/{n}/"), _R.SPIFFE_ID),
    _B.EMPTY_SEGMENT: (_named("spiffe://{d}/node//{n}"), _R.SPIFFE_ID),
    _B.DOT_SEGMENT: (_named("spiffe://{d}/node/./{n}"), _R.SPIFFE_ID),
    _B.DOT_DOT_SEGMENT: (_named("spiffe://{d}/x/../node/{n}"), _R.SPIFFE_ID),
    _B.PERCENT_ENCODED: (_named("spiffe://{d}/node/%67pu-a"), _R.SPIFFE_ID),
    _B.UPPERCASE_HOST: (_named("spiffe://TEST.mesh/node/{n}"), _R.SPIFFE_ID),
    _B.UPPERCASE_SCHEME: (_named("SPIFFE://{d}/node/{n}"), _R.SPIFFE_ID),
    _B.HTTPS_SCHEME: (_named("https://{d}/node/{n}"), _R.SPIFFE_ID),
    _B.NO_HOST: (_named("spiffe:///node/{n}"), _R.SPIFFE_ID),
    _B.PORT: (_named("spiffe://{d}:7443/node/{n}"), _R.SPIFFE_ID),
    _B.USER_INFO: (_named("spiffe://me@{d}/node/{n}"), _R.SPIFFE_ID),
    _B.QUERY: (_named("spiffe://{d}/node/{n}?a=b"), _R.SPIFFE_ID),
    _B.FRAGMENT: (_named("spiffe://{d}/node/{n}#a"), _R.SPIFFE_ID),
    _B.NUL_BYTE: (_named("spiffe://{d}/node/{n}\0.other"), _R.SPIFFE_ID),
    _B.TRAILING_NEWLINE: (_named("spiffe://{d}/node/{n}\n"), _R.SPIFFE_ID),
    _B.ID_TOO_LONG: (_named("spiffe://{d}/node/" + "x" * 2048), _R.SPIFFE_ID),
    _B.TRUST_DOMAIN_TOO_LONG: (_named("spiffe://" + "x" * 256 + "/node/{n}"), _R.SPIFFE_ID),
    _B.CA_LEAF: (Shape(ca=True), _R.SIGNER_AS_LEAF),
    _B.NO_KEY_USAGE: (Shape(key_usage=None), _R.KEY_USAGE),
    _B.KEY_USAGE_NOT_CRITICAL: (Shape(key_usage_critical=False), _R.KEY_USAGE),
    _B.NO_DIGITAL_SIGNATURE: (_usage("key_agreement"), _R.KEY_USAGE),
    _B.KEY_CERT_SIGN: (_usage("digital_signature", "key_cert_sign"), _R.SIGNER_AS_LEAF),
    _B.CRL_SIGN: (_usage("digital_signature", "crl_sign"), _R.SIGNER_AS_LEAF),
    _B.NO_PURPOSE: (Shape(purposes=None), _R.EXTENDED_KEY_USAGE),
    _B.SERVER_ONLY: (Shape(purposes=_BOTH[:1]), _R.EXTENDED_KEY_USAGE),
    _B.CLIENT_ONLY: (Shape(purposes=_BOTH[1:]), _R.EXTENDED_KEY_USAGE),
    _B.OTHER_PURPOSE: (Shape(purposes=(ExtendedKeyUsageOID.CODE_SIGNING,)), _R.EXTENDED_KEY_USAGE),
    _B.ANY_PURPOSE: (
        Shape(purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)),
        _R.EXTENDED_KEY_USAGE,
    ),
    _B.SMALL_RSA_KEY: (Shape(key=KeyKind.RSA_1024), _R.WEAK_KEY),
    _B.UNUSUAL_CURVE: (Shape(key=KeyKind.P521), _R.WEAK_KEY),
    _B.UNKNOWN_CRITICAL_EXTENSION: (Shape(unknown_critical=True), _R.CRITICAL_EXTENSION),
}

SHAPES: dict[BadCertificate, Shape] = {kind: row[0] for kind, row in _TABLE.items()}
REASONS: dict[BadCertificate, RefusalReason | None] = {kind: row[1] for kind, row in _TABLE.items()}
