"""The certificate authority of one trust domain, in one folder: makes itself, issues and renews node certificates.

    DIR/ca.pem  DIR/ca.key  DIR/<node>/{node.pem,node.key,ca.pem}

Nobody's daemon: `mesh init` and `mesh ca` run it by hand where the CA's key is kept. It never replaces a CA or a
key that exists unless told to. A renewal keeps the node's key and replaces one file, so a daemon that reads
while it happens sees the old pair or the new pair, never a mixture.
"""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infermesh.core.model.names import NodeId
from infermesh.core.trust import examine_leaf, examine_signer, node_id_fault, node_spiffe_id, trust_domain_fault
from infermesh.node.pem import (
    CERTIFICATE_MODE,
    KEY_MODE,
    Key,
    PemFault,
    locked_folder,
    make_folder,
    read_certificates,
    read_key,
    write_file,
)

CA_CERTIFICATE = "ca.pem"
CA_KEY = "ca.key"
NODE_CERTIFICATE = "node.pem"
NODE_KEY = "node.key"

DAY_S = 86_400.0
NODE_LIFE_S = DAY_S
CA_LIFE_S = 3650 * DAY_S
BACKDATE_S = 60.0  # So that a node whose clock is behind by less takes a certificate at once.

_COMMON_NAME_CHARS_MAX = 64  # RFC 5280, ub-common-name.


class AuthorityError(Exception):
    """The CA cannot do this: a local fault. The message is complete for an operator."""


class IssuedNode(msgspec.Struct, frozen=True, kw_only=True):
    """What was written for one node. Holds names of files, never their content."""

    node: NodeId
    spiffe_id: str
    folder: Path
    not_before: float  # Unix seconds.
    not_after: float
    renewed: bool  # It had a certificate before.
    new_key: bool
    cut_short: bool  # Ends with the CA, earlier than asked for.


