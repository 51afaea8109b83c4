"""Certificates for servers and clients in tests, made by the openssl command: an authority, and what it has signed.

Not for: anything that lasts; each is good for two days.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


def has_openssl() -> bool:
    """Whether the command is on this machine."""
    return shutil.which("openssl") is not None


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, in two files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Somebody whose signature can be trusted."""

    folder: Path
    own: Certificate

    @property
    def root(self) -> Path:
        """What `sslrootcert` is."""
        return self.own.certificate

    def sign(self, name: str, subject: str, alternative: str | None = None) -> Certificate:
        """A certificate for `subject` ("localhost"), also for `alternative` ("DNS:localhost,IP:127.0.0.1")."""
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        _openssl("req", "-new", "-nodes", *_key(made), "-subj", f"/CN={subject}", "-out", str(request))
        more = self.folder / f"{name}.ext"
        more.write_text(f"subjectAltName={alternative}\n" if alternative else "basicConstraints=CA:FALSE\n")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.root), "-CAkey", str(self.own.key), "-CAcreateserial",
            "-days", "2", "-extfile", str(more), "-out", str(made.certificate),
        )  # fmt: skip
        made.key.chmod(0o600)
        return made

    def revoke(self, *revoked: Certificate) -> Path:
        """A list of what it does not stand by any more; what `sslcrl` is."""
        (self.folder / "index.txt").touch()
        (self.folder / "crlnumber").write_text("01\n")
        config, made = self.folder / "ca.cnf", self.folder / "root.crl"
        config.write_text(
            f"[ca]\ndefault_ca=one\n[one]\ndatabase={self.folder}/index.txt\ncrlnumber={self.folder}/crlnumber\n"
            "default_md=sha256\ndefault_crl_days=2\n"
        )
        who = ("-config", str(config), "-cert", str(self.root), "-keyfile", str(self.own.key))
        for one in revoked:
            _openssl("ca", *who, "-revoke", str(one.certificate))
        _openssl("ca", *who, "-gencrl", "-out", str(made))
        return made


def authority(folder: Path, name: str) -> Authority:
    """A new one."""
    folder.mkdir(exist_ok=True)
    own = Certificate(folder / "root.crt", folder / "root.key")
    _openssl(
        "req", "-new", "-x509", "-nodes", *_key(own), "-subj", f"/CN={name}", "-days", "2", "-out", str(own.certificate)
    )
    return Authority(folder, own)


def _key(made: Certificate) -> tuple[str, ...]:
    return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(made.key)


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
