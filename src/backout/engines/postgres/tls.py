"""TLS to the server as libpq does it, for a connection of our own: what it asks of certificates, and the handshake.

The settings are those of a session of libpq's that is open: it has read the URL, the environment, the service file and
the password file, and has judged the server's certificate itself. Here the same is asked once more, at least as strictly.
What cannot be is refused.

Sources: manual 32.1.2 (`sslmode` and the rest), 32.19 (certificates), 55.2.10 (SSLRequest), and fe-secure-openssl.c of
libpq 18 where the manual is silent.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backout.errors import Refused

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_CONNECT_S = 30.0  # where `connect_timeout` does not say; libpq's own is the operating system's, which can be minutes
_VERSIONS = {"tlsv1.2": ssl.TLSVersion.TLSv1_2, "tlsv1.3": ssl.TLSVersion.TLSv1_3}
_SYSTEM = "system"  # as `sslrootcert`: the certificates that the system trusts, with verify-full (libpq 16)
_PROTOCOL = "postgresql"  # for ALPN, registered with IANA


@dataclass(frozen=True)
class Server:
    """Where a session of libpq's is, as whom that is known, and with which settings it went there."""

    address: str  # an IP address
    port: int
    settings: Mapping[str, str]  # libpq's; absent: not set

    @property
    def host(self) -> str:
        """The name that the certificate must be for."""
        return self.settings.get("host", "")

    @property
    def mode(self) -> str:
        """`sslmode`, in effect."""
        return "verify-full" if self.settings.get("sslrootcert") == _SYSTEM else self.settings.get("sslmode", "prefer")


def connect(server: Server) -> ssl.SSLSocket:
    """A TLS connection, before the first message of the protocol. Raises Refused where it cannot be had."""
    try:
        context = context_for(server)
        plain = socket.create_connection((server.address, server.port), _patience_s(server))
    except (OSError, ValueError) as error:
        raise _failed(server, error) from None
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(server.settings.get("keepalives", "1") != "0"))
        is_direct = server.settings.get("sslnegotiation") == "direct"
        if not is_direct:
            _ask_for_tls(plain)
        secured = context.wrap_socket(plain, server_hostname=_name_to_send(server))
        if is_direct and secured.selected_alpn_protocol() != _PROTOCOL:
            raise ConnectionError("the server did not say that it speaks PostgreSQL's protocol")
    except (OSError, ValueError) as error:
        plain.close()
        raise _failed(server, error) from None
    return secured


def _ask_for_tls(plain: socket.socket) -> None:
    """One byte is read and no more: whatever somebody has put behind it in clear is taken for TLS, and fails."""
    plain.sendall(_SSL_REQUEST)
    answer = plain.recv(1)
    if answer != b"S":
        raise ConnectionError("it does not do TLS" if answer == b"N" else "it did not answer whether it does TLS")


def context_for(server: Server) -> ssl.SSLContext:
    """What is asked of the server's certificate, and what is shown of ours. Raises OSError or ValueError."""
    settings, mode = server.settings, server.mode
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"  # before the other: this one needs it
    context.verify_mode = ssl.CERT_REQUIRED if _trust(context, settings, mode) else ssl.CERT_NONE
    least, most = (settings.get(f"ssl_{end}_protocol_version", "").lower() for end in ("min", "max"))
    context.minimum_version = _VERSIONS.get(least, ssl.TLSVersion.TLSv1_2)  # older ones are not spoken here
    if most:
        context.maximum_version = _VERSIONS[most]
    context.set_alpn_protocols([_PROTOCOL])
    _show_own(context, settings)
    if mode == "verify-full" and not server.host:
        raise ValueError("verify-full needs the name of the host, and there is only an address (hostaddr)")
    return context


