"""What a person sees: bills, diffs, conflicts, reviews, lists. Reports are written by hand; values are real ones."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import RenderableType

from backout.change.read import read_change
from backout.cli.bill import bill, explained
from backout.cli.conflicts import conflicts
from backout.cli.history import run, runs
from backout.cli.review import review_text
from backout.cli.rows import diff
from backout.cli.screen import cell, console, plain
from backout.engines.values import (
    Conflict,
    ConflictKind,
    Lock,
    Mode,
    RowChange,
    RunRecord,
    RunStart,
    RunState,
    SequenceMove,
    Table,
    TableFacts,
    TableName,
)
from backout.lint.review import review
from backout.runs.report import (
    AssertionReport,
    ProofReport,
    RescueReport,
    RunReport,
    StatementReport,
    TableReport,
)

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
REFERRAL, NOTE = TableName("public", "referral"), TableName("public", "note")
UPDATED = RowChange(
    REFERRAL, {"id": "7", "status": "open", "closed_at": None, "kept": "x"},
    {"id": "7", "status": "closed", "closed_at": "2026-11-20"},
)  # fmt: skip
TABLES = (
    TableReport("public.referral", 0, 131, 0, "two snapshots", True, (UPDATED,), ("status", "closed_at")),
    TableReport("public.note", 1, 0, 1, "two snapshots", False, (
        RowChange(NOTE, None, {"id": "1", "body": ""}), RowChange(NOTE, {"id": "2", "body": None}, None),
    )),
)  # fmt: skip
REPORT = RunReport(
    41, "production-41", "close", "Close the referrals", "ab" * 32, "production", Mode.REAL, RunState.COMMITTED,
    "committed",
    tables=TABLES,
    statements=(StatementReport(5, "UPDATE referral\nSET status = 'closed'", 131, 0.012),),
    assertions=(AssertionReport("none is open", True, "true"),),
    proof=ProofReport(True, "exact", ("public.note", "public.referral")),
    sequences=(SequenceMove("public.note_id_seq", None, 9),),
    locks=(Lock("public.referral", "RowExclusiveLock", "others read; DDL waits"),),
    rescue=(RescueReport("rescue.r41_1_before", 131, NOON + timedelta(days=7)),),
    duration_s=0.5,
    database={"product": "PostgreSQL", "version": "18.0", "name": "clinic", "role": "clinic_app"},
)  # fmt: skip
RECORD = RunRecord(
    41, RunStart("close", "ab" * 32, "Close the referrals", Mode.REAL, "production", "ann"), RunState.COMMITTED, NOON,
    NOON + timedelta(seconds=1.5), NOON + timedelta(days=7),
)  # fmt: skip


def drawn(parts: Iterable[RenderableType], width: int = 100) -> str:
    stream = io.StringIO()
    out = console(stream, width=width)
    for part in parts:
        out.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n"))


def test_the_bill_of_a_run() -> None:
    assert (
        drawn(bill(REPORT, rows=10, next_command="backout undo production-41 --on production"))
        == """\
run     production-41
change  close: Close the referrals
digest  abababababababab
on      production (PostgreSQL 18.0, database clinic, role clinic_app)
state   committed

rows
  table            inserted  updated  deleted
  public.referral         0      131        0  named in the change
  public.note             1        0        1  reached by a cascade, trigger or function

before → after
  public.referral
    ~ id 7:  status open → closed  closed_at NULL → 2026-11-20
      … and 130 more
  public.note
    + id 1, body ""
    - id 2, body NULL

statements
  line  rows    took
     5   131  0.01 s  UPDATE referral SET status = 'closed'

assertions
  ✓ none is open

sequences stay advanced
  public.note_id_seq  not used yet → 9

locks until the end
  public.referral  RowExclusiveLock (others read; DDL waits)

proof
  complete, exact: every write that the database counted is a row that was captured
  2 tables compared: public.note, public.referral

rescue: the rows as they were, and as this run left them
  table                rows  kept until
  rescue.r41_1_before   131  2026-11-28 12:00 UTC

