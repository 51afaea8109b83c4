"""Data-change tracking: what the `@pre` and `@post` queries say, and the change itself, as CSV files beside the project.

A tracking query covers the rows that change and no others. Where it names the key of the changed table, that is checked:
`@pre` must have the keys of the rows that were updated or deleted, `@post` those of the rows that were updated or
inserted. Otherwise it is taken for a summary, and not compared.

Not for: PHI, of which no row leaves the database. Invariants: memory does not grow with the rows; a file bears its own
name only once the run is committed, and its sha256 is in the run's report, which is committed with the change.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from backout.change.model import Change, DataClass, Step, StepKind
from backout.change.new import slug
from backout.engines.protocol import Tracked
from backout.engines.values import CapturedTable, Table
from backout.errors import AssertionFailed, UsageError
from backout.runs.report import TrackingReport

Cells = Sequence[str | None]

_SPECIAL = re.compile(r'[,"\n\r]')
_UNFINISHED = ".unfinished"  # what follows the name of a file as long as the run is not committed
_AT_ONCE = 1_000  # rows between two writes
_SPAN = 2**256


@dataclass
class Identifiers:
    """A set of identifiers that can be compared with another at constant memory: how many, and the sum of their hashes."""

    many: int = 0
    total: int = 0

    def add(self, identifier: Cells) -> None:
        """One more; equal ones count each time."""
        text = "\0".join("\1" if cell is None else f"={cell}" for cell in identifier)
        self.many += 1
        self.total = (self.total + int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")) % _SPAN


@dataclass
class Sheet:
    """One file: rows are appended as they come."""

    name: str
    step: str  # "pre", "post", "change"
    title: str  # of the query; of a change the table
    path: Path | None  # None: counted only
    wanted: str = ""  # its name without a number, by which it differs from another one
    rows: int = 0
    sha256: str | None = None
    identifiers: Identifiers | None = None
    file: IO[bytes] | None = None
    pending: list[str] = field(default_factory=list)  # lines that are not written yet
    kept: bool = False  # it has its own name
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def begin(self, columns: Sequence[str]) -> None:
        """Write the names of the columns."""
        if self.path is not None:
            with _on_disk(self.path):
                descriptor = os.open(f"{self.path}{_UNFINISHED}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self.file = os.fdopen(descriptor, "wb")
            self._write(columns)

    def add(self, row: Cells) -> None:
        """Write one row."""
        self.rows += 1
        if self.file is not None:
            self._write(row)

    def _write(self, row: Cells) -> None:
        self.pending.append(",".join(map(_cell, row)))
        if len(self.pending) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        assert self.file is not None
        assert self.path is not None
        lines = "".join(f"{line}\n" for line in self.pending).encode()
        self.pending.clear()
        self.hash.update(lines)
        with _on_disk(self.path):
            self.file.write(lines)

    def end(self) -> None:
        """All of it is on the disk."""
        if self.file is not None and self.path is not None:
            self._flush()
            with _on_disk(self.path):
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()
            self.file, self.sha256 = None, self.hash.hexdigest()

    def report(self) -> TrackingReport:
        """As the run reports it."""
        return TrackingReport(self.step, self.title, self.rows, self.name if self.path else None, self.sha256)


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(
            f'unable to write the tracking file "{path}": {reason}', state="rolled back",
            hint='make room there, name another folder (`tracking` under [project]), or write tracking = "summary"',
        ) from None  # fmt: skip


def _cell(value: str | None) -> str:
    """As PostgreSQL's COPY writes CSV: NULL is empty, an empty text is in quotes."""
    if value is None:
        return ""
    if value and not _SPECIAL.search(value):
        return value
    return '"' + value.replace('"', '""') + '"'


