"""What is told arrives, or the receipt says why not; against real servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from email import message_from_string
from email.policy import default
from pathlib import Path

import pytest

from backout.integrations.deliver import deliver
from backout.integrations.model import Channel, Message, Receipt, Secret
from integration.announcements.listeners import (
    MailListener,
    dripping_server,
    mail_listener,
    make_certificate,
    web_listener,
)

MESSAGE = Message("announce", "[production] to be run: close", "It closes <all> & is not run before 09:00.", {"a": 1})
SECRET = "/services/T000/s3cret"


def told(channel: Channel, **variables: str) -> tuple[list[Receipt], list[float]]:
    """The receipts, and the pauses that were made."""
    pauses: list[float] = []
    return list(deliver(MESSAGE, [channel], variables, pauses.append)), pauses


def webhook(kind: str = "webhook", *, seconds: float = 5, attempts: int = 3) -> Channel:
    return Channel("dev-team", kind, Secret("HOOK"), timedelta(seconds=seconds), attempts)


def said(receipts: list[Receipt]) -> list[tuple[str, bool, str, int]]:
    return [(one.recipient, one.delivered, one.answer, one.attempts) for one in receipts]


# -- webhooks ----------------------------------------------------------------------------------------------------------


def test_a_webhook_is_posted_as_json() -> None:
    """With a receipt that says who, what, when, and the hash of the text."""
    with web_listener() as listener:
        receipts, pauses = told(webhook(), HOOK=listener.url + SECRET)
    text = {"event": "announce", "subject": MESSAGE.subject, "text": MESSAGE.text, "a": 1}
    assert listener.got == [(SECRET, text)]
    assert said(receipts) == [("dev-team", True, "200 OK", 1)]
    assert receipts[0].text_sha256 == MESSAGE.sha256
    assert receipts[0].event == "announce"
    assert pauses == []


def test_slack_gets_its_own_form() -> None:
    """One text, in which nothing can be taken for a link."""
    with web_listener() as listener:
        receipts, _ = told(webhook("slack"), HOOK=listener.url + SECRET)
    text = "*[production] to be run: close*\nIt closes &lt;all&gt; &amp; is not run before 09:00."
    assert listener.got == [(SECRET, {"text": text})]
    assert said(receipts) == [("dev-team", True, "200 OK", 1)]


def test_a_webhook_that_is_down_for_a_moment_is_asked_again() -> None:
    """With longer and longer pauses; a server's own wish counts, up to a bound."""
    with web_listener((503, {}), (429, {"Retry-After": "3"}), (500, {"Retry-After": "9999"}), (204, {})) as listener:
        receipts, pauses = told(webhook(attempts=4), HOOK=listener.url)
    assert said(receipts) == [("dev-team", True, "204 No Content", 4)]
    assert pauses == [0.5, 3.0, 10.0]
    assert len(listener.got) == 4


def test_attempts_end() -> None:
    """The receipt has the last answer."""
    with web_listener((503, {})) as listener:
        receipts, pauses = told(webhook(), HOOK=listener.url)
    assert said(receipts) == [("dev-team", False, "503 Service Unavailable", 3)]
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (403, "403 Forbidden"),
        (404, "404 Not Found"),
        (302, "302 Found: it redirects, and is not followed"),
    ],
)
def test_a_refusal_is_not_repeated(status: int, answer: str) -> None:
    """Nor is a redirection followed: the text would go somewhere else."""
    with web_listener() as elsewhere, web_listener((status, {"Location": elsewhere.url})) as listener:
        receipts, pauses = told(webhook(), HOOK=listener.url)
    assert said(receipts) == [("dev-team", False, answer, 1)]
    assert pauses == []
    assert elsewhere.got == []


def test_a_webhook_that_never_answers_is_given_up() -> None:
    """After its time-out, as often as the channel says."""
    with web_listener(None) as listener:
        receipts, _ = told(webhook(seconds=0.2, attempts=2), HOOK=listener.url)
    assert said(receipts) == [("dev-team", False, "no answer within 0.2 s", 2)]


def test_a_webhook_that_answers_one_byte_at_a_time_is_given_up() -> None:
    """The time-out is for the whole conversation, not for each byte of it."""
    with dripping_server(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000, 0.02) as place:
        receipts, _ = told(webhook(seconds=0.5, attempts=1), HOOK=f"http://{place}/")
    assert said(receipts) == [("dev-team", False, "no answer within 0.5 s", 1)]


