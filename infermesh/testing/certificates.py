"""A trust domain in a folder, made in milliseconds: good nodes, and every kind of bad one.

Public, for tests of anything that speaks on the mesh port. Good nodes come from the real `Authority`, so a test
meets what `mesh init` writes. `careless_context` is the adversary: a peer that shows a certificate that our own
contexts would not load, and that checks nothing of ours.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_never

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from infermesh.core.model.names import NodeId
from infermesh.core.trust import Identity
from infermesh.net.tls import HTTP1_ALPN, TlsEpoch
from infermesh.node.authority import CA_CERTIFICATE, CA_KEY, NODE_CERTIFICATE, NODE_KEY, Authority
from infermesh.node.identity import load_identity
from infermesh.node.pem import CERTIFICATE_MODE, KEY_MODE, Key, make_folder, read_certificates, read_key, write_file
from infermesh.testing.bad_certificates import SHAPES, BadCertificate, KeyKind, Shape, Signer

__all__ = ["BadCertificate", "NodeFiles", "TrustDomain", "careless_context"]


class NodeFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one node; may be given to `load_identity` as its [trust] section."""

    domain: str
    node: NodeId
    folder: Path
    certificate_file: Path
    key_file: Path
    ca_file: Path

    @property
    def der(self) -> bytes:
        return read_certificates(self.certificate_file, "certificate")[0].public_bytes(Encoding.DER)


class TrustDomain:
    """A CA in `folder`, and nodes of it. `now_unix` is the moment that all validity is counted from."""

    def __init__(self, folder: Path, domain: str = "test.mesh", *, now_unix: float | None = None) -> None:
        self.now_unix = time.time() if now_unix is None else now_unix
        self.domain = domain
        self.authority = Authority.create(folder / "trust", domain, now_unix=self.now_unix)
        self.ca_file = self.authority.folder / CA_CERTIFICATE
        self._folder = folder
        self._other: TrustDomain | None = None

    @property
    def other(self) -> TrustDomain:
        """A trust domain of the same name with a CA of its own: an impostor."""
        if self._other is None:
            self._other = TrustDomain(self._folder / "other", self.domain, now_unix=self.now_unix)
        return self._other

    def node(self, node: str = "gpu-a") -> NodeFiles:
        """A good node. Asked again, the same files."""
        folder = self.authority.folder / node
        if not (folder / NODE_CERTIFICATE).exists():
            self.authority.issue(NodeId(node), now_unix=self.now_unix)
        return self._files(node, folder)

    def bad(self, kind: BadCertificate, node: str = "gpu-a") -> NodeFiles:
        """A node whose certificate has the one fault that `kind` says. Its CA file is a good one."""
        return self.shaped(SHAPES[kind], node, name=kind)

    def shaped(self, shape: Shape, node: str = "gpu-a", *, name: str = "shaped") -> NodeFiles:
        """A node with a certificate of any shape."""
        folder = self._folder / "bad" / f"{name}-{node}"
        make_folder(folder)
        key = _make_key(shape.key)
        certificate = self._sign(shape, node, key)
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_file(folder / NODE_KEY, key_pem, KEY_MODE)
        write_file(folder / NODE_CERTIFICATE, certificate.public_bytes(Encoding.PEM), CERTIFICATE_MODE)
        write_file(folder / CA_CERTIFICATE, self.ca_file.read_bytes(), CERTIFICATE_MODE)
        return self._files(node, folder)

    def identity(self, node: str = "gpu-a") -> Identity:
        return load_identity(self.node(node), NodeId(node), self.now_unix)

    def epoch(self, node: str = "gpu-a") -> TlsEpoch:
        return TlsEpoch(self.identity(node))

    def _files(self, node: str, folder: Path) -> NodeFiles:
        return NodeFiles(
            domain=self.domain,
            node=NodeId(node),
            folder=folder,
            certificate_file=folder / NODE_CERTIFICATE,
            key_file=folder / NODE_KEY,
            ca_file=folder / CA_CERTIFICATE,
        )

    def _sign(self, shape: Shape, node: str, key: Key) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)] if shape.has_subject else [])
        authority = self.other.authority if shape.signer is Signer.OTHER else self.authority
        issuer = subject if shape.signer is Signer.ITSELF else authority.certificate.subject
        signing_key = key
        if shape.signer is not Signer.ITSELF:
            signing_key = read_key(authority.folder / CA_KEY, "CA key")
        now = datetime.fromtimestamp(int(self.now_unix), UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(seconds=shape.begin_s))
            .not_valid_after(now + timedelta(seconds=shape.end_s))
        )
        for extension, critical in _extensions(shape, self.domain, node):
            builder = builder.add_extension(extension, critical=critical)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        signers = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(signers, critical=False)
        return builder.sign(signing_key, hashes.SHA256())


def careless_context(
    files: NodeFiles | None,
    *,
    server_side: bool,
    alpn: Sequence[str] = (HTTP1_ALPN,),
    version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    """A peer that breaks rules: any certificate or none, any ALPN or none, one old version; it verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_OPTIONAL if server_side else ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # Else OpenSSL refuses to load a weak key of our own.
    if server_side:
        # OPTIONAL makes it ask for a certificate; the CA lets it accept good ones and go on.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if files is not None:
        context.load_verify_locations(cafile=str(files.ca_file))
        context.load_cert_chain(str(files.certificate_file), str(files.key_file))
    if version is not None:
        context.minimum_version = version
        context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def _make_key(kind: KeyKind) -> Key:
    match kind:
        case KeyKind.RSA_1024:
            return rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak on purpose
        case KeyKind.P521:
            return ec.generate_private_key(ec.SECP521R1())
        case KeyKind.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            assert_never(kind)


def _extensions(shape: Shape, domain: str, node: str) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=shape.ca, path_length=None), True),
    ]
    if shape.has_san:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in shape.dns]
        for uri in shape.uris:
            names.append(x509.UniformResourceIdentifier(uri.replace("{d}", domain).replace("{n}", node)))
        found.append((x509.SubjectAlternativeName(names), shape.san_critical))
    if shape.key_usage is not None:
        found.append((_key_usage(shape.key_usage), shape.key_usage_critical))
    if shape.purposes is not None:
        found.append((x509.ExtendedKeyUsage(shape.purposes), False))
    if shape.unknown_critical:
        # An arc of ours in name only: 2.25 is for numbers that nobody has to register.
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1234567"), b"\x05\x00")
        found.append((unknown, True))
    return found


def _key_usage(names: frozenset[str]) -> x509.KeyUsage:
    every = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in names for name in every})
