"""Processes of ssh-keygen that have loaded a key and wait for words to sign: ready before the words are.

Starting ssh-keygen takes most of the time that a signature takes; what is said at the end of a run is signed by processes
that started while the run was at work. Not for: a key that somebody must be asked about. These processes have no terminal
and no dialogue to ask with: they end, and whoever signs does it the ordinary way (`signing`). Invariant: each signs one
text, and none outlives `close`.

Source: ssh-keygen(1), "-Y sign": without a file standard input is signed. OpenSSH 9.2, sig_sign() in ssh-keygen.c: the key
is loaded, and its passphrase asked for, before standard input is read.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from backout.ledger.signing import Signer, is_armour, signing_command, variables

_PATIENCE_S = 30  # for a finger on a device's button; who takes longer is asked again, the ordinary way


class Pens:
    """Some of them, for one key; started by a thread, since this process is at work itself."""

    def __init__(self, signer: Signer, count: int) -> None:
        self._signer = signer
        self._used = 0
        starting = ThreadPoolExecutor(1)
        self._started = starting.submit(self._start, count)
        starting.shutdown(wait=False)

    def sign(self, texts: Sequence[str]) -> list[str] | None:
        """The signatures, in the order of the texts; None where these processes cannot make them all."""
        pens = self._started.result()[self._used : self._used + len(texts)]
        if len(pens) < len(texts):
            return None
        self._used += len(texts)
        for pen, text in zip(pens, texts, strict=True):
            assert pen.stdin is not None, "it is a pipe"
            with suppress(OSError):  # it has ended: its status says so
                pen.stdin.write(text.encode())
            with suppress(OSError):
                pen.stdin.close()
            pen.stdin = None
        made = [_signature(pen) for pen in pens]
        return [one for one in made if one is not None] if None not in made else None

    def close(self) -> None:
        """End those that still wait."""
        for pen in self._started.result():
            if pen.poll() is None:
                pen.kill()
            with suppress(OSError):
                pen.communicate()

    def _start(self, count: int) -> list[subprocess.Popen[bytes]]:
        return [pen for pen in (_pen(self._signer) for _ in range(count)) if pen is not None]


_ASK_NOBODY = {"SSH_ASKPASS_REQUIRE": "never"}


def _pen(signer: Signer) -> subprocess.Popen[bytes] | None:
    """A process without a terminal, which a signal to those of this one does not reach; None: it cannot be started."""
    try:
        return subprocess.Popen(
            signing_command(signer), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, env={**variables(), **_ASK_NOBODY},
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _signature(pen: subprocess.Popen[bytes]) -> str | None:
    try:
        said, _ = pen.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return None
    text = said.decode("ascii", "replace")
    return text if pen.returncode == os.EX_OK and is_armour(text) else None
