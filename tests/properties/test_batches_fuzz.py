"""Any mix of triggers, cascades and statements in batches: a ghost changes nothing, and an undo is exact, whatever ran.

Batches of a few rows each; triggers write other tables, rows of other batches and their own row again, and delete what
earlier batches have written. Sometimes one batch is undone by itself first, where nothing is in its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import event, example, given, seed, settings
from hypothesis import strategies as st

from backout.errors import BackoutError, PartlyCommitted, ProofFailed, Refused
from backout.runs.report import RunReport
from integration.postgres.stage import Rights, Stage, left_behind, stage_for, yes
from properties.driving import SEED, SHORTER, announce
from servers import PostgresDatabase

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t ON DELETE {acts}, v int NOT NULL, note text);
CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE {acts} ON UPDATE CASCADE, v int);
CREATE TABLE audit (id int, what text);
CREATE TABLE counter (name text PRIMARY KEY, n numeric);
CREATE TABLE copy (id int PRIMARY KEY, t int UNIQUE, v int);
INSERT INTO t SELECT g, CASE WHEN g % 4 = 0 THEN g / 4 END, g % 5, 'n' || g FROM generate_series(1, 24) g;
INSERT INTO child SELECT g, g % 24 + 1, g FROM generate_series(1, 30) g;
INSERT INTO audit SELECT g % 3, 'old' FROM generate_series(1, 6) g;
INSERT INTO counter VALUES ('all', 1.00), ('none', 0);
INSERT INTO copy SELECT g, g, -1 FROM generate_series(3, 24, 5) g;
"""

#: name -> (when, on, body)
TRIGGERS = {
    "audited": ("AFTER INSERT OR UPDATE OR DELETE", "t", "INSERT INTO audit VALUES (coalesce(NEW.id, OLD.id), TG_OP)"),
    "own row": (
        "AFTER UPDATE", "t",
        "IF pg_trigger_depth() = 1 AND NEW.id % 2 = 0 THEN UPDATE t SET note = note || '!' WHERE id = NEW.id; END IF",
    ),
    "other rows": (
        "AFTER UPDATE", "t",
        "IF pg_trigger_depth() = 1 AND NEW.id % 5 = 0 THEN UPDATE t SET v = v + 100 WHERE id = 25 - NEW.id; END IF",
    ),
    "counted": ("AFTER UPDATE OR DELETE", "t", "UPDATE counter SET n = n + 1 WHERE name = 'all'"),
    "back and forth": ("AFTER UPDATE", "t", "UPDATE counter SET n = 9 - n WHERE name = 'none'"),
    "stamped": ("BEFORE UPDATE", "t", "NEW.note := NEW.note || '.'"),
    "few kept": ("AFTER INSERT", "audit", "DELETE FROM audit WHERE id < NEW.id - 4"),
    "children": ("AFTER DELETE", "child", "INSERT INTO child VALUES (OLD.id + 1000 * pg_trigger_depth(), NULL, OLD.v)"),
    "late": ("AFTER UPDATE", "t", "IF NEW.id > 15 THEN INSERT INTO copy VALUES (NEW.id + 500, NULL, NEW.v) "
             "ON CONFLICT (id) DO UPDATE SET v = copy.v + 1; END IF"),
    "copied": ("AFTER INSERT OR UPDATE", "copy", "UPDATE t SET v = v + 7 WHERE id = NEW.t"),
    "caught": (
        "AFTER UPDATE", "t",
        "IF NEW.id = 7 THEN BEGIN INSERT INTO copy VALUES (3); EXCEPTION WHEN unique_violation THEN NULL; END; END IF",
    ),
}  # fmt: skip
STATEMENTS = (
    "UPDATE t SET v = v + 1",
    "UPDATE t SET note = upper(note), parent = NULL WHERE v <> 2",
    "DELETE FROM t WHERE v % 2 = 0",
    "DELETE FROM t WHERE parent IS NULL AND id < 4",
    "INSERT INTO copy SELECT id + 100, id, v FROM t ON CONFLICT (t) DO UPDATE SET v = copy.v + excluded.v",
    "INSERT INTO audit SELECT t.id, child.v::text FROM t LEFT JOIN child ON child.t = t.id WHERE t.v > 1",
)


