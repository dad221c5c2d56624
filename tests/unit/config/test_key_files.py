"""Key files are PKCS8 as the rest of the world reads it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cocoon_p2p.key_files import SCRYPT_N, KeyUnreadable, decode_key, encode_key, is_encrypted

SEED = bytes(range(32))


@pytest.mark.parametrize("passphrase", [None, b"x", "pässphräse".encode(), b"z" * 1023])
def test_round_trip(passphrase: bytes | None) -> None:
    pem = encode_key(SEED, passphrase)
    assert is_encrypted(pem) == (passphrase is not None)
    assert decode_key(pem, passphrase) == SEED


def test_each_file_is_encrypted_differently() -> None:
    assert encode_key(SEED, b"x") != encode_key(SEED, b"x")


def test_the_wrong_passphrase() -> None:
    pem = encode_key(SEED, b"right")
    for wrong in (b"wrong", None, b""):
        with pytest.raises(KeyUnreadable, match="passphrase is wrong"):
            decode_key(pem, wrong)


def test_damage_anywhere_is_noticed() -> None:
    for pem, passphrase in ((encode_key(SEED, None), None), (encode_key(SEED, b"x"), b"x")):
        for cut in (0, 10, len(pem) // 2, len(pem) - 20):
            with pytest.raises(KeyUnreadable):
                decode_key(pem[:cut], passphrase)


def test_a_key_of_another_kind() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(KeyUnreadable, match="another kind"):
        decode_key(pem, None)


def test_files_that_other_programs_encrypted_are_read() -> None:
    pem = Ed25519PrivateKey.from_private_bytes(SEED).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    assert decode_key(pem, b"x") == SEED


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")
def test_openssl_reads_our_files(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(encode_key(SEED, b"open sesame"))
    command = ["openssl", "pkey", "-in", str(file), "-passin", "env:WORD", "-outform", "DER"]
    read = subprocess.run(command, env=os.environ | {"WORD": "open sesame"}, capture_output=True, check=True)
    assert read.stdout.endswith(SEED)
    shown = subprocess.run(["openssl", "asn1parse", "-in", str(file)], capture_output=True, check=True, text=True)
    assert f"{SCRYPT_N:X}" in shown.stdout
    assert "scrypt" in shown.stdout
