"""Webhooks: a JSON object by POST, plain or in Slack's form.

Not for: trying again (`deliver`). Invariants: the address is a secret, so no text of an error shows it, nothing is
redirected, and it goes in clear to this machine only.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from backout.integrations.deadline import deadline
from backout.integrations.model import Answer, Message

_HERE = ("localhost", "127.0.0.1", "::1")
_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # RFC 9110, 15: what may be otherwise in a while


def as_webhook(message: Message) -> dict[str, Any]:
    """The object of a plain webhook."""
    return {"event": message.event, "subject": message.subject, "text": message.text, **message.facts}


def as_slack(message: Message) -> dict[str, Any]:
    """Slack's: https://api.slack.com/messaging/webhooks; three characters are escaped, so that no text makes a link."""
    said = f"*{_escaped(message.subject)}*\n{_escaped(message.text)}"
    return {"text": said}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def post(address: str, value: dict[str, Any], timeout_s: float) -> Answer:
    """Send it; says what the server answered, or why there was no answer."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if host is None or parts.scheme not in ("http", "https"):
        return Answer(delivered=False, text="the address is not one that begins with https://")
    if parts.scheme == "http" and host not in _HERE:
        return Answer(delivered=False, text="the address is http://, which would send in clear: use https://")
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=timeout_s)
    )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    body = json.dumps(value, ensure_ascii=False).encode()
    with deadline(timeout_s, lambda: connection.sock) as limit:
        try:
            connection.request(
                "POST", path, body, {"Content-Type": "application/json; charset=utf-8", "User-Agent": "backout"}
            )
            response = connection.getresponse()
            answer = _judged(response.status, response.reason, response.getheader("Retry-After"))
            return Answer(delivered=False, text=_too_late(timeout_s), again=True) if limit.passed else answer
        except (OSError, http.client.HTTPException) as error:
            why = _too_late(timeout_s) if limit.passed or isinstance(error, TimeoutError) else _why(error)
            return Answer(delivered=False, text=why, again=not isinstance(error, ssl.SSLCertVerificationError))
        finally:
            connection.close()


def _judged(status: int, reason: str, retry_after: str | None) -> Answer:
    text = f"{status} {reason}".strip()
    if 200 <= status < 300:
        return Answer(delivered=True, text=text)
    if 300 <= status < 400:
        return Answer(delivered=False, text=f"{text}: it redirects, and is not followed")
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    return Answer(delivered=False, text=text, again=status in _AGAIN, wait_s=wait)


def _too_late(timeout_s: float) -> str:
    return f"no answer within {timeout_s:g} s"


def _why(error: BaseException) -> str:
    """The reason without the address: an exception's own text may quote it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not one that this machine trusts"
    reason = getattr(error, "strerror", None)
    return str(reason).lower() if reason else f"the connection failed ({type(error).__name__})"
