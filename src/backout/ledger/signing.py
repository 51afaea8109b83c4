"""Signatures by SSH keys: made by `ssh-keygen -Y sign`, verified against an `allowed_signers` file, as git does it.

Not for: deciding whether a person may say something (`gates`). Invariant: no private key is read by us: ssh-keygen does,
or the agent; nothing but the statement's canonical bytes is signed, under a namespace of our own, so that a signature
that somebody made for git or for a file is never one for us. What is plain and good is verified in this process
(`sshsig`, `plain_signers`); everything else, and every "no", is ssh-keygen's.

Source: ssh-keygen(1), "-Y sign", "-Y verify", "-Y check-novalidate", "ALLOWED SIGNERS"; PROTOCOL.sshsig of OpenSSH.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from backout.errors import UsageError
from backout.ledger.plain_signers import PlainLine, plain_lines
from backout.ledger.sshsig import is_good, parse
from backout.ledger.statement import Signed

NAMESPACE = "statement@backout"
_PROCESSES = 6  # verifications at a time, each a short process of its own: as many as an ordinary run needs
_Verifying: TypeAlias = Generator[None, None, "Verification"]
_ARMOUR = re.compile(r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)-----END SSH SIGNATURE-----\n?")


@dataclass(frozen=True)
class Verification:
    """What is known of a signature. `key` is the fingerprint of a key whose signature of these very bytes it is.

    `problem` is None for a good one; `forged` where no key at all made it for these bytes.
    """

    key: str | None = None
    problem: str | None = None
    forged: bool = False


@dataclass(frozen=True)
class Signer:
    """A key to sign with: a private key's file, or a public one's whose private half the agent has."""

    key: Path


def sign(text: str, signer: Signer) -> str:
    """Return the armoured signature of the text. UsageError where ssh-keygen cannot make one."""
    done = _run(signing_command(signer), text.encode())
    if done.returncode != 0:
        raise _not_signed(signer, done.stderr)
    return done.stdout.decode("ascii", "replace")


def sign_all(texts: Sequence[str], signer: Signer) -> list[str]:
    """The same of several texts, by one process; all of them, or UsageError."""
    with tempfile.TemporaryDirectory(prefix="backout-") as name:
        files = [Path(name) / str(number) for number in range(len(texts))]
        for file, text in zip(files, texts, strict=True):
            file.write_bytes(text.encode())
        done = _run([*signing_command(signer), *map(str, files)], b"")
        if done.returncode != 0:
            raise _not_signed(signer, done.stderr)
        return [file.with_name(f"{file.name}.sig").read_text("ascii", "replace") for file in files]


def signing_command(signer: Signer) -> list[str]:
    """The command that signs standard input, or the files that are named behind it."""
    return ["ssh-keygen", "-q", "-Y", "sign", "-f", str(signer.key), "-n", NAMESPACE]


def _not_signed(signer: Signer, output: bytes) -> UsageError:
    return UsageError(
        f'unable to sign with "{signer.key}": {_last_line(output)}',
        hint="name another key with --key or $BACKOUT_KEY, or load it into the agent: ssh-add",
    )


def verify(signed: Signed, allowed_signers: Path) -> Verification:
    """Check one signature: these bytes, this person, a key that was theirs at the statement's time."""
    return verify_all([signed], allowed_signers)[0]


def verify_all(
    signed: Sequence[Signed], allowed_signers: Path, meanwhile: Callable[[], object] | None = None
) -> list[Verification]:
    """Check many; in their order. Those that ssh-keygen is asked for several at a time.

    `meanwhile` is what this process does while ssh-keygen works, where it has to be asked at all. The first ones without
    threads: these would keep what is done meanwhile waiting for the interpreter's lock.
    """
    lines = plain_lines(allowed_signers) if any(one.signature is not None for one in signed) else ()
    found = {place: good for place, one in enumerate(signed) if (good := plainly_good(one, lines)) is not None}
    rest = [(place, one) for place, one in enumerate(signed) if place not in found]
    running = [(place, _begun(one, allowed_signers)) for place, one in rest[:_PROCESSES]]
    if meanwhile is not None and running:
        meanwhile()
    found |= {place: _ended(one) for place, one in running}
    if len(rest) > _PROCESSES:
        with ThreadPoolExecutor(_PROCESSES) as threads:
            later = threads.map(lambda pair: (pair[0], ask_ssh_keygen(pair[1], allowed_signers)), rest[_PROCESSES:])
            found |= dict(later)
    return [found[place] for place in range(len(signed))]


def ask_ssh_keygen(signed: Signed, allowed_signers: Path) -> Verification:
    """Its word on one signature, whatever this process would say."""
    return _ended(_begun(signed, allowed_signers))


