"""Telling everybody: each channel beside the others, again where that can help, and a receipt for each recipient.

Not for: what is said, nor for whether somebody must have been told. Invariant: nothing is raised; what failed is in the
receipts. It ends in a time that can be computed: attempts times the channel's time-out, and the pauses between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from time import sleep

from backout.errors import UsageError
from backout.integrations.model import Answer, Channel, Message, Receipt

_FIRST_PAUSE_S = 0.5  # doubled each time
_LONGEST_PAUSE_S = 10.0  # also where a server asks for more

Pause = Callable[[float], None]


def deliver(
    message: Message, channels: Sequence[Channel], variables: Mapping[str, str] = os.environ, pause: Pause = sleep
) -> tuple[Receipt, ...]:
    """Tell all channels at the same time; their receipts in the order of the channels."""
    if not channels:
        return ()
    with ThreadPoolExecutor(len(channels)) as threads:
        found = threads.map(lambda one: _told(message, one, variables, pause), channels)
        return tuple(receipt for receipts in found for receipt in receipts)


def _told(message: Message, channel: Channel, variables: Mapping[str, str], pause: Pause) -> Sequence[Receipt]:
    at = datetime.now(UTC)
    everybody = channel.recipients if channel.kind == "email" else (channel.name,)
    try:
        secret = channel.secret.read(variables) if channel.secret is not None else None
    except UsageError as error:
        answer = Answer(delivered=False, text=error.message)
        return [_receipt(message, channel, one, at, answer, 0) for one in everybody]
    waiting, answers, tried = list(everybody), dict[str, Answer](), dict[str, int]()
    for attempt in range(1, channel.attempts + 1):
        said = _attempt(message, channel, secret, waiting, at)
        answers.update(said)
        tried.update(dict.fromkeys(waiting, attempt))
        waiting = [one for one in waiting if said[one].again]
        if not waiting:
            break
        if attempt < channel.attempts:
            asked = max((said[one].wait_s or 0.0 for one in waiting), default=0.0)
            pause(min(max(_FIRST_PAUSE_S * 2 ** (attempt - 1), asked), _LONGEST_PAUSE_S))
    return [_receipt(message, channel, one, at, answers[one], tried[one]) for one in everybody]


def _attempt(
    message: Message, channel: Channel, secret: str | None, recipients: Sequence[str], at: datetime
) -> Mapping[str, Answer]:
    if channel.kind == "email":
        from backout.integrations.mail import send

        return send(message, channel, secret, recipients, at)
    from backout.integrations.web import as_slack, as_webhook, post

    value = as_slack(message) if channel.kind == "slack" else as_webhook(message)
    return {channel.name: post(secret or "", value, channel.timeout.total_seconds())}


def _receipt(
    message: Message, channel: Channel, recipient: str, at: datetime, answer: Answer, attempts: int
) -> Receipt:
    text = "".join(char if char.isprintable() else "?" for char in answer.text)
    return Receipt(channel.name, recipient, message.event, at, answer.delivered, text, attempts, message.sha256)
