"""Who is at the keyboard: by the SSH key that they sign with, or by the operating system's account.

Not for: what they may do. Invariant: with identity "ssh" a person is whom `allowed_signers` gives the key to; nothing
that can be typed (a variable, an option, git's user.email) makes anybody somebody else. Keys are never read or stored
here: ssh-keygen or the agent signs.
"""

from __future__ import annotations

import atexit
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backout.errors import UsageError
from backout.gates.people import People
from backout.gates.policy import SSH
from backout.ledger.pens import Pens
from backout.ledger.signers import AllowedKey, public_fingerprint, read_allowed_signers
from backout.ledger.signing import Signer, fingerprint, sign, sign_all
from backout.ledger.statement import Signed, Statement
from backout.project.config import Config

KEY_VARIABLE = "BACKOUT_KEY"
IDENTITY_VARIABLE = "BACKOUT_IDENTITY"  # a private key's file to read private changes with, where one signs by an agent
_USUAL = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")  # as ssh(1) looks for them


@dataclass(frozen=True)
class Speaker:
    """`principal` is what their statements carry; `name` the one name of the person."""

    principal: str
    name: str
    signer: Signer | None = None

    def say(self, statement: Statement) -> Signed:
        """Return the statement, signed where there is a key. UsageError where it cannot be signed."""
        text = _checked(statement.text)
        return Signed(statement, sign(text, self.signer) if self.signer is not None else None)

    def say_all(self, statements: Sequence[Statement], pens: Pens | None = None) -> Sequence[Signed]:
        """The same of several, signed by `pens` if they can, else by one process."""
        texts = [_checked(one.text) for one in statements]
        if self.signer is None or not texts:
            return [Signed(one, None) for one in statements]
        made = pens.sign(texts) if pens is not None else None
        return [Signed(one, by) for one, by in zip(statements, made or sign_all(texts, self.signer), strict=True)]

    def pens(self, count: int) -> Pens | None:
        """What signs so many statements, made ready now; None where nothing is signed."""
        return Pens(self.signer, count) if self.signer is not None else None


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("a statement holds text that is not UTF-8", hint="write it with letters") from None
    return text


def account() -> str:
    """The name of the account that this process runs under, as the system says: not a variable, which can be set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"  # a container may have no name for it


def speaker_of(config: Config, identity: str, key: Path | None) -> Speaker:
    """Who speaks, for a policy with this `identity`. UsageError where no key of theirs is found."""
    if identity != SSH:
        return Speaker(account(), config.people.canonical(account()))
    allowed = read_allowed_signers(config.signers_file)
    if not allowed:
        raise UsageError(
            f'nobody can sign: there are no keys in "{config.signers_file}"',
            hint='add a line for each person: ann@example.org namespaces="statement@backout" ssh-ed25519 AAAA…',
        )
    problem = "no SSH key was found"
    for path in _candidates(config, key):
        found = _owner(path, allowed)
        if found is not None:
            return Speaker(*_named(found, config.people), Signer(path))
        problem = f'the key "{path}" is not in "{config.signers_file}"'
        if key is not None:
            break
    raise UsageError(problem, hint=f"name yours with --key FILE or ${KEY_VARIABLE}, and have its public half added")


def _named(one: AllowedKey, people: People) -> tuple[str, str]:
    known = [principal for principal in one.principals if people.find(principal) is not None]
    principal = (known or list(one.principals))[0]
    return principal, people.canonical(principal)


def named_key(key: Path | None) -> Path | None:
    """The key that somebody names, by `key` or the variable; None: whichever is found is meant."""
    named = key or (Path(os.environ[KEY_VARIABLE]) if os.environ.get(KEY_VARIABLE) else None)
    return named.expanduser() if named is not None else None


def _candidates(config: Config, key: Path | None) -> Iterator[Path]:
    """Where a key may be, the most explicit first. A key that is named is the only one."""
    named = named_key(key)
    if named is not None:
        yield named
        return
    of_git = _git_settings(config.folder)
    if of_git.get("gpg.format") == "ssh":
        text = of_git.get("user.signingkey", "")
        if text.startswith(("key::", "ssh-", "ecdsa-", "sk-")):
            yield _as_file(text.removeprefix("key::"))
        elif text:
            yield Path(text).expanduser()
    for line in _output(["ssh-add", "-L"], config.folder).split("\n"):
        if public_fingerprint(line) is not None:
            yield _as_file(line)
    home = Path.home() / ".ssh"
    yield from (home / name for name in _USUAL if (home / name).is_file())


def _git_settings(folder: Path) -> dict[str, str]:
    """What git's configuration says of signing there; the last word on a key counts, as git has it."""
    lines = _output(["git", "config", "--get-regexp", r"^(gpg\.format|user\.signingkey)$"], folder).split("\n")
    return {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}


def private_key_files(config: Config, key: Path | None) -> Iterator[Path]:
    """Files that may be the speaker's private key, for what only it can open; each once."""
    given = os.environ.get(IDENTITY_VARIABLE)
    paths = [Path(given).expanduser()] if given else []
    paths += [one.with_suffix("") if one.suffix == ".pub" else one for one in _candidates(config, key)]
    yield from dict.fromkeys(one for one in paths if one.is_file())


def _as_file(public_key: str) -> Path:
    """A file for a public key whose private half the agent has: ssh-keygen takes a file only."""
    with tempfile.NamedTemporaryFile("w", prefix="backout-", suffix=".pub", delete=False) as file:
        file.write(f"{public_key}\n")
    atexit.register(Path(file.name).unlink, missing_ok=True)
    return Path(file.name)


def _owner(path: Path, allowed: Sequence[AllowedKey]) -> AllowedKey | None:
    """The line of `allowed_signers` for this key; a certificate authority's is nobody's."""
    found = _fingerprint(path)
    return next((one for one in allowed if one.fingerprint == found and not one.is_authority and not one.has_pattern),
                None)  # fmt: skip


def _fingerprint(path: Path) -> str | None:
    beside = path if path.suffix == ".pub" else Path(f"{path}.pub")
    try:
        return public_fingerprint(beside.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        text = _output(["ssh-keygen", "-y", "-P", "", "-f", str(path)], Path.cwd())
        return public_fingerprint(text)


def _output(command: Sequence[str], folder: Path) -> str:
    """What a program says; nothing where it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def signing_key(signed: Signed) -> str | None:
    """The fingerprint of the key that a statement carries a signature of."""
    return fingerprint(signed.signature) if signed.signature is not None else None