def _trust(context: ssl.SSLContext, settings: Mapping[str, str], mode: str) -> bool:
    """Whose signature counts; False: nothing is verified.

    Where there is a root certificate it is used whatever the mode: "if a root CA file exists, the behavior of
    sslmode=require will be the same as that of verify-ca" (manual 32.19.1).
    """
    root = settings.get("sslrootcert") or _of_home("root.crt")
    if root == _SYSTEM:
        context.set_default_verify_paths()
    elif Path(root).exists():
        context.load_verify_locations(cafile=root)
    elif mode.startswith("verify"):
        raise FileNotFoundError(f'the root certificate "{root}" is not there')
    else:
        return False
    revoked, folder = settings.get("sslcrl"), settings.get("sslcrldir")
    if not revoked and not folder and Path(_of_home("root.crl")).exists():
        revoked = _of_home("root.crl")
    if revoked or folder:
        context.load_verify_locations(cafile=revoked or None, capath=folder or None)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return True


def _show_own(context: ssl.SSLContext, settings: Mapping[str, str]) -> None:
    """The client's certificate, where there is one. That its key is nobody else's to read, libpq has looked at."""
    certificate = settings.get("sslcert") or _of_home("postgresql.crt")
    if settings.get("sslcertmode") == "disable" or not Path(certificate).exists():
        return
    key = settings.get("sslkey") or _of_home("postgresql.key")
    # A function: without one OpenSSL would ask at the terminal.
    context.load_cert_chain(certificate, key, password=lambda: settings.get("sslpassword", ""))


def _of_home(name: str) -> str:
    return str(Path("~/.postgresql").expanduser() / name)


def _name_to_send(server: Server) -> str | None:
    """The name in the handshake, which is also the one that is verified; none for an address that is not verified."""
    if server.mode == "verify-full":
        return server.host
    return None if server.settings.get("sslsni") == "0" or not server.host or _is_address(server.host) else server.host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _patience_s(server: Server) -> float:
    wanted = server.settings.get("connect_timeout", "")
    return float(wanted) if wanted.isdigit() and int(wanted) > 0 else _CONNECT_S


def objection(server: Server) -> tuple[str, str] | None:
    """What its settings ask for that is not done here, and a hint; None: nothing.

    To libpq the connection is in clear, so that the password exchange is not bound to the certificate
    (SCRAM-SHA-256-PLUS). Without `require_auth` that loses nothing which libpq's own `prefer` has: whoever is in between
    can ask for the password in clear (manual 32.1.2, `channel_binding`, `require_auth`).
    """
    settings = server.settings
    if settings.get("channel_binding") == "require":
        return (
            "channel_binding=require binds the password exchange to TLS, which libpq does not do here itself",
            "sslmode=verify-full keeps out whoever is in between; take channel_binding out for it",
        )
    if settings.get("require_auth") and server.mode != "verify-full":
        return (
            "require_auth keeps out whoever is in between by channel binding, which is not possible here",
            "say sslmode=verify-full and sslrootcert=…",
        )
    if settings.get("sslcertmode") == "require":
        return "sslcertmode=require cannot be watched over here", "take it out; the server asks for what it needs"
    if ":" in (settings.get("sslkey") or ""):
        return "the key is in a device (sslkey=engine:…), which libpq alone can use", "use a key in a file"
    if settings.get("ssl_max_protocol_version", "TLSv1.3").lower() not in _VERSIONS:
        return "TLS before 1.2 is not spoken here", "take ssl_max_protocol_version out"
    if settings.get("sslsni") == "0" and server.mode == "verify-full":
        return "sslsni=0 is not possible together with verify-full here", "take sslsni out"
    return None


def _failed(server: Server, error: Exception) -> Refused:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not accepted: {error.verify_message.lower()}"
    elif isinstance(error, ssl.SSLError):
        why = (error.reason or "the handshake failed").lower().replace("_", " ")
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror.lower()
    else:
        why = str(error) or type(error).__name__
    return Refused(
        "endpoint", f'no TLS connection to "{server.host or server.address}" for the program\'s session: {why}',
        hint="psql with the same url and sslmode shows what libpq says of it",
    )  # fmt: skip