@dataclass(frozen=True)
class Case:
    acts: str
    triggers: tuple[str, ...]
    statement: str
    size: int
    first: int  # the batch that is undone by itself first; 0: none
    rights: Rights


cases = st.builds(
    Case, st.sampled_from(["CASCADE", "SET NULL"]),
    st.lists(st.sampled_from(sorted(TRIGGERS)), max_size=4, unique=True).map(tuple), st.sampled_from(STATEMENTS),
    st.integers(2, 13), st.integers(0, 4), st.sampled_from(list(Rights)),
)  # fmt: skip


def taken_back(stage: Stage, report: RunReport) -> None:
    """All of it, unless the one batch was all."""
    try:
        stage.undo(report.identifier)
    except Refused as error:
        assert "undone already" in error.message


def _tried(act: Callable[[], RunReport]) -> RunReport | None:
    """What ran, all of it or a part; None: it was refused, or rolled back as a whole."""
    try:
        found = act()
    except PartlyCommitted as error:
        event("partly")
        assert isinstance(error.report, RunReport)
        return error.report
    except (ProofFailed, Refused) as error:
        event(f"refused: {error.message.partition(':')[0][:60]}")
        return None
    event("through" if found.tables else "nothing to do")
    return found


def prepared(stage: Stage, case: Case) -> Stage:
    stage.database.execute(
        "DROP SCHEMA IF EXISTS backout, rescue CASCADE; DROP TABLE IF EXISTS t, child, audit, counter, copy"
    )
    stage.make(SCHEMA.format(acts=case.acts))
    for number, name in enumerate(case.triggers):
        when, on, body = TRIGGERS[name]
        stage.make(f"""
            CREATE OR REPLACE FUNCTION act_{number}() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN {body}; RETURN NEW; END $$;
            CREATE TRIGGER "{name}" {when} ON {on} FOR EACH ROW EXECUTE FUNCTION act_{number}();
        """)
    return stage


def hunted(database: PostgresDatabase, folder: Path, case: Case) -> None:
    """A ghost, a run, and its undo."""
    database.execute(f'REVOKE SET ON PARAMETER session_replication_role FROM "{database.login_role}"')
    stage = prepared(stage_for(database, folder, case.rights), case)
    before, text = stage.dump(), f"-- @batch t by=id size={case.size}\n{case.statement}"
    _tried(lambda: stage.ghost(text))
    assert (before, []) == (stage.dump(), left_behind(stage))
    report = _tried(lambda: stage.run(text))
    assert left_behind(stage) == []
    if report is None:
        assert before == stage.dump()
        return
    after = stage.dump
    if case.first:
        try:
            stage.project.undo(report.identifier, "test", batch=case.first, ask=yes)
            event("one batch was undone by itself")
            if (
                "back and forth" in case.triggers
            ):  # a value that later batches brought back is taken for this batch's own
                before.pop("counter")
                after = lambda: {name: rows for name, rows in stage.dump().items() if name != "counter"}  # noqa: E731
        except BackoutError as error:
            event(f"one batch: {type(error).__name__}")
    taken_back(stage, report)
    assert (before, []) == (after(), left_behind(stage))


@settings(max_examples=24 // SHORTER)
@example(Case("CASCADE", ("audited", "few kept", "children", "counted"), STATEMENTS[3], 3, 2, Rights.REPLICA))
@example(Case("CASCADE", ("own row", "other rows", "back and forth", "late"), STATEMENTS[0], 5, 2, Rights.OWNER))
@example(Case("CASCADE", ("audited", "back and forth"), STATEMENTS[1], 6, 1, Rights.OWNER))  # tries, and takes it back
@example(Case("SET NULL", ("caught",), STATEMENTS[0], 2, 0, Rights.OWNER))
@given(case=cases)
def test_whatever_batches_write_is_taken_back_exactly(
    postgres18: PostgresDatabase, tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    hunted(postgres18, tmp_path_factory.mktemp("batches"), case)


@pytest.mark.hunt
@seed(SEED)
@given(case=cases)
def test_whatever_batches_write_is_taken_back_exactly_hunted(
    postgres18: PostgresDatabase,
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same, thousands of times; the seed is printed."""
    announce(capsys)
    hunted(postgres18, tmp_path_factory.mktemp("batches"), case)
