"""Files of certificates and keys: limits, permissions, atomic writing, and no key in any message."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from infermesh.node.pem import (
    FILE_BYTES_MAX,
    PemFault,
    locked_folder,
    make_folder,
    read_certificates,
    read_key,
    write_file,
)
from infermesh.testing.certificates import TrustDomain

NOBODY_UID = 65_534


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _key_pem(password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter: pytest's own may be entered by its owner only."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def _ordinary_user() -> Iterator[None]:
    """Root may read everything; a test of permissions needs somebody who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY_UID)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_is_told_with_user_owner_and_mode(open_folder: Path) -> None:
    key = open_folder / "node.key"
    key.write_bytes(_key_pem())
    key.chmod(0o000)
    owner = os.geteuid()
    with _ordinary_user(), pytest.raises(PemFault) as fault:
        read_key(key, "key")
    reader = owner or NOBODY_UID
    assert str(fault.value) == (
        f"key {key} cannot be read by uid {reader} (owner uid {owner}, mode 0000): chown it to that user"
    )


def test_a_folder_that_may_not_be_entered_is_told(open_folder: Path) -> None:
    inner = open_folder / "inner"
    inner.mkdir(mode=0o000)
    with _ordinary_user(), pytest.raises(PemFault, match=r"cannot be read by uid \d+ \(nor its folder\)"):
        read_key(inner / "node.key", "key")
    inner.chmod(0o700)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o777, 0o610])
def test_a_key_that_others_may_use_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "node.key"
    write_file(key, _key_pem(), mode)
    with pytest.raises(PemFault) as fault:
        read_key(key, "key")
    assert f"mode {mode:04o}, allowed 0600" in str(fault.value)
    assert f"chmod 600 {key}" in str(fault.value)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_for_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "node.key"
    write_file(key, _key_pem(), mode)
    assert read_key(key, "key")


def test_a_missing_file_is_told_by_its_role_and_path(tmp_path: Path) -> None:
    with pytest.raises(PemFault, match=f"CA file {tmp_path}/ca.pem does not exist"):
        read_certificates(tmp_path / "ca.pem", "CA file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hello", "is not a PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a PEM certificate"),
        (b"\x30\x82\x01\x00" + bytes(range(256)), "is not a PEM certificate"),
        (b"x" * (FILE_BYTES_MAX + 1), f"is larger than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_a_file_that_holds_no_certificate_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "node.pem"
    write_file(file, content, 0o644)
    with pytest.raises(PemFault, match=words):
        read_certificates(file, "certificate")


def test_things_that_are_no_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(PemFault, match=r"is not a regular file|cannot be read"):
            read_certificates(tmp_path / name, "certificate")


def test_a_key_in_the_place_of_a_certificate_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "node.pem"
    pem = _key_pem()
    write_file(file, pem, 0o600)
    with pytest.raises(PemFault, match="holds a private key where a certificate must be") as fault:
        read_certificates(file, "certificate")
    assert pem.splitlines()[1].decode()[:16] not in str(fault.value)


@pytest.mark.parametrize("damage", ["cut", "garbled", "certificate", "text"])
def test_a_file_that_holds_no_key_is_refused_without_quoting_it(tmp_path: Path, damage: str) -> None:
    secret = _key_pem()
    content = {
        "cut": secret[:60],
        "garbled": secret.replace(b"M", b"!"),
        "certificate": TrustDomain(tmp_path).ca_file.read_bytes(),
        "text": b"hunter2",
    }[damage]
    file = tmp_path / "node.key"
    write_file(file, content, 0o600)
    with pytest.raises(PemFault, match=r"is not a PEM private key \(\d+ bytes\)") as fault:
        read_key(file, "key")
    assert "hunter2" not in str(fault.value)
    assert secret.splitlines()[1].decode()[:16] not in str(fault.value)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    write_file(file, _key_pem(b"secret"), 0o600)
    with pytest.raises(PemFault, match="is encrypted; a daemon has nobody to ask"):
        read_key(file, "key")


def test_a_key_that_cannot_sign_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    key = x25519.X25519PrivateKey.generate()
    write_file(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    with pytest.raises(PemFault, match="of a kind that is not used here"):
        read_key(file, "key")


def test_a_bundle_gives_all_its_certificates_in_order(tmp_path: Path) -> None:
    one, two = TrustDomain(tmp_path / "one"), TrustDomain(tmp_path / "two")
    bundle = tmp_path / "ca.pem"
    write_file(bundle, one.ca_file.read_bytes() + two.ca_file.read_bytes(), 0o644)
    assert read_certificates(bundle, "CA file") == [one.authority.certificate, two.authority.certificate]


def test_too_many_certificates_in_one_file_are_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    write_file(bundle, TrustDomain(tmp_path).ca_file.read_bytes() * 65, 0o644)
    with pytest.raises(PemFault, match="holds 65 certificates, more than 64"):
        read_certificates(bundle, "CA file")


def test_a_file_is_written_whole_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        write_file(tmp_path / "a", b"one", 0o600)
        write_file(tmp_path / "b", b"two", 0o644)
    finally:
        os.umask(before)
    assert (_mode(tmp_path / "a"), _mode(tmp_path / "b")) == (0o600, 0o644)
    write_file(tmp_path / "a", b"three", 0o600)
    assert (tmp_path / "a").read_bytes() == b"three"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    # A folder in the way: the new content is complete when the rename fails.
    (tmp_path / "a" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path / "a", b"new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "node.key").symlink_to(tmp_path / "victim")
    write_file(tmp_path / "node.key", b"key", 0o600)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "node.key").is_symlink()


def test_a_new_folder_is_for_its_owner_alone_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "deep")
    assert _mode(tmp_path / "new" / "deep") == 0o700
    (tmp_path / "new" / "deep").chmod(0o750)
    make_folder(tmp_path / "new" / "deep")
    assert _mode(tmp_path / "new" / "deep") == 0o750


def test_only_one_command_writes_into_a_folder_at_a_time(tmp_path: Path) -> None:
    busy = pytest.raises(PemFault, match="in use by another mesh command")
    with locked_folder(tmp_path), busy, locked_folder(tmp_path):
        raise AssertionError("two writers")
    with locked_folder(tmp_path):
        pass
