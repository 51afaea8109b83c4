"""Real servers on this machine that are told things: HTTP by the standard library, SMTP by aiosmtpd.

Not for: deciding what is right; they answer as a test asks, and keep what they got.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session


@dataclass
class WebListener:
    """A web server; `answers` are given one after the other, the last one for ever. None: it never answers."""

    answers: Sequence[tuple[int, dict[str, str]] | None] = ((200, {}),)
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # path, body
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)


@contextmanager
def web_listener(*answers: tuple[int, dict[str, str]] | None) -> Iterator[WebListener]:
    """Listen on a free port until the block ends."""
    listener = WebListener(answers or ((200, {}),))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listener.got.append((self.path, json.loads(body)))
            answer = listener.answers[min(len(listener.got), len(listener.answers)) - 1]
            if answer is None:
                listener.released.wait(60)
                return
            status, headers = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    listener.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield listener
    finally:
        listener.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def dripping_server(text: bytes, pause_s: float) -> Iterator[str]:
    """A server that sends one byte at a time, for ever: no read of it ever takes long."""
    ended = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)

    def serve(connection: socket.socket) -> None:
        with connection:
            for byte in text * 10_000:
                if ended.wait(pause_s):
                    return
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    return

    def accept() -> None:
        threads = []
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()
        for one in threads:
            one.join()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended.set()
        thread.join()
        listening.close()


@dataclass
class MailListener:
    """An SMTP server; `refuse` answers a recipient's address, one after the other. None: it takes the mail."""

    port: int = 0
    refuse: dict[str, list[str | None]] = field(default_factory=dict)
    got: list[tuple[list[str], str]] = field(default_factory=list)  # recipients, text
    logins: list[str] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answers = self.refuse.get(address, [])
        answer = answers.pop(0) if answers else None
        if answer is not None:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        self.got.append((list(envelope.rcpt_tos), content.decode()))
        return "250 OK"


@contextmanager
def mail_listener(certificate: Path | None = None, password: str | None = None) -> Iterator[MailListener]:
    """Listen on a free port until the block ends; with STARTTLS where there is a certificate."""
    listener = MailListener()
    options: dict[str, Any] = {}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        options |= {"tls_context": context, "require_starttls": True}
    if password is not None:

        def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
            listener.logins.append(data.login.decode())
            right = data.password.decode() == password
            return AuthResult(success=right, handled=False)

        options |= {"authenticator": authenticate, "auth_required": True}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        listener.port = probe.getsockname()[1]
    controller = Controller(listener, hostname="127.0.0.1", port=listener.port, **options)
    controller.start()
    try:
        yield listener
    finally:
        controller.stop()


def make_certificate(folder: Path) -> Path:
    """A certificate of this machine's own with its key, in one file."""
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    return both
