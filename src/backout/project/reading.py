"""Changes: found, read, and judged before anything runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from backout.change.batched import batched_step
from backout.change.model import COMMENTS, Change, DataClass
from backout.change.read import read_change
from backout.engines.batches import in_batches
from backout.engines.protocol import Database
from backout.engines.values import (
    TableFacts,
)
from backout.errors import BackoutError, DatabaseFailed, Refused, UsageError
from backout.lint.model import Level, Review
from backout.lint.private_literal import require_no_private_literals
from backout.lint.review import review
from backout.project.config import Config
from backout.project.doors import (
    Doors,
    Intent,
)
from backout.project.engine import dialect_of, usual_dialect
from backout.project.private import PrivateChanges
from backout.runs.masking import masked_review
from backout.sql.model import TEMPORARY_SCHEMAS, Dialect, Kind

#: Statements that every engine reads without running them.
_READ_ALONE = re.compile(r"[\s(]*(?:SELECT|INSERT|UPDATE|DELETE|WITH|MERGE|REPLACE|VALUES)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Misunderstood:
    """A statement that the database does not understand: it names a column that is not there, say."""

    line: int
    problem: str


@dataclass(frozen=True)
class CheckReport:
    """What is known of a change before anything runs; `tables` where an environment was asked."""

    review: Review
    tables: tuple[TableFacts, ...] = ()
    missing_tables: tuple[str, ...] = ()
    misunderstood: tuple[Misunderstood, ...] = ()


class Reading(Doors):
    """What can be said of a change without running it."""

    def change(self, name: str) -> Change:
        """A change by path, or by id: among the project's changes, else among the private ones of the ledger.

        Raises InvalidFile or UsageError; Refused for a private one that no key here opens.
        """
        path = self._path_of(name)
        if path is not None:
            return read_change(path, default_dialect=self._default_dialect())
        return self._private_change(name, self._default_dialect())

    @property
    def private(self) -> PrivateChanges:
        """The changes that are in the ledger, encrypted, and nowhere else."""
        return PrivateChanges(self._book, self.statements, self._key)

    def _path_of(self, name: str) -> Path | None:
        path = Path(name)
        if path.suffix or path.exists():
            return path
        paths = (self.config.changes / f"{name}{suffix}" for suffix in COMMENTS)
        return next((one for one in paths if one.exists()), None)

    def _private_change(self, name: str, dialect: Dialect) -> Change:
        known = [one.stem for one in self.config.changes.glob("*") if one.suffix in COMMENTS]
        near = get_close_matches(name, known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f'write it: backout new "{name}"'
        try:
            submitted = self.private.find(name)
        except BackoutError as error:
            submitted, hint = None, f"{hint}; private ones could not be looked for: {error.message}"
        if submitted is None:
            raise UsageError(
                f'no change "{name}": there is no such file, nor one in "{self.config.changes}"', hint=hint
            )
        return self.private.read(submitted, dialect)

    def _anew(self, change: Change, dialect: Dialect) -> Change:
        """The change read once more from where it is."""
        if change.is_private:
            return self._private_change(change.identifier, dialect)
        return read_change(change.path, default_dialect=dialect)

    def _default_dialect(self) -> Dialect:
        return usual_dialect(self.config.environments.values())

    def check(self, change: Change, on: str | None = None) -> CheckReport:
        """The verdict on each statement; with `on` also what the catalogue says of the tables."""
        require_no_private_literals(change, self.config.phi)
        found = masked_review(review(change))
        if on is None:
            return CheckReport(found)
        named = {name for step in change.steps for name in step.statement.tables if name[0] not in TEMPORARY_SCHEMAS}
        names = sorted(named, key=lambda n: (n[0] or "", n[1]))
        with self._opened(on, Intent.LOOK) as (database, _, _):
            facts = [(schema, name, database.table_facts(schema, name)) for schema, name in names]
            missing_ones = {(schema, name) for schema, name, fact in facts if fact is None}
            misunderstood = tuple(_misunderstood(database, change, missing_ones))
        present = tuple(fact for _, _, fact in facts if fact is not None)
        missing = tuple(f"{schema}.{name}" if schema else name for schema, name, fact in facts if fact is None)
        return CheckReport(found, present, missing, misunderstood)

    def _as_written(self, change: Change, on: str) -> Change:
        """The change read anew from its file, where people approve texts: whoever calls may have made another value."""
        if not self._policy_of(self.config.environment(on)).needs_people:
            return change
        written = self._anew(change, change.dialect)
        if written.digest != change.digest:
            raise Refused(
                "digest", f'"{change.path}" is not what it was when it was read', hint="read it again, and run that"
            )
        return written

    def _fitting(self, change: Change, on: str) -> Change:
        """The change read in the language of the database that it is to run on."""
        dialect = dialect_of(self.config.environment(on).resolved_url())
        if change.dialect is dialect:
            return change
        if change.metadata.dialect is not None:
            raise UsageError(
                f'change "{change.identifier}" is written for {change.dialect.value}, and "{on}" is {dialect.value}',
                hint="take out `dialect` of its metadata if its statements fit both",
            )
        return self._anew(change, dialect)


def _misunderstood(
    database: Database, change: Change, missing: Collection[tuple[str | None, str]]
) -> Iterator[Misunderstood]:
    """Whether the engine has batches; then have it read each statement, up to one that makes what others may be about.

    None that names a missing table, which is said already; nor those that no engine reads without running them.
    """
    private = change.metadata.data is DataClass.PHI
    batched = batched_step(change)
    if batched is not None:
        try:
            in_batches(database)
        except Refused as error:
            yield Misunderstood(batched.statement.line, error.message)
    for step in change.steps:
        one = step.statement
        if one.kind in (Kind.TEMPORARY, Kind.SETTING):
            return
        if not _READ_ALONE.match(one.text) or any(table in missing for table in one.tables):
            continue
        try:
            database.understand(one.text, one.parameters)
        except DatabaseFailed as error:
            said = f"it is not understood ({error.sqlstate or 'an error of SQLite'})" if private else error.message
            yield Misunderstood(one.line, said)


def require_readable(change: Change, config: Config) -> None:
    """No run of what `check` finds not undoable, nor of what it would put PHI into texts that people keep."""
    require_no_private_literals(change, config.phi)
    for verdict in review(change).verdicts:
        for finding in verdict.findings:
            if finding.level is Level.NOT_UNDOABLE:
                raise Refused(
                    "undoable", f"{change.path}:{finding.line}: not undoable: {finding.message}", hint=finding.hint
                )
