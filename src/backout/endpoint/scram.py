"""The server's half of SCRAM-SHA-256, for one user with one password that was made for this run.

Source: RFC 5802, RFC 7677; manual 55.3.1. Channel binding is not offered: the connection is loopback and in clear.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets

MECHANISM = "SCRAM-SHA-256"
_ITERATIONS = 4096


class Refused(Exception):
    """The client does not know the password, or does not speak SCRAM."""


class Exchange:
    """One client's log-in: `first` answers its first message, `final` its second."""

    def __init__(self, password: str) -> None:
        self._salt = os.urandom(16)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), self._salt, _ITERATIONS)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        self._stored_key = hashlib.sha256(client_key).digest()
        self._server_key = hmac.digest(salted, b"Server Key", "sha256")
        self._first = b""
        self._nonce = b""
        self._bare = b""
        self._header = b""

    def first(self, said: bytes) -> bytes:
        """Answer `n,,n=user,r=nonce`."""
        parts = said.split(b",", 2)
        if len(parts) != 3 or parts[0] not in (b"n", b"y"):
            raise Refused("channel binding is not offered")
        self._header, self._bare = b",".join(parts[:2]) + b",", parts[2]
        nonce = _attributes(self._bare).get(b"r")
        if not nonce:
            raise Refused("no nonce")
        self._nonce = nonce + base64.b64encode(secrets.token_bytes(18))
        self._first = b"r=%s,s=%s,i=%d" % (self._nonce, base64.b64encode(self._salt), _ITERATIONS)
        return self._first

    def final(self, said: bytes) -> bytes:
        """Check the proof in `c=…,r=…,p=…`, and answer with the server's own."""
        without, _, proof = said.rpartition(b",p=")
        found = _attributes(without)
        if found.get(b"r") != self._nonce or found.get(b"c") != base64.b64encode(self._header):
            raise Refused("another exchange")
        signed = self._bare + b"," + self._first + b"," + without
        signature = hmac.digest(self._stored_key, signed, "sha256")
        try:
            given = base64.b64decode(proof, validate=True)
        except ValueError:
            raise Refused("no proof") from None
        key = bytes(one ^ other for one, other in zip(given, signature, strict=False))
        if len(given) != len(signature) or not hmac.compare_digest(hashlib.sha256(key).digest(), self._stored_key):
            raise Refused("wrong password")
        return b"v=" + base64.b64encode(hmac.digest(self._server_key, signed, "sha256"))


def _attributes(said: bytes) -> dict[bytes, bytes]:
    pairs = (part.partition(b"=") for part in said.split(b","))
    return {name: value for name, _, value in pairs}
