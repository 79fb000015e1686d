"""Certificate and key files: read with limits and with a fault that says what was seen, written atomically.

Not a judge of what the files mean: `node/identity` and `node/authority` are. No message of this module holds
file content, so a key can never end up in a log through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from infermesh.core.trust.svid import PARSE_ERRORS

FILE_BYTES_MAX = 262_144  # A bundle of CAs during a rotation is a few KB.
CERTIFICATES_MAX = 64  # In one file.
KEY_MODE = 0o600
CERTIFICATE_MODE = 0o644  # Public by nature, and copied between machines by people.
FOLDER_MODE = 0o700

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class PemFault(Exception):
    """A file cannot be used. The message names the file and what was seen; the caller adds what to do."""


def read_certificates(path: Path, what: str) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. `what` is the file's role in words ("CA file")."""
    content, _ = _read(path, what)
    if b"PRIVATE KEY-----" in content and b"-----BEGIN CERTIFICATE-----" not in content:
        raise PemFault(f"{what} {path} holds a private key where a certificate must be")
    try:
        certificates = x509.load_pem_x509_certificates(content)
    except PARSE_ERRORS as error:
        raise PemFault(f"{what} {path} is not a PEM certificate ({error}; {len(content)} bytes)") from error
    if len(certificates) > CERTIFICATES_MAX:
        raise PemFault(f"{what} {path} holds {len(certificates)} certificates, more than {CERTIFICATES_MAX}")
    return certificates


def read_key(path: Path, what: str) -> Key:
    """A private key that nobody but its owner may read."""
    content, mode = _read(path, what)
    if mode & 0o077:
        raise PemFault(
            f"{what} {path} may be used by others (mode {mode:04o}, allowed {KEY_MODE:04o}): "
            f"run `chmod {KEY_MODE:o} {path}`, and take a new key if others had access"
        )
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise PemFault(f"{what} {path} is encrypted; a daemon has nobody to ask for the password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        # Without the parser's own words: some of them quote the input.
        raise PemFault(f"{what} {path} is not a PEM private key ({len(content)} bytes)") from error
    if not isinstance(key, Key):
        raise PemFault(f"{what} {path} is of a kind that is not used here ({type(key).__name__}): take ECDSA P-256")
    return key


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, also across a power cut: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # The umask may have taken bits from it.
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - beside its os.open and os.fsync
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create it (0700) and what is missing above it; an existing folder keeps its mode."""
    if not path.is_dir():
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """One writer at a time: two `mesh init` at once must not make two CAs."""
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, KEY_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PemFault(f"{folder} is in use by another mesh command; try again when it is done") from error
        yield
    finally:
        os.close(descriptor)


def _read(path: Path, what: str) -> tuple[bytes, int]:
    """Content and permission bits of the very file that was read, not of one that replaced it meanwhile."""
    try:
        # Not blocking: a FIFO in place of the file would hold the daemon's start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PemFault(f"{what} {path} is not a regular file")
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise PemFault(f"{what} {path} does not exist") from error
    except PermissionError as error:
        raise PemFault(f"{what} {path} cannot be read by uid {os.geteuid()}{_owner(path)}") from error
    except OSError as error:
        raise PemFault(f"{what} {path} cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise PemFault(f"{what} {path} is larger than {FILE_BYTES_MAX} bytes")
    if not content.strip():
        raise PemFault(f"{what} {path} is empty")
    return content, stat.S_IMODE(status.st_mode)


def _owner(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return " (nor its folder)"
    return f" (owner uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}): chown it to that user"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