def test_nobody_there_is_said_without_the_address() -> None:
    """It is a secret, in whatever error."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    receipts, _ = told(webhook(attempts=2), HOOK=f"http://127.0.0.1:{port}{SECRET}")
    assert said(receipts) == [("dev-team", False, "connection refused", 2)]


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("http://hooks.example.org/s3cret", "the address is http://, which would send in clear: use https://"),
        ("ftp://hooks.example.org/s3cret", "the address is not one that begins with https://"),
        ("http://127.0.0.1:notaport/s3cret", "the address is not one that begins with https://"),
        ("", "the variable HOOK is not set"),
    ],
)
def test_an_address_that_cannot_be_used_is_said_and_not_shown(address: str, answer: str) -> None:
    """Nothing is sent."""
    receipts, pauses = told(webhook(), HOOK=address)
    assert [(one.delivered, one.answer) for one in receipts] == [(False, answer)]
    assert "s3cret" not in repr(receipts)
    assert pauses == []


def test_one_channel_that_fails_keeps_no_other_from_being_told(tmp_path: Path) -> None:
    """Nor does one whose file with the address is not there."""
    with web_listener() as listener, web_listener(None) as silent:
        (tmp_path / "hook").write_text(f"{listener.url}\n")
        channels = [
            Channel("slow", "webhook", Secret("SLOW"), timedelta(seconds=0.2), 1),
            Channel("lost", "slack", Secret(file=tmp_path / "nowhere")),
            Channel("fine", "webhook", Secret(file=tmp_path / "hook")),
        ]
        receipts = deliver(MESSAGE, channels, {"SLOW": silent.url})
    assert [(one.channel, one.delivered) for one in receipts] == [("slow", False), ("lost", False), ("fine", True)]
    assert len(listener.got) == 1


# -- e-mail ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this machine's own."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(certificate: Path) -> Iterator[MailListener]:
    """An SMTP server with STARTTLS that asks for a login."""
    with mail_listener(certificate, "s3cret") as listener:
        yield listener


def mail(server: MailListener, certificate: Path | None, *recipients: str, attempts: int = 3) -> Channel:
    return Channel(
        "leads", "email", Secret("MAIL") if certificate else None, timedelta(seconds=5), attempts, host="localhost",
        port=server.port, starttls=certificate is not None, ca_file=certificate, user="backout" if certificate else None,
        sender="backout@example.org", recipients=recipients or ("ann@example.org", "bob@example.org"),
    )  # fmt: skip


def test_mail_goes_over_starttls_with_a_login(server: MailListener, certificate: Path) -> None:
    """One message to all, and a receipt for each."""
    receipts, _ = told(mail(server, certificate), MAIL="s3cret")
    assert said(receipts) == [("ann@example.org", True, "250 OK", 1), ("bob@example.org", True, "250 OK", 1)]
    ((recipients, text),) = server.got
    assert recipients == ["ann@example.org", "bob@example.org"]
    found = message_from_string(text, policy=default)
    assert found["Subject"] == MESSAGE.subject
    assert found["Auto-Submitted"] == "auto-generated"
    assert found.get_content().strip() == MESSAGE.text
    assert server.logins == ["backout"]


def test_a_recipient_who_is_refused_is_named_alone(server: MailListener, certificate: Path) -> None:
    """For good, or for now: only the one refused for now is tried again, alone."""
    server.refuse = {"bob@example.org": ["550 no such user"], "eve@example.org": ["451 try later", None]}
    channel = mail(server, certificate, "ann@example.org", "bob@example.org", "eve@example.org")
    receipts, pauses = told(channel, MAIL="s3cret")
    assert said(receipts) == [
        ("ann@example.org", True, "250 OK", 1),
        ("bob@example.org", False, "550 no such user", 1),
        ("eve@example.org", True, "250 OK", 2),
    ]
    assert [recipients for recipients, _ in server.got] == [["ann@example.org"], ["eve@example.org"]]
    assert pauses == [0.5]


def test_everybody_refused_is_no_error(server: MailListener, certificate: Path) -> None:
    """Each has a receipt."""
    server.refuse = {"ann@example.org": ["550 no"], "bob@example.org": ["550 never"]}
    receipts, _ = told(mail(server, certificate), MAIL="s3cret")
    assert said(receipts) == [("ann@example.org", False, "550 no", 1), ("bob@example.org", False, "550 never", 1)]


def test_a_wrong_password_is_said_and_not_shown(server: MailListener, certificate: Path) -> None:
    """Nothing is sent, and nothing is tried again."""
    receipts, pauses = told(mail(server, certificate, "ann@example.org"), MAIL="wrong-s3cret")
    assert said(receipts) == [("ann@example.org", False, "535: the login was refused", 1)]
    assert "wrong-s3cret" not in repr(receipts)
    assert pauses == []


def test_a_server_that_this_machine_does_not_trust_is_told_nothing(server: MailListener, certificate: Path) -> None:
    """Neither the text nor the password."""
    from dataclasses import replace

    channel = replace(mail(server, certificate, "ann@example.org", attempts=1), ca_file=None)
    receipts, _ = told(channel, MAIL="s3cret")
    assert said(receipts) == [("ann@example.org", False, "its certificate is not one that this machine trusts", 1)]
    assert (server.got, server.logins) == ([], [])


def test_a_server_without_starttls_is_told_nothing(certificate: Path) -> None:
    """Unless the channel is one that says so, for a server on this machine."""
    with mail_listener() as plain:
        receipts, _ = told(mail(plain, certificate, "ann@example.org"), MAIL="s3cret")
        text = "the server has no STARTTLS, or not the login that is asked for"
        assert said(receipts) == [("ann@example.org", False, text, 1)]
        assert plain.got == []
        receipts, _ = told(mail(plain, None, "ann@example.org"))
        assert said(receipts) == [("ann@example.org", True, "250 OK", 1)]


def test_a_mail_server_that_says_one_byte_at_a_time_is_given_up(certificate: Path) -> None:
    """The time-out is for the whole conversation."""
    from dataclasses import replace

    with dripping_server(b"220-still here\r\n", 0.02) as place:
        listener = MailListener(port=int(place.rpartition(":")[2]))
        channel = replace(mail(listener, certificate, "ann@example.org", attempts=1), timeout=timedelta(seconds=0.5))
        receipts, _ = told(channel, MAIL="s3cret")
    assert said(receipts) == [("ann@example.org", False, "no answer within 0.5 s", 1)]


def test_a_subject_cannot_carry_a_head_of_its_own(server: MailListener, certificate: Path) -> None:
    """Whoever writes a title writes no header."""
    message = Message("announce", "close\r\nBcc: eve@example.org", "text")
    receipts = deliver(message, [mail(server, certificate, "ann@example.org")], {"MAIL": "s3cret"})
    assert [one.delivered for one in receipts] == [True]
    found = message_from_string(server.got[0][1], policy=default)
    assert (found["Subject"], found["Bcc"]) == ("close Bcc: eve@example.org", None)