took 0.50 s
next: backout undo production-41 --on production
"""
    )


def test_the_bill_of_a_ghost_run_says_that_nothing_was_kept() -> None:
    report = replace(
        REPORT, mode=Mode.GHOST, outcome=RunState.ROLLED_BACK, state="untouched", way_back="proven", rescue=()
    )
    text = drawn(bill(report, rows=0))
    assert "state      rolled back, untouched; nothing was kept, as in every ghost run\n" in text
    assert "way back   proven\n" in text
    assert "before → after" not in text


def test_a_run_that_wrote_nothing_says_so() -> None:
    assert "\nrows\n  nothing was written\n" in drawn(bill(replace(REPORT, tables=()), rows=10))
    assert "nothing was written" not in drawn(bill(replace(REPORT, tables=(), proof=None), rows=10))


def test_an_undo_says_what_it_put_back_and_of_which_run() -> None:
    text = drawn(bill(replace(REPORT, mode=Mode.UNDO, undo_of=40, identifier="production-42"), rows=0))
    assert text.startswith("undo    production-42 of run production-40\n")
    assert "  public.note             1        0        1  put back\n" in text


def test_a_failed_assertion_shows_what_it_was() -> None:
    report = replace(REPORT, assertions=(AssertionReport("none is open", False, "false"),))
    assert "  ✗ none is open: it is false\n" in drawn(bill(report, rows=10))


@pytest.mark.parametrize("width", [80, 120])
def test_wide_rows_fit_the_screen(width: int) -> None:
    row = {f"column_{n}": "long value " * 20 for n in range(30)}
    report = replace(
        REPORT, tables=(TableReport("public." + "t" * 60, 1, 0, 0, "session", True, (RowChange(NOTE, None, row),)),)
    )
    assert max(len(line) for line in drawn(bill(report, rows=10), width).split("\n")) <= width


def test_long_values_that_differ_late_show_where_they_differ() -> None:
    old, new = "a" * 100 + "old" + "b" * 100, "a" * 100 + "new" + "b" * 100
    row = RowChange(NOTE, {"id": "1", "body": old}, {"id": "1", "body": new})
    table = TableReport("public.note", 0, 1, 0, "session", True, (row,), ("body",))
    text = drawn(diff(table, 10), 120)
    assert "…aaaaaaaaaaoldbbbb" in text
    assert "…aaaaaaaaaanewbbbb" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NULL"), ("NULL", '"NULL"'), ("", '""'), (" x", '" x"'), ("x", "x"), ("ü€", "ü€"),
        ("a" * 30 + "b" * 30, "a" * 20 + "…" + "b" * 19),
    ],
)  # fmt: skip
def test_cells(value: str | None, shown: str) -> None:
    assert cell(value) == shown


def test_a_value_cannot_steer_the_terminal() -> None:
    assert plain("\x1b[2J\r\n\u202e") == "\\x1b[2J\\r\\n\\u202e"


def test_markup_in_a_value_is_text() -> None:
    row = RowChange(NOTE, None, {"body": "[red]:smile:[/red] [link=x]"})
    table = TableReport("public.note", 1, 0, 0, "session", True, (row,))
    assert "[red]:smile:[/red] [link=x]" in drawn(diff(table, 10))


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ("exact", "every write that the database counted is a row that was captured"),
        ("repeated 1", "1 write went to rows that the run had written before"),
        ("repeated 3", "3 writes went to rows that the run had written before"),
        (
            "bounded",
            (
                "the database's count is a bound, since it also counts what the run itself took back (savepoints, caught "
                "errors, rows made and deleted again); every table that was written has been compared"
            ),
        ),
    ],
)
def test_a_proof_is_explained(level: str, words: str) -> None:
    assert explained(level) == words


def test_conflicts_are_numbered_with_before_ours_and_now() -> None:
    found = [
        Conflict(1, REFERRAL, ConflictKind.CHANGED, {"id": "7"}, ("status",), {"id": "7", "status": "open"},
                 {"id": "7", "status": "closed"}, {"id": "7", "status": "reopened by hand"}),
        Conflict(2, REFERRAL, ConflictKind.DELETED, {"id": "9"}, (), {"id": "9", "status": "open"},
                 {"id": "9", "status": "closed"}, None, "by a cascade"),
    ]  # fmt: skip
    assert (
        drawn(conflicts(found))
        == """\
1. public.referral id 7: changed since
   column  before  ours    now
   status  open    closed  reopened by hand
