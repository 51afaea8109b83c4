"""A signature as OpenSSH writes it, taken apart, and verified in this process where it is of an ordinary key.

Not for: whose key it is (`plain_signers`), nor for saying that a signature is bad: None and False mean "ask ssh-keygen",
which knows certificates, keys of devices, and whatever comes. Invariant: what is good here is good for ssh-keygen.

Source: PROTOCOL.sshsig of OpenSSH; RFC 4253 6.6 and RFC 8332 (RSA), RFC 5656 3.1 (ECDSA), RFC 8709 (Ed25519) for keys
and signatures in their wire format. The arithmetic is OpenSSL's, through `cryptography`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ARMOUR = re.compile(r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)\n-----END SSH SIGNATURE-----\n?")
_HASHES: dict[bytes, Callable[[bytes], Any]] = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_LEAST_RSA_BITS = 2048  # ssh-keygen takes 1024; such a key may go on asking it


@dataclass(frozen=True)
class Sshsig:
    """One signature: of which key, under which namespace, over the message's digest by which hash."""

    public_key: bytes  # in its wire format, as in base64 in a `.pub` file
    namespace: bytes
    hash: bytes
    algorithm: bytes
    signature: bytes

    def signed_bytes(self, message: bytes) -> bytes:
        """What the key has signed: PROTOCOL.sshsig, 3."""
        digest = _HASHES[self.hash](message).digest()
        return b"SSHSIG" + b"".join(map(_string, (self.namespace, b"", self.hash, digest)))


class _Wire:
    """Reads strings of SSH's wire format; ValueError at the first thing that is not as it should be."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise ValueError("it ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4), "big"))

    def positive(self) -> int:
        """An mpint; those that matter here are positive, and written in the one shortest form."""
        data = self.string()
        number = int.from_bytes(data, "big")
        if number <= 0 or data != number.to_bytes(number.bit_length() // 8 + 1, "big"):
            raise ValueError("not a positive number")
        return number

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("something follows")


def parse(armoured: str) -> Sshsig | None:
    """The signature inside the armour; None where it is not of the plain form."""
    match = _ARMOUR.fullmatch(armoured)
    if match is None:
        return None
    try:
        wire = _Wire(base64.b64decode(match[1].replace("\n", ""), validate=True))
        if wire.take(6) != b"SSHSIG" or wire.take(4) != b"\0\0\0\1":
            return None
        key, namespace, reserved, hashed, signature = (wire.string() for _ in range(5))
        wire.end()
        inner = _Wire(signature)
        algorithm, raw = inner.string(), inner.string()
        inner.end()
    except ValueError:
        return None
    return None if reserved or hashed not in _HASHES else Sshsig(key, namespace, hashed, algorithm, raw)


def is_good(one: Sshsig, message: bytes) -> bool:
    """Whether the key inside has signed this message. False where that is not so, or not for us to say."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        key = _Wire(one.public_key)
        kind = key.string()
        verify = _KINDS.get(kind)
        if verify is None:
            return False
        verify(key, one, one.signed_bytes(message))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _ed25519(key: _Wire, one: Sshsig, data: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    point = key.string()
    key.end()
    _require(one.algorithm == b"ssh-ed25519")
    Ed25519PublicKey.from_public_bytes(point).verify(one.signature, data)


def _ecdsa(key: _Wire, one: Sshsig, data: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    name, point = key.string(), key.string()
    key.end()
    curves: dict[bytes, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
        b"nistp256": (ec.SECP256R1(), hashes.SHA256()),
        b"nistp384": (ec.SECP384R1(), hashes.SHA384()),
        b"nistp521": (ec.SECP521R1(), hashes.SHA512()),
    }
    _require(name in curves and one.algorithm == b"ecdsa-sha2-" + name and one.public_key[4:].startswith(one.algorithm))
    _require(point[:1] == b"\4")  # uncompressed, as OpenSSH has it
    numbers = _Wire(one.signature)
    r, s = numbers.positive(), numbers.positive()
    numbers.end()
    curve, hashed = curves[name]
    found = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    found.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(hashed))


def _rsa(key: _Wire, one: Sshsig, data: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    exponent, modulus = key.positive(), key.positive()
    key.end()
    used: dict[bytes, hashes.HashAlgorithm] = {b"rsa-sha2-256": hashes.SHA256(), b"rsa-sha2-512": hashes.SHA512()}
    _require(one.algorithm in used and modulus.bit_length() >= _LEAST_RSA_BITS)
    rsa.RSAPublicNumbers(exponent, modulus).public_key().verify(
        one.signature, data, padding.PKCS1v15(), used[one.algorithm]
    )


_KINDS: dict[bytes, Callable[[_Wire, Sshsig, bytes], None]] = {
    b"ssh-ed25519": _ed25519,
    b"ecdsa-sha2-nistp256": _ecdsa,
    b"ecdsa-sha2-nistp384": _ecdsa,
    b"ecdsa-sha2-nistp521": _ecdsa,
    b"ssh-rsa": _rsa,
}


def _require(is_so: object) -> None:
    if not is_so:
        raise ValueError("not of the plain form")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
