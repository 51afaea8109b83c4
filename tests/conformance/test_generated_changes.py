"""Random schemas, data and changes: what was run and undone is as before, and nobody else's edit is ever lost.

Everything is read by sessions of the tests' own; the engine's own comparison is not believed. The long searches are
marked `hunt` (`make hunt`); say HUNT_SEED=… to repeat one.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, event, given, note, seed, settings
from hypothesis import strategies as st

from backout.engines.values import Conflict, ConflictKind, Missing, RunState
from backout.errors import BackoutError, Conflicts, Refused
from backout.runs.report import RunReport
from conformance.merging import BY_VALUE, Key, key_of, merged, merged_whole
from conformance.programs import Language, Program, carry_out, programs
from conformance.stage import Stage
from conformance.target import Dump, Row, Target
from properties.driving import SEED, SHORTER, announce

SLOW_DATA = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def language_of(target: Target) -> Language:
    return Language(target.dialect, target.grammar, target.capabilities)


class Round:
    """One program on a database made for it."""

    def __init__(self, target: Target, folder: Path, program: Program) -> None:
        self.target, self.program, self.grammar = target, program, target.grammar
        target.reset()
        for text in program.schema:
            note(text)
            target.execute(text)
        carry_out(target, self.grammar, program.fill, keep=True)
        self.steps = carry_out(target, self.grammar, program.steps, keep=False)
        assume(self.steps)
        undo = (['append_only = ["audit"]'] if program.append_only else []) + (
            ['bookkeeping = ["updated_at"]'] if program.bookkeeping else []
        )
        options = {"isolation": f'"{program.isolation}"'} if target.capabilities.isolation_levels else {}
        self.stage = Stage(target, folder, options, "\n".join(["[undo]", *undo]))
        for text in self.steps:
            note(f"{text};")
        self.change = self.stage.change(";\n".join(self.steps) + ";")

    def dump(self) -> Dump:
        """Every writable column; what is only added to is left out by name."""
        found = self.target.dump()
        if self.program.append_only:
            del found["audit"]
        generated = {"g", "doubled"}
        return {
            table: [{name: value for name, value in row.items() if name not in generated} for row in rows]
            for table, rows in found.items()
        }

    def ghost(self, *, undo: bool) -> RunReport:
        return self.stage.project.ghost(self.change, "test", undo=undo, ask=lambda _kind, _question: True)

    def run(self) -> RunReport:
        report = self.stage.project.run(self.change, "test", ask=lambda _kind, _question: True)
        assert report.outcome is RunState.COMMITTED
        assert report.proof is not None
        for table in report.tables:
            event(table.captured_by)
        event(f"proof: {report.proof.level.split()[0]}")
        return report

    def undo(self, run: str, *, partial: bool = False) -> RunReport:
        report = self.stage.undo(run, partial=partial)
        event(f"undo: {report.undo_how}")
        return report

    def others(self) -> None:
        carry_out(self.target, self.grammar, self.program.foreign, keep=True)

    def may_be_refused(self, error: BackoutError) -> bool:
        """Whether the engine says beforehand that it refuses such a change; then nothing is written."""
        event(f"refused: {error.code}")
        return re.search(self.grammar.refusals, error.message) is not None


def there_and_back(target: Target, folder: Path, program: Program) -> None:
    """Ghost, ghost with its undo, run, undo, undo of the undo, undo again."""
    round_ = Round(target, folder, program)
    start = round_.dump()
    try:
        round_.ghost(undo=False)
        assert start == round_.dump()
        proven = round_.ghost(undo=True)
        assert "proven" == proven.way_back
        assert start == round_.dump()
        report = round_.run()
    except BackoutError as error:
        assert round_.may_be_refused(error), error
        assert start == round_.dump()
        assert [] == target.rescue_tables()
        return
    changed = round_.dump()
    if not report.tables:
        assert start == changed
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


def with_others(target: Target, folder: Path, program: Program) -> None:
    """Run, let others write, undo partially: compare every row with what the model says."""
    round_ = Round(target, folder, program)
    before = round_.dump()
    try:
        report = round_.run()
    except BackoutError as error:
        assert round_.may_be_refused(error), error
        assert before == round_.dump()
        return
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
    except Refused as error:  # where triggers cannot be kept out, what others have written can bring one in
        assert round_.may_be_refused(error), error
        assert now == round_.dump()
        return
    event(f"conflicts: {min(len(conflicts), 3)}")
    end = round_.dump()
    for table, key in program.keys.items():
        if table in end:
            mine = [one for one in conflicts if one.table.name == table]
            dumps = (before[table], after[table], now[table], end[table])
            if key:
                _judge_keyed(target, program, table, key, mine, dumps)
            else:
                _judge_keyless(target, table, mine, dumps)


def identity(one: Conflict) -> tuple[str, str, str]:
    return str(one.table), one.kind.value, repr(sorted(one.key.items()))


Dumps = tuple[list[Row], list[Row], list[Row], list[Row]]


def _judge_keyless(target: Target, table: str, conflicts: list[Conflict], dumps: Dumps) -> None:
    before, after, now, _ = dumps
    whole = merged_whole(before, after, now)
    b, a, n, e = (Counter(map(repr, rows)) for rows in dumps)
    if not conflicts:
        assert whole is not None, f"{table}: rows of the run are gone, and nobody is told"
        assert whole == e, table
    elif isinstance(target.capabilities.pairs_keyless_rows, Missing):
        assert n == e, table
    else:
        assert n - a <= e, f"{table}: rows of others are lost"
        assert e <= n + b, f"{table}: rows that nobody had"


def _judge_keyed(
    target: Target, program: Program, table: str, key: tuple[str, ...], conflicts: list[Conflict], dumps: Dumps
) -> None:
    def keyed(rows: list[Row]) -> dict[Key, Row]:
        printed = [{name: target.printed(row[name]) for name in key} for row in rows]
        assert len(printed) == len({key_of(row, key) for row in printed})
        return {key_of(one, key): row for one, row in zip(printed, rows, strict=True)}

    before, after, now, end = map(keyed, dumps)
    bookkeeping = frozenset({"updated_at"} if program.bookkeeping else ())
    expected = merged(before, after, now, bookkeeping)
    told = {key_of(one.key, key): one.kind for one in conflicts}
    halves = before.keys() ^ after.keys()
    may_have_moved = bool(before.keys() - after.keys() and after.keys() - before.keys())
    gone = {one for one in after.keys() - before.keys() if one not in now} if may_have_moved else set()
    by_value = {one: kind for one, kind in told.items() if kind in BY_VALUE}
    assert expected.conflicts == {one: kind for one, kind in by_value.items() if one not in gone}, table
    assert all(by_value.get(one, ConflictKind.DELETED) is ConflictKind.DELETED for one in gone), table
    assert table in program.constrained or table == "audit" or set(told.values()) <= BY_VALUE, table
    alone = not isinstance(target.capabilities.pairs_moved_rows, Missing)
    for one in now.keys() | end.keys() | expected.rows.keys():
        left = one in told or (one in halves and may_have_moved and not alone and not halves.isdisjoint(told))
        wanted = now.get(one) if left else expected.rows.get(one)
        held = alone and may_have_moved and bool(told) and now.get(one) == end.get(one)  # as the other half of a row
        assert held or wanted == end.get(one), f"{table} {one}: {told.get(one)}"


@settings(max_examples=6 // SHORTER, suppress_health_check=SLOW_DATA)
@given(data=st.data())
def test_what_was_run_and_undone_is_as_before(target: Target, tmp_path: Path, data: st.DataObject) -> None:
    """Ghost leaves nothing, `ghost --undo` proves, undo restores every row, and an undo can be undone."""
    there_and_back(target, tmp_path, data.draw(programs(language_of(target), foreign=False)))


@settings(max_examples=6 // SHORTER, suppress_health_check=SLOW_DATA)
@given(data=st.data())
def test_what_others_changed_since_is_kept_and_reported(target: Target, tmp_path: Path, data: st.DataObject) -> None:
    """Rows that nobody else edited are restored; edited ones are merged or reported, and never overwritten."""
    with_others(target, tmp_path, data.draw(programs(language_of(target), foreign=True)))


@pytest.mark.hunt
@settings(suppress_health_check=SLOW_DATA)
@seed(SEED)
@given(data=st.data())
def test_what_was_run_and_undone_is_as_before_hunted(
    target: Target, tmp_path: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    there_and_back(target, tmp_path, data.draw(programs(language_of(target), foreign=False)))


@pytest.mark.hunt
@settings(suppress_health_check=SLOW_DATA)
@seed(SEED)
@given(data=st.data())
def test_what_others_changed_since_is_kept_and_reported_hunted(
    target: Target, tmp_path: Path, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    with_others(target, tmp_path, data.draw(programs(language_of(target), foreign=True)))