2. public.referral id 9: deleted since (by a cascade)
   column  before  ours    now
   status  open    closed  (no row)
before: as it was before the run; ours: as the run left it; now: as it is
"""
    )


def test_the_review_names_each_statement_with_its_findings(tmp_path: Path) -> None:
    path = tmp_path / "close.sql"
    path.write_text(
        '-- /// change\n-- title = "Close"\n-- ///\n-- @expect 1\nUPDATE referral SET status = 1 WHERE id = 7;\n'
        "ALTER TABLE referral ADD COLUMN a int;\n"
    )
    facts = TableFacts(Table(REFERRAL, "1", (), ("id",), ("audit",)), 100, 81920, ("public.note",))
    text = drawn(review_text(review(read_change(path)), [facts], ["nope"], on="staging"), 120)
    assert "  line 5    exact         UPDATE referral SET status = 1 WHERE id = 7\n" in text
    assert "  line 6    not undoable  ALTER TABLE referral ADD COLUMN a int\n" in text
    assert "[forbidden, 6:1]" in text
    assert (
        "tables on staging\n  public.referral  key id, about 100 rows, 80 kB\n    cascades to public.note\n"
        '    triggers: audit\n\nmissing\n  no table "nope" on staging\n' in text
    )
    assert text.endswith("not undoable: it may not run: what it does could not be taken back\n")


def test_the_review_of_a_change_whose_table_is_missing_does_not_end_well(tmp_path: Path) -> None:
    path = tmp_path / "close.sql"
    path.write_text('-- /// change\n-- title = "Close"\n-- ///\nUPDATE nope SET status = 1 WHERE id = 7;\n')

    text = drawn(review_text(review(read_change(path)), [], ["nope"], on="staging"), 120)

    assert text.endswith("not ready: 1 table of the change is not on staging\n")


def test_the_list_of_runs() -> None:
    undo = replace(RECORD, number=42, start=replace(RECORD.start, mode=Mode.UNDO, undo_of=41), finished_at=None)
    assert (
        drawn(runs([undo, RECORD]))
        == """\
run            kind        outcome    started                 took  by   change  way back until
production-42  undo of 41  committed  2026-11-21 12:00 UTC       -  ann  close   -
production-41  real        committed  2026-11-21 12:00 UTC  1.50 s  ann  close   -
"""
    )
    assert drawn(runs([])) == "no runs yet\n"


def test_the_list_of_runs_tells_a_ghost_undo_from_one_that_failed() -> None:
    start = replace(RECORD.start, mode=Mode.UNDO, undo_of=41)
    failed = replace(RECORD, number=42, start=start, state=RunState.ROLLED_BACK, report={"error": "proof"})
    ghost = replace(failed, number=43, report={"ghost_undo": True})
    assert [line[:41] for line in drawn(runs([ghost, failed]), 140).splitlines()[1:]] == [
        "production-43  ghost undo of 41  rolled b", "production-42  undo of 41        rolled b",
    ]  # fmt: skip


def test_an_undo_in_full_says_how_many_rows_it_left_listed_or_not() -> None:
    start = replace(RECORD.start, mode=Mode.UNDO, undo_of=41)
    undo = replace(RECORD, number=42, start=start, report={"conflicts": [{}, {}], "conflicts_unlisted": 3})
    assert "left      5 rows in conflict, not put back\n" in drawn(run(undo, (), rows=0))


def test_one_run_in_full_has_the_notes_that_its_end_had() -> None:
    note = "2 more rows of [shop.t] are left as well"
    assert drawn(run(replace(RECORD, report={"notes": [note]}), (), rows=10)).rstrip().endswith(f"notes\n  - {note}")


def test_one_run_in_full() -> None:
    assert (
        drawn(run(replace(RECORD, open_conflicts=2), TABLES[:1], rows=10))
        == f"""\
run        production-41  (real)
change     close: Close the referrals
digest     {"ab" * 32}
outcome    committed
by         ann
started    2026-11-21 12:00 UTC, took 1.50 s
way back   -
conflicts  2 rows not restored

rows
  table            inserted  updated  deleted  kept in
  public.referral         0      131        0

before → after
  public.referral
    ~ id 7:  status open → closed  closed_at NULL → 2026-11-20
      … and 130 more
"""
    )