class Tracking:
    """What is tracked of one run. `folder` None: rows are counted and compared, no file is written.

    Not active: the change has no tracking queries, or the engine cannot hand out rows (capability `tracking`).
    """

    def __init__(self, change: Change, folder: Path | None, target: Table | None, *, active: bool) -> None:
        self._change, self._folder, self._target, self.active = change, folder, target, active
        self._key = target.key if target else ()
        self._sheets: list[Sheet] = []
        self.run = ""

    @property
    def report(self) -> tuple[TrackingReport, ...]:
        """What was written, and counted."""
        return tuple(sheet.report() for sheet in self._sheets)

    def begin(self, run: str) -> None:
        """The run has its number now."""
        self.run = run

    def query(self, step: Step, values: object, source: object) -> int:
        """Ask one tracking query of `source`, and write down what it says. Returns how many rows."""
        assert isinstance(source, Tracked), "an engine with the capability `tracking` has what hands out rows"
        assert isinstance(values, Sequence), "and takes its parameters by place"
        sheet = self._sheet(self._name_of(step), step.kind.value, step.title or "")
        places: list[int] = []

        def begin(columns: Sequence[str]) -> None:
            sheet.begin(columns)
            places.extend(self._places(columns))
            sheet.identifiers = Identifiers() if places else None

        def take(row: Cells) -> None:
            sheet.add(row)
            if sheet.identifiers is not None:
                sheet.identifiers.add([row[place] for place in places])

        source.stream(step.statement.text, values, begin, take)
        sheet.end()
        return sheet.rows

    def found_again(self, step: Step) -> int | None:
        """Take up the file that this run has written before it was interrupted; None: it is not here (any more)."""
        sheet = self._sheet(self._name_of(step), step.kind.value, step.title or "")
        if sheet.path is None or not sheet.path.exists():
            self._sheets.remove(sheet)
            return None
        with sheet.path.open("rb") as file:
            while block := file.read(2**16):
                sheet.hash.update(block)
        sheet.sha256 = sheet.hash.hexdigest()
        with sheet.path.open(encoding="utf-8", newline="") as text:
            rows = csv.reader(text)
            columns = next(rows, [])
            places = self._places(columns)
            sheet.identifiers = Identifiers() if places else None
            for row in rows:
                sheet.rows += 1
                if sheet.identifiers is not None:
                    sheet.identifiers.add([row[place] for place in places])
        sheet.kept = True
        return sheet.rows

    def _name_of(self, step: Step) -> str:
        return f"{self.run}-{slug(step.title or '')}-{step.kind.value}"

    def _places(self, columns: Sequence[str]) -> list[int]:
        """Where the key's columns are; empty: the query does not name them all."""
        return [columns.index(name) for name in self._key] if self._key and set(self._key) <= set(columns) else []

    def changed(self, tables: Sequence[CapturedTable], source: object) -> tuple[TrackingReport, ...]:
        """Write down the change itself, and compare; raises AssertionFailed where a query covers other rows."""
        if not self.active:
            return ()
        assert isinstance(source, Tracked)
        named, old, new = len(tables) > 1, Identifiers(), Identifiers()
        for captured in tables:
            if not captured.table.key:
                continue  # nothing tells which row before is which one after
            name = f"-{slug(str(captured.table.name))}" if named else ""
            found = self._change_of(captured, f"{self.run}-change{name}", source)
            if self._target and captured.table.name == self._target.name:
                old, new = found
        self._compare(old, new)
        return self.report

    def _change_of(self, captured: CapturedTable, name: str, source: Tracked) -> tuple[Identifiers, Identifiers]:
        key, columns = captured.table.key, [one for one in captured.after_columns if one not in captured.table.key]
        sheet = self._sheet(name, "change", str(captured.table.name))
        old, new = Identifiers(), Identifiers()
        sheet.begin([*key, "operation", *(f"{when}_{one}" for one in columns for when in ("old", "new"))])
        nothing = (None,) * len(columns)

        def take(identifier: Cells, before: Cells | None, after: Cells | None) -> None:
            if before is not None:
                old.add(identifier)
            if after is not None:
                new.add(identifier)
            operation = "insert" if before is None else "delete" if after is None else "update"
            pairs = zip(before or nothing, after or nothing, strict=True)
            sheet.add([*identifier, operation, *(cell for pair in pairs for cell in pair)])

        source.changes(captured, columns, take)
        sheet.end()
        return old, new

    def _compare(self, old: Identifiers, new: Identifiers) -> None:
        for sheet in self._sheets:
            wanted = {"pre": old, "post": new}.get(sheet.step)
            if wanted is None or sheet.identifiers is None or sheet.identifiers == wanted:
                continue
            verb = "updated or deleted" if sheet.step == "pre" else "updated or inserted"
            same = "other rows: as many" if sheet.identifiers.many == wanted.many else f"{sheet.rows} rows"
            raise AssertionFailed(
                f'the tracking query @{sheet.step} "{sheet.title}" has {same}, and the change has {verb} {wanted.many}: '
                "it must cover the rows that change, and no others",
                hint="give the query the condition of the statement; one without the key's columns is not compared",
            )

    def keep(self) -> tuple[str, ...]:
        """The run is committed: each file gets its name. Returns in words what was kept; it is too late to fail."""
        problems, kept = [], []
        for sheet in self._sheets:
            if sheet.path is not None and not sheet.kept:
                try:
                    Path(f"{sheet.path}{_UNFINISHED}").replace(sheet.path)
                    sheet.kept = True
                    kept.append(sheet.name)
                except OSError as error:
                    reason = (error.strerror or "unknown error").lower()
                    problems.append(f'the tracking file "{sheet.name}" kept the ending {_UNFINISHED}: {reason}')
        return (*([f'tracking files in "{self._folder}": {", ".join(kept)}'] if kept else []), *problems)

    def discard(self) -> None:
        """The run is not committed: nothing stays."""
        for sheet in self._sheets:
            with suppress(OSError):
                if sheet.file is not None:
                    sheet.file.close()
            with suppress(OSError):
                if sheet.path is not None:
                    Path(f"{sheet.path}{_UNFINISHED}").unlink(missing_ok=True)

    def _sheet(self, name: str, step: str, title: str) -> Sheet:
        path, same = None, sum(1 for one in self._sheets if one.wanted == name)
        wanted, name = name, f"{name}-{same + 1}" if same else name
        if self._folder is not None:
            path = _private(self._folder) / f"{name}.csv"
        sheet = Sheet(f"{name}.csv", step, title, path, wanted)
        self._sheets.append(sheet)
        return sheet


def _private(folder: Path) -> Path:
    """The folder, for its owner alone; made with a note that keeps its files out of git."""
    try:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise UsageError(
            f'unable to make the folder of the tracking files "{folder}": {reason}', hint='name another: tracking = "…"'
        ) from None
    return folder


def is_tracked(change: Change) -> bool:
    """Whether it has tracking queries, and its rows may leave the database."""
    return change.metadata.data is not DataClass.PHI and any(
        step.kind in {StepKind.PRE, StepKind.POST} for step in change.steps
    )


def target_of(change: Change, find: Callable[[str | None, str], Table | None]) -> Table | None:
    """The one table that the statements write; None where they write several, or a view."""
    targets = {
        (one.schema, one.table)
        for step in change.steps
        if step.kind is StepKind.APPLY
        for one in step.statement.targets
    }
    return find(*targets.pop()) if len(targets) == 1 else None
