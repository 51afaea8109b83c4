"""Random schemas, data and changes: what was run and undone is as before, and nobody else's edit is ever lost.

Everything is read by sessions of the tests' own; the engine's own comparison is not believed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, assume, event, given, note, seed, settings
from hypothesis import strategies as st

from backout import Project
from backout.engines.values import Conflict, RunState
from backout.errors import Conflicts
from backout.project.config import Config, Environment
from backout.runs.report import RunReport
from properties.driving import SEED, SHORTER, Dump, Row, announce, dump
from properties.merging import BY_VALUE, by_key, key_of, merged, merged_whole
from properties.schemas import PREAMBLE, Program, commit_each, programs, survivors
from servers import PostgresDatabase

SLOW_DATA = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def yes(_kind: str, _question: str) -> bool:
    return True


class Round:
    """One program on a database made for it."""

    def __init__(self, database: PostgresDatabase, folder: Path, program: Program) -> None:
        self.database, self.program = database, program
        self._make()
        assume(self.steps)
        self.project = Project(
            Config(
                folder=folder,
                changes=folder,
                append_only=("audit",) if program.append_only else (),
                bookkeeping=("updated_at",) if program.bookkeeping else (),
                environments={
                    "test": Environment(
                        "test", database.login_url, role=database.application_role, isolation=program.isolation
                    )
                },
            )
        )
        self.change = self.project.change(str(self._written(folder)))

    def _make(self) -> None:
        database, program = self.database, self.program
        database.execute("DROP SCHEMA IF EXISTS app, backout, rescue CASCADE")
        database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO "{database.application_role}"')
        verb, preposition = ("GRANT", "TO") if program.replica else ("REVOKE", "FROM")
        database.execute(f'{verb} SET ON PARAMETER session_replication_role {preposition} "{database.login_role}"')
        with psycopg.connect(database.application_url, autocommit=True) as session:
            session.execute(PREAMBLE.encode())
            for table in program.tables:
                for text in table.ddl:
                    session.execute(text.encode())
            commit_each(session, program.fill)
            self.steps = survivors(session, program.steps)

    def _written(self, folder: Path) -> Path:
        for text in self.steps:
            note(text)
        path = folder / "change.sql"
        path.write_text('-- /// change\n-- title = "T"\n-- ///\n' + ";\n".join(self.steps) + ";\n")
        return path

    def dump(self) -> Dump:
        """Every writable column; what is only added to is left out by name."""
        found = dump(self.database, "app")
        if self.program.append_only:
            del found["audit"]
        generated = {"g", "doubled"}
        return {
            table: [{name: value for name, value in row.items() if name not in generated} for row in rows]
            for table, rows in found.items()
        }

    def run(self) -> RunReport:
        report = self.project.run(self.change, "test", ask=yes)
        assert report.outcome is RunState.COMMITTED
        assert report.proof is not None
        for table in report.tables:
            event(table.captured_by)
        event(f"proof: {report.proof.level.split()[0]}")
        return report

    def undo(self, run: str, *, partial: bool = False) -> RunReport:
        report = self.project.undo(run, ask=yes, partial=partial)
        event(f"undo: {report.undo_how}")
        return report

    def others(self) -> None:
        with psycopg.connect(self.database.application_url, autocommit=True) as session:
            commit_each(session, self.program.foreign)


def there_and_back(database: PostgresDatabase, folder: Path, program: Program) -> None:
    """Ghost, ghost with its undo, run, undo, undo of the undo, undo again."""
    round_ = Round(database, folder, program)
    start = round_.dump()
    round_.project.ghost(round_.change, "test", ask=yes)
    assert start == round_.dump()
    proven = round_.project.ghost(round_.change, "test", undo=True, ask=yes)
    assert proven.way_back == "proven"
    assert start == round_.dump()
    report = round_.run()
    changed = round_.dump()
    if not report.tables:
        return
    first = round_.undo(report.identifier)
    assert not first.conflicts
    assert start == round_.dump()
    if first.tables:
        second = round_.undo(first.identifier)
        assert not second.conflicts
        assert changed == round_.dump()
        round_.undo(report.identifier)
        assert start == round_.dump()


def with_others(database: PostgresDatabase, folder: Path, program: Program) -> None:
    """Run, let others write, undo partially: compare every row with what the model says."""
    round_ = Round(database, folder, program)
    before = round_.dump()
    report = round_.run()
    assume(report.tables)
    after = round_.dump()
    round_.others()
    now = round_.dump()
    conflicts: tuple[Conflict, ...] = ()
    try:
        round_.undo(report.identifier)
    except Conflicts as met:
        assert now == round_.dump()
        assert isinstance(met.report, RunReport)
        conflicts = round_.undo(report.identifier, partial=True).conflicts
        assert {identity(one) for one in met.report.conflicts} == {identity(one) for one in conflicts}
    event(f"conflicts: {min(len(conflicts), 3)}")
    end = round_.dump()
    for table, key in program.keys.items():
        if table in end:
            mine = [one for one in conflicts if one.table.name == table]
            dumps = (before[table], after[table], now[table], end[table])
            _judge(program, table, key, mine, dumps)


def identity(one: Conflict) -> tuple[str, str, str]:
    return str(one.table), one.kind.value, repr(sorted(one.key.items()))


Dumps = tuple[list[Row], list[Row], list[Row], list[Row]]


def _judge(program: Program, table: str, key: tuple[str, ...], conflicts: list[Conflict], dumps: Dumps) -> None:
    before, after, now, end = dumps
    if not key:
        whole = merged_whole(before, after, now)
        if conflicts or whole is None:
            assert conflicts, f"{table}: rows of the run are gone, and nobody is told"
            assert Counter(map(repr, now)) == Counter(map(repr, end)), table
        else:
            assert whole == Counter(map(repr, end)), table
        return
    bookkeeping = frozenset({"updated_at"} if program.bookkeeping else ())
    then, found = by_key(now, key), by_key(end, key)
    expected = merged(by_key(before, key), by_key(after, key), then, bookkeeping)
    told = {key_of(one.key, key): one.kind for one in conflicts}
    assert expected.conflicts == {one: kind for one, kind in told.items() if kind in BY_VALUE}, table
    assert table in program.constrained or table == "audit" or set(told.values()) <= BY_VALUE, table
    for one in then.keys() | found.keys() | expected.rows.keys():
        wanted = then.get(one) if one in told else expected.rows.get(one)
        assert wanted == found.get(one), f"{table} {one}: {told.get(one)}"


@settings(max_examples=9 // SHORTER, suppress_health_check=SLOW_DATA)
@given(data=st.data())
def test_what_was_run_and_undone_is_as_before(postgres: PostgresDatabase, tmp_path: Path, data: st.DataObject) -> None:
    """Ghost leaves nothing, `ghost --undo` proves, undo restores every row, and an undo can be undone."""
    there_and_back(postgres, tmp_path, data.draw(programs(postgres.version, foreign=False)))


@settings(max_examples=9 // SHORTER, suppress_health_check=SLOW_DATA)
@given(data=st.data())
def test_what_others_changed_since_is_kept_and_reported(
    postgres: PostgresDatabase, tmp_path: Path, data: st.DataObject
) -> None:
    """Rows that nobody else edited are restored; edited ones are merged or reported, and never overwritten."""
    with_others(postgres, tmp_path, data.draw(programs(postgres.version, foreign=True)))


@pytest.mark.hunt
@settings(suppress_health_check=SLOW_DATA)
@seed(SEED)
@given(data=st.data())
def test_what_was_run_and_undone_is_as_before_hunted(
    postgres: PostgresDatabase, tmp_path: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    there_and_back(postgres, tmp_path, data.draw(programs(postgres.version, foreign=False)))


@pytest.mark.hunt
@settings(suppress_health_check=SLOW_DATA)
@seed(SEED)
@given(data=st.data())
def test_what_others_changed_since_is_kept_and_reported_hunted(
    postgres: PostgresDatabase, tmp_path: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    with_others(postgres, tmp_path, data.draw(programs(postgres.version, foreign=True)))
