"""Private changes: in the ledger, encrypted to people's SSH keys, and nowhere else [A7, C1].

A private change is a `submit` statement whose details carry the text: signed by its author, a link of the chain, found
by the change's name. Whatever reads a change by its name finds it (`Reading.change`).

Not for: encrypting (`ledger/sealing.py`), nor for whether it may run: the gates judge it like any other.
Invariants: nothing decrypted is written to a disk; a text whose digest is not the one that was signed is no change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backout.change.model import Change
from backout.change.package import Package, packed, read_package
from backout.change.read import files_of, read_change
from backout.errors import Refused, UsageError
from backout.gates.people import People
from backout.ledger.entry import Entry
from backout.ledger.reading import signed_in
from backout.ledger.sealing import seal, unseal, why_not
from backout.ledger.signers import AllowedKey, read_allowed_signers
from backout.ledger.statement import Kind, Signed
from backout.project.advice import Advice
from backout.project.book import Book
from backout.project.config import Config
from backout.project.identity import IDENTITY_VARIABLE, private_key_files
from backout.project.statements import Spoken, Statements
from backout.sql.model import Dialect

#: The details of its statement: age's armour, who can open it, and who of those that were meant cannot, with the reason.
SEALED, READERS, LEFT_OUT = "sealed", "readers", "left_out"
_MARK = f'\\"{SEALED}\\":'
_LARGEST_BYTES = 1024 * 1024  # each run reads the ledger whole; a change of more is no text that a person reviews
_WAY_OUT = (
    "make a key for it: ssh-keygen -t ed25519 -N '' -f ~/.ssh/backout; add its public half to allowed_signers under your "
    f"address as well, name the file in ${IDENTITY_VARIABLE}, and let the author submit the change again"
)


@dataclass(frozen=True)
class Submitted:
    """A private change that was handed in. `left_out` has the people who cannot read it, with the reason."""

    spoken: Spoken
    change: Change
    readers: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass
class PrivateChanges:
    """The private changes of a project, for whom the keys are that can be found here."""

    book: Book
    statements: Statements
    key: Path | None = None

    def submit(self, change: Change, to: Collection[str] = ()) -> Submitted:
        """Put the change into the ledger, encrypted to these people, roles and teams; by default to all whom one knows.

        Whoever submits can read it, too. The same text submitted again keeps its digest, and so what was said of it.
        """
        self._require_fit(change)
        speaker = self.statements.submitter()
        owners, left_out = self._readers(to, speaker.name)
        if change.is_private:
            package = self._package(change.identifier)
        else:
            package = packed(change.path.name, files_of(change), like=self._earlier(change.identifier))
        data = package.to_bytes()
        if len(data) > _LARGEST_BYTES:
            raise UsageError(
                f'"{change.identifier}" has {len(data)} bytes, and a private change may have {_LARGEST_BYTES}',
                hint="keep rows in a table or in parameters, and the statements in the change",
            )
        found = read_change(package.path, default_dialect=change.dialect, package=package)
        if change.is_private and found.digest != change.digest:
            raise Refused("digest", f'"{change.identifier}" was submitted anew meanwhile', hint="look at it again")
        keys = [one for keys in owners.values() for one in keys]
        sealed = {SEALED: seal(data, keys), READERS: sorted(owners), LEFT_OUT: left_out}
        return Submitted(self.statements.submit(found, sealed), found, tuple(sorted(owners)), left_out)

    def find(self, name: str) -> Signed | None:
        """The newest submission of that name whose signature is good, or that has none where nobody signs."""
        if self.book.config.path is None:
            return None
        for signed in self._submissions(name):
            if self.book.check([signed])[0].problem is None:
                return signed
            if signed.signature is None and not self.statements.are_signed:
                return signed
        return None

    def read(self, signed: Signed, dialect: Dialect) -> Change:
        """The change in a submission. Refused where no key here opens it, or where its text is not what was signed."""
        package = self._opened(signed)
        found = read_change(package.path, default_dialect=dialect, package=package)
        said = signed.statement
        if (found.identifier, found.digest) != (said.change, said.digest):
            raise Refused(
                "private", f'private change "{said.change}" is not the text that {said.person} submitted',
                hint="let its author submit it again",
            )  # fmt: skip
        return found

    # -- reading -------------------------------------------------------------------------------------------------------

    def _package(self, name: str) -> Package:
        signed = self.find(name)
        assert signed is not None, "it was read from there"
        return self._opened(signed)

    def _earlier(self, name: str) -> Package | None:
        """What was submitted before under this name, if we can read it."""
        signed = self.find(name)
        try:
            return self._opened(signed) if signed is not None else None
        except Refused:
            return None

    def _submissions(self, name: str) -> Iterator[Signed]:
        for entry in reversed(self.book.read().entries):
            signed = signed_in(entry) if _MARK in entry.body else None
            if signed is None:
                continue
            said = signed.statement
            is_ours = said.kind is Kind.SUBMIT and said.project in (None, self.book.config.name)
            if is_ours and said.change == name and isinstance(said.details.get(SEALED), str):
                yield signed

    def _opened(self, signed: Signed) -> Package:
        said = signed.statement
        reasons = []
        for file in private_key_files(self.book.config, self.key):
            opened = unseal(said.details[SEALED], file)
            if isinstance(opened, bytes):
                try:
                    return read_package(opened)
                except ValueError as error:
                    reasons.append(f'"{file}": {error}')
            else:
                reasons.append(f'"{file}": {opened}')
        tried = "; ".join(reasons) or "no private key was found here: an agent signs, and cannot decrypt"
        readers = said.details.get(READERS)
        whom = ", ".join(map(str, readers)) if isinstance(readers, list) else "others"
        raise Refused(
            "private", f'private change "{said.change}" is encrypted to {whom}, and no key here opens it: {tried}',
            hint=f"name your key with --key FILE; if it has a passphrase, or only an agent or a device has it,\n{_WAY_OUT}",
        )  # fmt: skip

    # -- writing -------------------------------------------------------------------------------------------------------

    def _require_fit(self, change: Change) -> None:
        config = self.book.config
        if change.language == "program" and not change.metadata.session:
            raise UsageError(
                f'"{change.path}" is a program, which has to be a file when it runs: it cannot be private',
                hint="write it as SQL or Python, or give the private values as parameters",
            )
        if config.path is None or config.statements == "files":
            raise UsageError(
                "a private change is kept in the ledger, and there is none that others see",
                hint='ledger = "postgresql://…" in [project], without statements = "files"',
            )

    def _readers(self, to: Collection[str], submitter: str) -> tuple[dict[str, list[AllowedKey]], dict[str, str]]:
        """The people who are to read it with the keys that it is encrypted to, and those who cannot with the reason."""
        config = self.book.config
        wanted = _wanted(config, to) | {submitter}
        owners: dict[str, list[AllowedKey]] = {}
        left_out = dict.fromkeys(sorted(wanted), "there is no key of theirs in allowed_signers")
        now = datetime.now(UTC)
        for key in read_allowed_signers(config.signers_file):
            problem = why_not(key, now)
            for name in {config.people.canonical(one) for one in key.principals} & wanted:
                if problem is None:
                    owners.setdefault(name, []).append(key)
                else:
                    left_out[name] = problem
        left_out = {name: why for name, why in left_out.items() if name not in owners}
        named = [name for name in left_out if to and name != submitter]
        if named or not owners:
            name = named[0] if named else submitter
            raise UsageError(f"it cannot be encrypted to {name}: {left_out[name]}", hint=_WAY_OUT)
        return owners, left_out


def _wanted(config: Config, to: Collection[str]) -> set[str]:
    """The one name of each person who is meant."""
    people: People = config.people
    if not to:
        if people.known:
            return set(people.known)
        return {people.canonical(one) for key in read_allowed_signers(config.signers_file) for one in key.principals}
    found = {word: {one.name for one in people.known.values() if one.is_called([word])} for word in to}
    for word, names in found.items():
        if not names:
            raise UsageError(f'nobody is "{word}"', hint="--to takes a person, a role or a team of [people]")
    return set().union(*found.values())


def advise_on_readers(config: Config, entries: Iterable[Entry]) -> Iterator[Advice]:
    """Who of the known people could read no private change, where the ledger has any."""
    if not any(_MARK in one.body for one in entries):
        return
    keys, now = read_allowed_signers(config.signers_file), datetime.now(UTC)
    can = {config.people.canonical(one) for key in keys if why_not(key, now) is None for one in key.principals}
    for name in sorted(set(config.people.known) - can):
        yield Advice("weak", f'"{name}" has no key that private changes can be encrypted to', _WAY_OUT)


def details_without_text(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a statement for people to read: without the encrypted text."""
    return {name: value for name, value in details.items() if name != SEALED}