def plainly_good(signed: Signed, lines: Sequence[PlainLine]) -> Verification | None:
    """The verification of a good signature by an ordinary key; None: ssh-keygen is to be asked."""
    if signed.signature is None or not lines:
        return None
    one, at = (
        parse(signed.signature),
        signed.statement.at.astimezone(UTC).replace(microsecond=0),
    )  # as ssh-keygen has it
    if one is None or one.namespace != NAMESPACE.encode():
        return None
    person = signed.statement.person
    if not any(line.allows(person, one.public_key, NAMESPACE, at) for line in lines):
        return None
    return Verification(key_fingerprint(one.public_key)) if is_good(one, signed.statement.text.encode()) else None


def _verification(signed: Signed, allowed_signers: Path) -> _Verifying:
    """The steps of checking one; at the `yield` ssh-keygen is at work, and whoever asks may do something else."""
    if signed.signature is None:
        return Verification(problem="it is not signed")
    key = fingerprint(signed.signature)
    data = signed.statement.text.encode()
    person = signed.statement.person
    with _signature_file(signed.signature) as file:
        command = [
            "ssh-keygen", "-Y", "verify", "-f", str(allowed_signers), "-I", person, "-n", NAMESPACE, "-s", file,
            "-O", f"verify-time={_time(signed.statement.at)}",
        ]  # fmt: skip
        if key is not None:
            program = _started(command, data)
            try:
                yield
            finally:  # also where nobody wants to know any more
                status = program.wait()
            if status == 0:
                return Verification(key)
        of_anybody = ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", file]
        if key is None or _started(of_anybody, data).wait() != 0:
            return Verification(problem="its signature is not of these words", forged=True)
    if not allowed_signers.is_file():
        return Verification(problem=f'there is no file of allowed signers "{allowed_signers}"')
    return Verification(problem=f'its key is not one that "{allowed_signers.name}" gives "{person}" at that time')


def _begun(signed: Signed, allowed_signers: Path) -> _Verifying | Verification:
    """A verification with ssh-keygen at work; the result itself where there is nothing to ask it."""
    steps = _verification(signed, allowed_signers)
    try:
        next(steps)
    except StopIteration as end:
        return _result(end)
    return steps


def _ended(steps: _Verifying | Verification) -> Verification:
    if isinstance(steps, Verification):
        return steps
    try:
        next(steps)
    except StopIteration as end:
        return _result(end)
    raise AssertionError("it asks once")


def _result(end: StopIteration) -> Verification:
    found: Verification = end.value
    return found


def is_armour(text: str) -> bool:
    """Whether it looks like a signature at all."""
    return _ARMOUR.fullmatch(text) is not None


def fingerprint(signature: str) -> str | None:
    """SHA256 fingerprint of the public key inside the signature, as ssh-keygen prints it; None: it is no signature.

    Source: PROTOCOL.sshsig: "SSHSIG", uint32 version, string publickey, …
    """
    match = _ARMOUR.fullmatch(signature)
    if match is None:
        return None
    try:
        blob = base64.b64decode(match[1], validate=False)
    except ValueError:
        return None
    length = int.from_bytes(blob[10:14], "big")
    if blob[:6] != b"SSHSIG" or len(blob) < 14 + length:
        return None
    return key_fingerprint(blob[14 : 14 + length])


def key_fingerprint(public_key: bytes) -> str:
    """The fingerprint of a public key in its wire format."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public_key).digest()).decode().rstrip("=")


@contextmanager
def _signature_file(signature: str) -> Iterator[str]:
    """A file for as long as ssh-keygen reads it; it has no other way in for a signature."""
    with tempfile.NamedTemporaryFile("w", suffix=".sig", encoding="utf-8") as file:
        file.write(signature)
        file.flush()
        yield file.name


def _time(at: datetime) -> str:
    """The format of verify-time, in UTC: see `_run` (a suffix that says so is known from OpenSSH 9.1 on only)."""
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S")


def _run(command: Sequence[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=data, capture_output=True, check=False, env=variables())
    except FileNotFoundError:
        raise _no_program() from None


def _started(command: Sequence[str], data: bytes) -> subprocess.Popen[bytes]:
    """The program, with all that it reads; what it says goes nowhere, and only its status counts."""
    try:
        program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=variables()
        )
    except FileNotFoundError:
        raise _no_program() from None
    assert program.stdin is not None, "it is a pipe"
    with suppress(BrokenPipeError), program.stdin as stdin:  # it may have seen enough: its status says what
        stdin.write(data)
    return program


def variables() -> dict[str, str]:
    """The environment of ssh-keygen: times without a zone are UTC, whatever this machine's zone is."""
    return {**os.environ, "TZ": "UTC", "LC_ALL": "C"}


def _no_program() -> UsageError:
    return UsageError(
        "ssh-keygen is not on this machine, and signatures are made and verified with it",
        hint="install OpenSSH's client (Debian: apt-get install openssh-client)",
    )


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode("utf-8", "replace").strip().split("\n") if line.strip()]
    return lines[-1] if lines else "ssh-keygen said nothing"
