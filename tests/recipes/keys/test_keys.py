"""Keys and peer ids: libp2p's formats, signatures bound to their purpose, private files."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from recipes.errors import IdentityError, StorageError
from recipes.formats.files import write_atomic
from recipes.keys.keys import PeerId, SigningKey, load_or_create_key, public_key, verify


def test_a_key_file_and_its_peer_id_are_those_of_the_libp2p_specification() -> None:
    # The Ed25519 test vector of libp2p's peer-ids specification.
    content = bytes.fromhex(
        "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
    key = SigningKey.from_file_bytes(content)
    assert key.file_bytes() == content
    public = public_key(key.peer_id)
    assert public is not None
    assert public.hex() == "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    assert key.peer_id.startswith("12D3Koo")


def test_a_signature_holds_for_its_author_purpose_and_body_alone() -> None:
    key, other = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    signature = key.sign("claim", b"body")
    assert verify(key.peer_id, "claim", b"body", signature)
    assert not verify(other.peer_id, "claim", b"body", signature)
    assert not verify(key.peer_id, "block", b"body", signature)
    assert not verify(key.peer_id, "claim", b"bodY", signature)
    assert not verify(key.peer_id, "claim", b"body", signature[:-1])


@pytest.mark.parametrize(
    "signature",
    [
        "cef0f9ae474b7168fa512dbcdc266409f2b7b2d66db022481fdfc98b9b211a6a"  # R + a point of order 2
        "1f01b31923e3825456f80ba802d4bfb2e57eb96b9ed717b600f97baeb9feb20a",
        "6d329dfbce0f893cfbee26ea925e6c6f95a5c22653bbdf0c910e2791ab8d97ac"  # R + a point of order 8
        "25c329aa90bba40e60a267c91c3c077354713f289574303c2bd429239f71a001",
    ],
)
def test_both_libraries_refuse_what_only_holds_times_eight(signature: str) -> None:
    # Made for this test: [8]sB = [8](R + hA), but sB is not R + hA. RFC 8032 allows both checks.
    public = bytes.fromhex("39c214c260900d012cbc8329bd325d9f9bcd80720c5a69cdbbcd3c7fd2086621")
    with pytest.raises(BadSignatureError):
        crypto_sign_open(bytes.fromhex(signature) + b"hello", public)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), b"hello")


def test_openssl_has_the_last_word_on_what_libsodium_refuses() -> None:
    # Whoever has the key can take the neutral element for R, by the nonce 0: s is then h times the key.
    key = SigningKey(bytes(32))
    neutral, content = bytes([1]) + bytes(31), b"manyhands/1/claim\x00body"
    public = public_key(key.peer_id)
    assert public is not None
    secret = int.from_bytes(hashlib.sha512(bytes(32)).digest()[:32], "little") & (1 << 254) - 8 | 1 << 254
    h = int.from_bytes(hashlib.sha512(neutral + public + content).digest(), "little")
    signature = neutral + (h * secret % (2**252 + 27742317777372353535851937790883648493)).to_bytes(
        32, "little"
    )
    with pytest.raises(BadSignatureError):
        crypto_sign_open(signature + content, public)
    assert verify(key.peer_id, "claim", b"body", signature)


@pytest.mark.parametrize(
    "peer", ["", "12D3Koo", "0OIl", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "é"]
)
def test_what_holds_no_ed25519_key_verifies_nothing(peer: str) -> None:
    assert public_key(PeerId(peer)) is None
    assert not verify(PeerId(peer), "claim", b"", bytes(64))


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.key"
    key = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path).peer_id == key.peer_id


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    load_or_create_key(path)
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_or_create_key(path)


@pytest.mark.parametrize("damage", [b"", b"x" * 68, None])
def test_a_damaged_key_file_is_refused_and_left_as_it_is(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "identity.key"
    if damage is None:  # its public half is another key's
        damage = SigningKey(bytes(32)).file_bytes()[:36] + bytes(32)
    write_atomic(path, damage, mode=0o600)
    with pytest.raises(IdentityError, match=r"identity\.key"):
        load_or_create_key(path)
    assert path.read_bytes() == damage


def test_a_write_is_on_disk_with_its_name_and_the_folders_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "newer" / "file"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, path.exists())))
    write_atomic(path, b"content")
    inodes = [path.stat().st_ino, *(folder.stat().st_ino for folder in list(path.parents)[:3])]
    assert [inode for inode, _ in synced] == inodes
    assert [named for _, named in synced] == [False, True, True, True]
    synced.clear()
    write_atomic(path, b"again")
    assert [inode for inode, _ in synced] == [path.stat().st_ino, path.parent.stat().st_ino]


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
