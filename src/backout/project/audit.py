"""`backout audit`: the whole ledger recomputed, its signatures checked, and held against the journals of databases.

Not for: repairing anything. Invariant: it believes nothing that it has not recomputed, and names the first entry that is
not as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from backout.engines.protocol import Database
from backout.engines.values import JournalState, Mode, RunRecord, RunState
from backout.gates.evidence import Said
from backout.ledger.entry import Entry, Head, breaks
from backout.ledger.reading import Reading, signed_in
from backout.ledger.statement import Kind
from backout.project.book import Book
from backout.project.certificates import certificates_in, is_kept
from backout.project.permission import cut_off
from backout.project.run_entries import key_of

#: What a run in batches may be said to be that was resumed, or cancelled, later.
_RESUMABLE = {RunState.INTERRUPTED.value, RunState.PARTIAL.value}
_ALL = 1_000_000  # runs of a journal
_RUN, _CERTIFICATE = '\\"kind\\":\\"run\\"', '\\"kind\\":\\"certificate\\"'
_UNSIGNED = '"signature":null'  # in the body of an entry; a text that people wrote has its quotes escaped there


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written; `position` 0 is not about one entry."""

    position: int
    text: str


@dataclass(frozen=True)
class Audit:
    """What was found. `unsigned` statements are no problem of the ledger, but prove nothing about who made them."""

    entries: int
    head: Head
    signed: int
    unsigned: int
    seconds: float
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def audit(book: Book, database: Database | None = None, *, signatures: bool = True) -> Audit:
    """Recompute everything; with a database also whether all that its journal has seen is still there."""
    began = monotonic()
    reading = Reading(book.ledger.rows())
    entries = reading.entries
    problems = [Problem(one.position, one.problem) for one in breaks(entries)]
    signed = [entry for entry in entries if _UNSIGNED not in entry.body]
    notes: list[str] = []
    if signatures:
        found, notes = _of_signatures(book, entries)
        problems += found
    if database is not None:
        found, more = _of_journal(reading, database)
        problems, notes = problems + found, notes + more
    problems.sort(key=lambda one: (one.position == 0, one.position))
    return Audit(
        len(entries), reading.head, len(signed), len(entries) - len(signed), monotonic() - began,
        tuple(problems), tuple(notes),
    )  # fmt: skip


def _of_signatures(book: Book, entries: Sequence[Entry]) -> tuple[list[Problem], list[str]]:
    """Forged ones are problems; keys that are nobody's (any more) are notes, since people leave."""
    statements = [(entry, one) for entry in entries if (one := signed_in(entry)) is not None]
    known = {entry.position for entry, _ in statements}
    problems = [Problem(one.position, "it is not a statement") for one in entries if one.position not in known]
    signed = [pair for pair in statements if pair[1].signature is not None]
    checked = book.check([one for _, one in signed])
    notes = []
    for (entry, one), check in zip(signed, checked, strict=True):
        what = f'statement "{one.statement.kind.value}" by {one.statement.person}'
        if check.forged:
            problems.append(Problem(entry.position, f"forged: {what}: {check.problem}"))
        elif check.problem is not None:
            notes.append(f"entry {entry.position}: {what}: {check.problem}")
    return problems, notes


def _of_journal(reading: Reading, database: Database) -> tuple[list[Problem], list[str]]:
    if database.journal.state() is not JournalState.PRESENT:
        return [], ["this database has no journal: there is nothing to hold the ledger against"]
    identity = database.journal.stamp()[1]
    records = [one for one in database.journal.runs(_ALL) if one.state is not RunState.RUNNING]
    cut = cut_off(reading, records)
    problems = [Problem(0, cut)] if cut else []
    notes = list(_policies(records))
    more, unkept = _certificates(reading, database.journal.stamp()[0], {one.identifier: one for one in records})
    problems, notes = problems + more, notes + unkept
    known = reading.run_keys()
    missing = [
        one for one in records
        if one.start.mode is not Mode.GHOST and key_of(identity, one.number) not in known
    ]  # fmt: skip
    if missing:
        notes.append(f"{len(missing)} runs of the journal are not in the ledger yet; the next run there copies them")
    there = {key_of(identity, one.number): one for one in records}
    for entry in reading.entries:
        one = signed_in(entry) if _RUN in entry.body else None
        if one is None or one.statement.kind is not Kind.RUN:
            continue
        key, outcome = str(one.statement.details.get("key")), str(one.statement.details.get("outcome"))
        if not key.startswith(f"{identity}#"):
            continue
        if key not in there:
            problems.append(
                Problem(entry.position, f"the journal does not have its run {one.statement.details['run']}")
            )
        elif there[key].batches and outcome in _RESUMABLE:
            continue  # a run in batches went on since; what it came to is a later entry, or will be
        elif there[key].state.value != outcome:
            problems.append(Problem(
                entry.position,
                f"it says that run {one.statement.details['run']} was {outcome}, and the journal {there[key].state.value}",
            ))  # fmt: skip
    return problems, notes


def _policies(records: Sequence[RunRecord]) -> Iterator[str]:
    """Where what decides who may approve and run was another one than for the run before; `records` newest first."""
    before: RunRecord | None = None
    for one in sorted((one for one in records if one.start.mode is not Mode.GHOST), key=lambda one: one.number):
        if before is not None and _policy(one) != _policy(before):
            if _policy(one) is None:
                yield f"{one.identifier} ran where there was no ledger to ask, and {before.identifier} was asked"
            elif _policy(before) is not None:
                yield f"{one.identifier} ran under another policy than {before.identifier}: backout.toml or its files differ"
        before = one


def _policy(record: RunRecord) -> str | None:
    found = (record.report.get("authority") or {}).get("policy")
    return found if isinstance(found, str) else None


def _certificates(
    reading: Reading, environment: str, records: Mapping[str, RunRecord]
) -> tuple[list[Problem], list[str]]:
    """Certificates of this environment that say something else than its journal, and those that it has nothing of.

    The latter are of a database that was made anew since, of an older backout, or made up by whoever signed them.
    """
    problems, notes = [], []
    for entry in reading.entries:
        one = signed_in(entry) if _CERTIFICATE in entry.body else None
        if one is None or one.statement.kind is not Kind.CERTIFICATE or one.statement.environment != environment:
            continue
        (found,) = certificates_in([Said(one.statement, one.statement.person)]) or (None,)
        if found is None:
            continue
        record, who = records.get(found.run), one.statement.person
        if record is None:
            notes.append(f"entry {entry.position}: {who} certifies {found.run}, and the journal has no such run")
        elif "certificate" not in record.report:
            notes.append(
                f"entry {entry.position}: {who} certifies {found.run}, and its journal has no certificate of it"
            )
        elif not is_kept(record, found):
            text = f"it says of {found.run} what the journal does not: its certificate is another one"
            problems.append(Problem(entry.position, text))
    return problems, notes
