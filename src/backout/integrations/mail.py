"""E-mail by SMTP with STARTTLS; each recipient's answer for itself.

Not for: trying again (`deliver`). Invariant: without STARTTLS nothing is said, unless the channel is for a server on this
machine and says so; the password is in no text.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

from backout.integrations.deadline import deadline
from backout.integrations.model import Answer, Channel, Message


def as_mail(message: Message, channel: Channel, at: datetime) -> EmailMessage:
    """The message with its head; `Auto-Submitted` keeps absence notices from answering (RFC 3834)."""
    mail = EmailMessage()
    mail["From"] = channel.sender
    mail["To"] = ", ".join(channel.recipients)
    mail["Subject"] = " ".join(message.subject.split())
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = make_msgid(idstring=message.sha256[:16], domain=channel.sender.rpartition("@")[2] or None)
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Backout-Event"] = message.event
    mail.set_content(message.text)
    return mail


def send(
    message: Message, channel: Channel, password: str | None, recipients: Sequence[str], at: datetime
) -> Mapping[str, Answer]:
    """Send it to these recipients in one session; says of each what the server answered."""
    timeout_s = channel.timeout.total_seconds()
    server: list[smtplib.SMTP] = []
    with deadline(timeout_s, lambda: server[0].sock if server else None) as limit:
        try:
            connection = smtplib.SMTP(timeout=timeout_s)
            server.append(connection)
            connection.connect(channel.host, channel.port)
            connection._host = channel.host  # type: ignore[attr-defined]  # noqa: SLF001  what starttls checks the certificate for
            return _said(connection, as_mail(message, channel, at), channel, password, recipients)
        except (OSError, smtplib.SMTPException) as error:
            late = limit.passed or isinstance(error, TimeoutError)
            answer = (
                Answer(delivered=False, text=f"no answer within {timeout_s:g} s", again=True)
                if late
                else _answer(error)
            )
            return dict.fromkeys(recipients, answer)
        finally:
            for one in server:
                one.close()


def _said(
    server: smtplib.SMTP, mail: EmailMessage, channel: Channel, password: str | None, recipients: Sequence[str]
) -> Mapping[str, Answer]:
    if channel.starttls:
        server.starttls(context=ssl.create_default_context(cafile=channel.ca_file))
    if channel.user is not None:
        server.login(channel.user, password or "")
    try:
        refused = server.send_message(mail, channel.sender, list(recipients))
    except smtplib.SMTPRecipientsRefused as error:
        refused = error.recipients
    answers = {}
    for recipient in recipients:
        code, text = refused.get(recipient, (250, b"OK"))
        answers[recipient] = Answer(code == 250, _shown(code, text), again=400 <= code < 500)
    return answers


def _answer(error: BaseException) -> Answer:
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Answer(delivered=False, text="the server has no STARTTLS, or not the login that is asked for")
    if isinstance(error, smtplib.SMTPAuthenticationError):  # its text can quote what was sent
        return Answer(delivered=False, text=f"{error.smtp_code}: the login was refused")
    if isinstance(error, smtplib.SMTPResponseException):
        return Answer(
            delivered=False, text=_shown(error.smtp_code, error.smtp_error), again=400 <= error.smtp_code < 500
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Answer(delivered=False, text="its certificate is not one that this machine trusts")
    reason = getattr(error, "strerror", None)
    return Answer(
        delivered=False,
        text=str(reason).lower() if reason else f"the connection failed ({type(error).__name__})",
        again=True,
    )


def _shown(code: int, text: bytes | str) -> str:
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    return " ".join(f"{code} {said}".split())[:200]