class Authority:
    """A CA that may sign. Made by `create` or `open`."""

    def __init__(self, folder: Path, trust_domain: str, certificate: x509.Certificate, key: Key) -> None:
        self.folder = folder
        self.trust_domain = trust_domain
        self.certificate = certificate
        self.not_after = certificate.not_valid_after_utc.timestamp()
        self._key = key

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether any part of a CA is there: half of one must be looked at, not written over."""
        return (folder / CA_CERTIFICATE).exists() or (folder / CA_KEY).exists()

    @classmethod
    def create(
        cls, folder: Path, trust_domain: str, *, now_unix: float, life_s: float = CA_LIFE_S, force: bool = False
    ) -> Authority:
        if fault := trust_domain_fault(trust_domain):
            raise AuthorityError(f"trust domain {fault}")
        try:
            make_folder(folder)
            _check_folder(folder)
            with locked_folder(folder):
                if cls.exists(folder) and not force:
                    raise AuthorityError(
                        f"{folder} already holds a CA: nothing was changed. Use it as it is, give another "
                        "--dir, or replace it and every certificate that it signed with --force"
                    )
                key = _generate_key()
                certificate = _sign_itself(key, trust_domain, now_unix, life_s)
                # The key first: a crash in between leaves a key that has signed nothing.
                write_file(folder / CA_KEY, _private_pem(key), KEY_MODE)
                write_file(folder / CA_CERTIFICATE, certificate.public_bytes(Encoding.PEM), CERTIFICATE_MODE)
        except (PemFault, OSError) as error:
            raise AuthorityError(f"cannot make a CA in {folder}: {error}") from error
        return cls(folder, trust_domain, certificate, key)

    @classmethod
    def open(cls, folder: Path, *, now_unix: float) -> Authority:
        certificate_file, key_file = folder / CA_CERTIFICATE, folder / CA_KEY
        if not cls.exists(folder):
            raise AuthorityError(
                f"{folder} holds no CA ({CA_CERTIFICATE}, {CA_KEY}): make one with "
                f"`mesh init --dir {folder} --domain NAME --node ID`, or give the --dir of an existing one"
            )
        try:
            _check_folder(folder)
            certificates = read_certificates(certificate_file, "CA certificate")
            key = read_key(key_file, "CA key")
        except PemFault as fault:
            raise AuthorityError(
                f"{fault}. Restore the file from your backup; `mesh init --force` makes a new CA instead, after "
                "which every node needs new files"
            ) from fault
        certificate = certificates[0]
        if certificate.public_key() != key.public_key():
            raise AuthorityError(f"CA key {key_file} does not belong to CA certificate {certificate_file}")
        examined = examine_signer(certificate, now_unix=now_unix)
        if examined.refusals:
            raise AuthorityError(
                f"CA certificate {certificate_file}: {examined.refusals[0].detail}. "
                "A new CA is made with `mesh init --force`, after which every node needs new files"
            )
        if examined.spiffe_id is None:
            raise AuthorityError(
                f"CA certificate {certificate_file} names no trust domain (no URI name spiffe://<domain>): "
                "it was not made by `mesh init`"
            )
        return cls(folder, examined.spiffe_id.trust_domain, certificate, key)

    def issue(self, node: NodeId, *, now_unix: float, life_s: float = NODE_LIFE_S, new_key: bool = False) -> IssuedNode:
        """Write the folder of `node`, or renew the certificate in it. A key that is there stays, unless
        `new_key`."""
        if fault := node_id_fault(node):
            raise AuthorityError(f"node id {fault}")
        if node in (CA_CERTIFICATE, CA_KEY):
            raise AuthorityError(f"node id {node!r} is the name of a file of the CA's folder; take another")
        folder = self.folder / node
        try:
            with locked_folder(self.folder):
                make_folder(folder)
                renewed = (folder / NODE_CERTIFICATE).exists()
                keep_key = (folder / NODE_KEY).exists() and not new_key
                key = read_key(folder / NODE_KEY, "key") if keep_key else _generate_key()
                certificate = self._sign(node, key, now_unix, life_s)
                if not keep_key:
                    write_file(folder / NODE_KEY, _private_pem(key), KEY_MODE)
                ca_pem = self.certificate.public_bytes(Encoding.PEM)
                write_file(folder / CA_CERTIFICATE, ca_pem, CERTIFICATE_MODE)
                node_pem = certificate.public_bytes(Encoding.PEM)
                write_file(folder / NODE_CERTIFICATE, node_pem, CERTIFICATE_MODE)
        except (PemFault, OSError) as error:
            raise AuthorityError(
                f"cannot issue a certificate for node {node}: {error}. A key that is lost or unusable is "
                f"replaced with `mesh ca renew --dir {self.folder} --node {node} --new-key`"
            ) from error
        return IssuedNode(
            node=node,
            spiffe_id=str(node_spiffe_id(self.trust_domain, node)),
            folder=folder,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            renewed=renewed,
            new_key=not keep_key,
            cut_short=now_unix + life_s >= self.not_after + 1.0,
        )

    def _sign(self, node: NodeId, key: Key, now_unix: float, life_s: float) -> x509.Certificate:
        assert life_s > 0
        uri = str(node_spiffe_id(self.trust_domain, node))
        certificate = (
            _builder(_subject(node), self.certificate.subject, key, now_unix, min(now_unix + life_s, self.not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(_issuer_key_identifier(self.certificate, self._key), critical=False)
            .sign(self._key, _digest(self._key))
        )
        # Checked before it is written: a kept key may be one that the rules refuse.
        refusals = examine_leaf(certificate, now_unix=now_unix).refusals
        if refusals:
            raise PemFault(f"the certificate would be refused: {refusals[0].detail}")
        return certificate


_ORGANISATION = (x509.NameAttribute(NameOID.ORGANIZATION_NAME, "infermesh"),)


def _subject(node: NodeId) -> x509.Name:
    """For people who read certificates; identity is the SPIFFE id. An id too long for a common name is left out."""
    if len(node) > _COMMON_NAME_CHARS_MAX:
        return x509.Name(_ORGANISATION)
    return x509.Name([*_ORGANISATION, x509.NameAttribute(NameOID.COMMON_NAME, node)])


def _check_folder(folder: Path) -> None:
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o002:
        raise PemFault(f"everyone may write into {folder} (mode {mode:04o}): run `chmod 700 {folder}`")


def _generate_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _sign_itself(key: Key, trust_domain: str, now_unix: float, life_s: float) -> x509.Certificate:
    # The name holds the key's fingerprint, so that a new CA and the one it replaced are told apart.
    fingerprint = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    name = x509.Name([*_ORGANISATION, x509.NameAttribute(NameOID.COMMON_NAME, f"infermesh CA {fingerprint}")])
    domain_id = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        _builder(name, name, key, now_unix, now_unix + life_s)
        # It signs nodes and no further CA: a stolen node key can sign nothing.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([domain_id]), critical=False)
        .sign(key, _digest(key))
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, now_unix: float, not_after: float
) -> x509.CertificateBuilder:
    public_key = key.public_key()
    begin = datetime.fromtimestamp(int(now_unix), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(seconds=BACKDATE_S))
        .not_valid_after(datetime.fromtimestamp(int(not_after), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key_identifier(issuer: x509.Certificate, key: Key) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _digest(key: Key) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _private_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
