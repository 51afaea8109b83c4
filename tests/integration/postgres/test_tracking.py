"""Data-change tracking: what `@pre` and `@post` say and the change itself, as CSV files, checked against each other."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backout.errors import AssertionFailed, Interrupted, InvalidFile, PartlyCommitted
from backout.project.run_entries import run_statement
from backout.runs.report import RunReport
from integration.postgres.stage import Stage, failure, stage_for, yes
from servers import PostgresDatabase

pytestmark = pytest.mark.ends

PRE = "-- @pre \"Open ones\"\nSELECT id, status, note FROM referral WHERE status = 'open';\n"
CLOSE = "UPDATE referral SET status = 'closed', note = NULL WHERE status = 'open';\n"
POST = '-- @post "Closed ones"\nSELECT id, status, note FROM referral WHERE id % 3 = 0;\n'
TRACKED = PRE + CLOSE + POST


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    made = stage_for(postgres, tmp_path)
    made.make("""
        CREATE TABLE referral (id bigint PRIMARY KEY, status text NOT NULL, note text, at timestamptz DEFAULT now());
        INSERT INTO referral SELECT g, CASE WHEN g % 3 = 0 THEN 'open' ELSE 'new' END,
            CASE WHEN g = 3 THEN 'a "quoted", word' WHEN g = 6 THEN '' WHEN g = 9 THEN E'two\nlines' ELSE 'n' || g END
          FROM generate_series(1, 5000) g;
    """)
    return made


def files(stage: Stage) -> list[str]:
    folder = stage.folder / "tracking"
    return sorted(one.name for one in folder.glob("*.csv*")) if folder.exists() else []


def content(stage: Stage, name: str) -> list[list[str]]:
    with (stage.folder / "tracking" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_the_queries_and_the_change_are_written_with_their_hashes(stage: Stage) -> None:
    report = stage.run(TRACKED)
    assert files(stage) == ["test-1-change.csv", "test-1-closed-ones-post.csv", "test-1-open-ones-pre.csv"]
    pre, change = content(stage, "test-1-open-ones-pre.csv"), content(stage, "test-1-change.csv")
    assert pre[:4] == [["id", "status", "note"], ["3", "open", 'a "quoted", word'], ["6", "open", ""],
                       ["9", "open", "two\nlines"]]  # fmt: skip
    assert change[0] == ["id", "operation", "old_status", "new_status", "old_note", "new_note"]
    assert sorted(int(row[0]) for row in change[1:]) == list(range(3, 5001, 3))
    assert ["3", "update", "open", "closed", 'a "quoted", word', ""] in change
    assert b'6,update,open,closed,"",\n' in (stage.folder / "tracking" / "test-1-change.csv").read_bytes()
    assert [("pre", 1666), ("post", 1666), ("change", 1666)] == [(one.step, one.rows) for one in report.tracking]
    for one in report.tracking:
        assert one.file is not None
        assert one.sha256 == hashlib.sha256((stage.folder / "tracking" / one.file).read_bytes()).hexdigest()
    names = "test-1-open-ones-pre.csv, test-1-closed-ones-post.csv, test-1-change.csv"
    assert f'tracking files in "{stage.folder}/tracking": {names}' in report.notes
    kept = stage.rows("SELECT report->'tracking'->2->>'sha256' FROM backout.run")
    assert kept == [(report.tracking[2].sha256,)]


def test_the_ledger_keeps_the_hashes(stage: Stage) -> None:
    report = stage.run(TRACKED)
    said = run_statement(stage.log()[0], "a database", "ann", None, datetime.now(UTC)).details["tracking"]
    assert [(one.file, one.rows, one.sha256) for one in report.tracking] == [
        (one["file"], one["rows"], one["sha256"]) for one in said
    ]


def test_the_rows_that_the_transaction_has_written_can_be_asked_for(stage: Stage) -> None:
    own = "SELECT id, status FROM referral WHERE xmin = pg_current_xact_id()::xid;"
    report = stage.run(PRE + CLOSE + f'-- @post "Closed ones"\n{own}')
    assert [1666, 1666, 1666] == [one.rows for one in report.tracking]


def test_the_files_are_for_their_owner_alone_and_not_for_git(stage: Stage) -> None:
    stage.run(TRACKED)
    folder = stage.folder / "tracking"
    assert {one.stat().st_mode & 0o777 for one in folder.glob("*.csv")} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"


def test_inserts_and_deletes_are_told_apart(stage: Stage) -> None:
    stage.make("CREATE TABLE gone (id int PRIMARY KEY, v text); INSERT INTO gone VALUES (1, 'a'), (2, 'b')")
    stage.run('-- @pre "x"\nSELECT id FROM gone WHERE id = 1;\nDELETE FROM gone WHERE id = 1;')
    assert content(stage, "test-1-change.csv") == [["id", "operation", "old_v", "new_v"], ["1", "delete", "a", ""]]
    stage.run("INSERT INTO gone VALUES (7, 'new');\n-- @post \"x\"\nSELECT v, id FROM gone WHERE id = 7;")
    assert content(stage, "test-2-change.csv") == [["id", "operation", "old_v", "new_v"], ["7", "insert", "", "new"]]


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (TRACKED.replace("WHERE status = 'open';", "WHERE id <= 3;", 1), '@pre "Open ones" has 3 rows'),
        (TRACKED.replace("WHERE id % 3 = 0", "WHERE id % 3 = 1"), '@post "Closed ones" has 1667 rows'),
        (TRACKED.replace("WHERE status = 'open';", "WHERE id % 3 = 1 LIMIT 1666;", 1), '"Open ones" has other rows: as many'),
    ],
    ids=["fewer", "others", "as many others"],
)  # fmt: skip
def test_a_query_that_covers_other_rows_than_the_change_rolls_it_back(
    stage: Stage, statements: str, message: str
) -> None:
    error = stage.refuses(statements)
    assert isinstance(error, AssertionFailed)
    assert message in error.message
    assert error.message.endswith("it must cover the rows that change, and no others")
    assert files(stage) == []


def test_a_query_without_the_key_is_a_summary_and_is_not_compared(stage: Stage) -> None:
    stage.run('-- @pre "by status"\nSELECT status, count(*) FROM referral GROUP BY 1 ORDER BY 1;\n' + CLOSE)
    assert content(stage, "test-1-by-status-pre.csv") == [["status", "count"], ["new", "3334"], ["open", "1666"]]


def test_two_queries_whose_names_differ_in_signs_alone_have_two_files(stage: Stage) -> None:
    stage.run(PRE + PRE.replace("Open ones", "open: ones") + CLOSE)
    assert files(stage) == ["test-1-change.csv", "test-1-open-ones-pre-2.csv", "test-1-open-ones-pre.csv"]


def test_summary_counts_and_compares_without_writing_files(stage: Stage) -> None:
    report = stage.run(TRACKED, more='-- tracking = "summary"')
    assert files(stage) == []
    assert [("pre", 1666, None), ("post", 1666, None), ("change", 1666, None)] == [
        (one.step, one.rows, one.file) for one in report.tracking
    ]
    again = TRACKED.replace("'open'", "'new'", 1)
    error = failure(lambda: stage.run(again, more='-- tracking = "summary"'))
    assert isinstance(error, AssertionFailed)


def test_a_ghost_counts_and_compares_and_writes_nothing(stage: Stage) -> None:
    report = stage.ghost(TRACKED)
    assert files(stage) == []
    assert [1666, 1666, 1666] == [one.rows for one in report.tracking]
    assert isinstance(failure(lambda: stage.ghost(TRACKED.replace("'open'", "'new'", 1))), AssertionFailed)


def test_a_rehearsal_is_tracked_as_the_run_that_it_is(stage: Stage) -> None:
    rehearsal = stage.project.rehearse(stage.change(TRACKED, more="-- idempotent = true"), "test", ask=yes)
    assert [1666, 1666, 1666] == [one.rows for one in rehearsal.run.tracking]
    assert files(stage) == ["test-2-change.csv", "test-2-closed-ones-post.csv", "test-2-open-ones-pre.csv"]


def test_of_a_subset_the_rows_are_counted(stage: Stage) -> None:
    change = stage.change(PRE + "-- @subset referral by=id\n" + CLOSE)
    report = stage.project.run(change, "test", subset="10 rows", ask=yes)
    assert (report.tracking, files(stage)) == ((), [])
    assert 'pre "Open ones": 1666 rows' in report.notes


def test_a_change_that_fails_leaves_no_file(stage: Stage) -> None:
    stage.refuses(PRE + CLOSE + '-- @assert "never"\nSELECT false;')
    assert files(stage) == []


def test_of_phi_nothing_is_written(stage: Stage) -> None:
    report = stage.run(TRACKED, data="phi")
    assert (files(stage), report.tracking) == ([], ())
    error = failure(lambda: stage.change(TRACKED, data="phi", more='-- tracking = "summary"'))
    assert isinstance(error, InvalidFile)
    assert "rows that are PHI are not written into tracking files" in error.message


def test_each_table_of_a_change_of_several_has_its_file(stage: Stage) -> None:
    stage.make("CREATE TABLE other (id int PRIMARY KEY, v int); INSERT INTO other VALUES (1, 1)")
    stage.run(PRE + CLOSE + "UPDATE other SET v = 2;")
    assert files(stage) == [
        "test-1-change-public-other.csv", "test-1-change-public-referral.csv", "test-1-open-ones-pre.csv",
    ]  # fmt: skip


def test_the_folder_is_named_in_the_configuration(stage: Stage) -> None:
    stage.undo_options = '[project]\ntracking = "kept/here"'
    stage.run(TRACKED)
    assert len(list((stage.folder / "kept" / "here").glob("*.csv"))) == 3


def test_a_file_that_cannot_be_written_rolls_the_run_back(stage: Stage) -> None:
    (stage.folder / "tracking" / "test-1-change.csv.unfinished").mkdir(parents=True)
    error = stage.refuses(TRACKED)
    assert (error.state, error.exit_status) == ("rolled back", 2)
    assert error.message.endswith('/tracking/test-1-change.csv": is a directory')
    assert files(stage) == ["test-1-change.csv.unfinished"]
    assert stage.journal() == [(1, "real", "rolled back")]


# -- in batches --------------------------------------------------------------------------------------------------------

BATCHED = PRE + "-- @batch referral by=id size=500\n" + CLOSE + POST


def test_a_run_in_batches_is_tracked_as_a_whole(stage: Stage) -> None:
    report = stage.run(BATCHED)
    assert files(stage) == ["test-1-change.csv", "test-1-closed-ones-post.csv", "test-1-open-ones-pre.csv"]
    assert [1666, 1666, 1666] == [one.rows for one in report.tracking]
    assert stage.rows("SELECT report->'tracking'->2->>'sha256' FROM backout.run") == [(report.tracking[2].sha256,)]


def test_of_a_ghost_in_batches_the_queries_are_counted(stage: Stage) -> None:
    report = stage.ghost(BATCHED)
    assert (files(stage), [one.step for one in report.tracking]) == ([], ["pre", "post"])


def test_batches_that_others_than_the_queries_cover_end_as_partial(stage: Stage) -> None:
    error = failure(lambda: stage.run(BATCHED.replace("WHERE id % 3 = 0", "WHERE id % 3 = 1")))
    assert isinstance(error, PartlyCommitted)
    assert '@post "Closed ones" has 1667 rows' in error.message
    assert files(stage) == ["test-1-open-ones-pre.csv"]


def test_a_resumed_run_takes_up_the_file_of_before(stage: Stage) -> None:
    (stage.folder / "changes").symlink_to(stage.folder)
    change, stopped = stage.change(BATCHED), _at_batch(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    error = failure(lambda: stage.project.run(change, "test", ask=yes, progress=stopped))
    assert isinstance(error, Interrupted)
    assert files(stage) == ["test-1-open-ones-pre.csv"]
    report = stage.project.resume("1", "test", ask=yes)
    assert isinstance(report, RunReport)
    assert [("pre", 1666), ("post", 1666), ("change", 1666)] == [(one.step, one.rows) for one in report.tracking]
    assert all(one.sha256 for one in report.tracking)


def _at_batch(number: int, act: Callable[[], object]) -> Callable[[str], None]:
    def watch(said: str) -> None:
        if said.startswith(f"batch {number}:"):
            act()

    return watch
