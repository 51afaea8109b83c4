"""Backups by any provider's own program: templates for take, list, restore and delete.

A template is an argument list as a shell would split it, and no shell runs it; `{id}`, `{file}` and `{environment}` are
replaced inside of its words. With `{file}` in `take` the program writes a stream, which is encrypted on its way: the
name stands for an open descriptor (/dev/fd/N), so that no clear file is ever there. Without it the provider keeps the
backup: by our id if `take` names `{id}`, else by the last line that it prints.

Not for: what such programs do. Invariant: where there is a `list`, a backup counts only when it is in it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread

from backout.engines.dump import DumpFacts, Writer
from backout.engines.program import Program, answer_of
from backout.errors import BackoutError, Refused, UsageError
from backout.recovery.backups.files import (
    Safe,
    described,
    filed,
    identities_for,
    intact,
    recipients_for,
    seal,
    unseal,
    write_whole,
)
from backout.recovery.backups.model import Backup, Request
from backout.recovery.backups.store import remove, written_to


class CommandProvider:
    """See `model.Provider`. `facts` asks the database for its clock and version."""

    name = "command"

    def __init__(
        self, commands: Mapping[str, str], facts: Callable[[], DumpFacts], safe: Safe, mirrors: Sequence[str]
    ) -> None:
        self._commands = {name: _words(name, text) for name, text in commands.items()}
        self._facts, self._safe, self._mirrors = facts, safe, tuple(mirrors)

    @property
    def _makes_files(self) -> bool:
        return any("{file}" in word for word in self._commands["take"])

    def take(self, request: Request) -> Backup:
        """See the protocol."""
        backup = described(self.name, request, self._facts(), self._commands["take"][0])
        made = self._taken_as_file(backup, request) if self._makes_files else self._taken_elsewhere(backup)
        if not self.holds(made):
            raise Refused(
                "backup", f'the backup "{made.held_as or made.identifier}" was made, and `list` does not show it',
                hint="look at what `take` and `list` of this environment's backup print",
            )  # fmt: skip
        return made

    def _taken_as_file(self, backup: Backup, request: Request) -> Backup:
        recipients = recipients_for(request, self._safe.recipients)
        path = self._safe.folder / f"{backup.identifier}.backup{'.age' if recipients else ''}"

        def pour(writer: Writer) -> None:
            reading, writing = os.pipe()
            with os.fdopen(reading, "rb") as reader:
                program = self._program("take", backup, file=f"/dev/fd/{writing}", descriptors=(writing,))
                failures = _beside(lambda: answer_of(program), ended=lambda: os.close(writing))
                seal(reader, writer, recipients)
                failures.join()
                failures.raise_first()

        with written_to(self._safe.folder, "write the backup"):
            size, digest = write_whole(path, pour)
        return filed(backup, [str(path), *self._mirrors], size, digest, encrypted=bool(recipients))

    def _taken_elsewhere(self, backup: Backup) -> Backup:
        said = answer_of(self._program("take", backup)).strip().splitlines()
        named_by_us = any("{id}" in word for word in self._commands["take"])
        held_as = backup.identifier if named_by_us else (said[-1].strip() if said else "")
        if not held_as:
            raise Refused(
                "backup", "`take` printed nothing that could name the backup",
                hint="put {id} into `take`, or let the last line that it prints be the backup's name",
            )  # fmt: skip
        restore = self._shown("restore", replace(backup, held_as=held_as)) or backup.restore
        return replace(backup, held_as=held_as, places=self._mirrors, restore=restore)

    def holds(self, backup: Backup) -> bool:
        """See the protocol."""
        if "list" not in self._commands:
            return True
        name = re.escape(backup.held_as or backup.identifier)
        return re.search(rf"(?<!\S){name}(?!\S)", answer_of(self._program("list", backup))) is not None

    def restore(self, backup: Backup, environment: str) -> str | None:
        """See the protocol."""
        self._require("restore")
        if backup.sha256 is None:
            answer_of(self._program("restore", backup, environment=environment))
            return None
        path, note = intact(replace(backup, places=tuple(one for one in backup.places if one not in self._mirrors)))
        identities = identities_for(backup, self._safe.identity)
        reading, writing = os.pipe()
        program = self._program(
            "restore", backup, environment=environment, file=f"/dev/fd/{reading}", descriptors=(reading,)
        )
        failures = _beside(lambda: answer_of(program), ended=lambda: os.close(reading))
        try:
            with os.fdopen(writing, "wb") as writer, path.open("rb") as file:
                unseal(file, writer, identities)
        except BrokenPipeError:
            pass  # the program stopped to read: what it says of that is raised below
        failures.join()
        failures.raise_first()
        return note

    def delete(self, backup: Backup) -> None:
        """See the protocol."""
        if backup.sha256 is not None:
            with written_to(self._safe.folder, "remove the backup"):
                for place in backup.places:
                    if place not in self._mirrors:
                        remove(Path(place))
        if backup.sha256 is None or "delete" in self._commands:
            self._require("delete")
            answer_of(self._program("delete", backup))

    def _require(self, name: str) -> None:
        if name not in self._commands:
            raise Refused(
                "backup", f"there is no `{name}` command for this environment's backups",
                hint=f'write it beside `take`: backup.{name} = "tool {name} {{id}}"',
            )  # fmt: skip

    def _program(
        self, name: str, backup: Backup, *, environment: str | None = None, file: str = "", descriptors: tuple[int, ...] = ()
    ) -> Program:  # fmt: skip
        words = _filled(self._commands[name], backup, environment or backup.environment, file)
        return Program(words, f"{name} the backup", descriptors=descriptors)

    def _shown(self, name: str, backup: Backup) -> str | None:
        if name not in self._commands:
            return None
        return shlex.join(_filled(self._commands[name], backup, backup.environment, "FILE"))


def _words(name: str, text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        words = ()
    if not words:
        raise UsageError(f"the backup command `{name}` is not a command: a quote has no end", hint='"tool --name {id}"')
    return words


def _filled(words: Sequence[str], backup: Backup, environment: str, file: str) -> tuple[str, ...]:
    values = {"{id}": backup.held_as or backup.identifier, "{file}": file, "{environment}": environment}
    filled = []
    for word in words:
        for name, value in values.items():
            word = word.replace(name, value)  # noqa: PLW2901
        filled.append(word)
    return tuple(filled)


class _beside(Thread):  # noqa: N801 -- reads like the function that it stands for
    """Run something beside the stream that it writes or reads; `ended` is called when it is over."""

    def __init__(self, act: Callable[[], object], *, ended: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self._error: BackoutError | None = None
        self._ended = ended
        self.start()

    def run(self) -> None:
        try:
            self._act()
        except BackoutError as error:
            self._error = error
        finally:
            self._ended()

    def raise_first(self) -> None:
        """Raise what it raised."""
        if self._error is not None:
            raise self._error
