"""A project around one test's database: its backout.toml, its change files, and what the database holds.

Not for: knowing how backout works; it is driven through `Project` alone, as a user's program would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
from psycopg import sql

from backout import Project
from backout.change.model import Change
from backout.engines.values import Conflict, RunRecord
from backout.errors import BackoutError, Conflicts
from backout.runs.report import RunReport
from servers import PostgresDatabase

Dump = dict[str, list[str]]

_TABLES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'backout', 'rescue', 'Way "back"') ORDER BY 1
"""

_TRIGGERS = """
SELECT c.relname, g.tgname, g.tgenabled::text FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
 WHERE NOT g.tgisinternal ORDER BY 1, 2
"""


class Rights(Enum):
    """Which of the two exact ways past the application's triggers the login role may take."""

    OWNER = "owner"  # a member of the tables' owner
    REPLICA = "replica"  # that, and GRANT SET ON PARAMETER session_replication_role


def yes(_kind: str, _question: str) -> bool:
    """Answer every question with yes."""
    return True


@dataclass
class Stage:
    """One database, and the project that changes it."""

    database: PostgresDatabase
    folder: Path
    options: Mapping[str, str] = field(default_factory=dict)  # keys of the environment, as TOML
    undo_options: str = ""  # the [undo] section and what follows it
    changes_made: int = 0

    @property
    def project(self) -> Project:
        """Read anew from backout.toml, so that each verb begins as a new process does."""
        return Project.find(config=self.write_config())

    def write_config(self, **options: str) -> Path:
        """Write backout.toml: the environment "test", its URL the login role's, its role the application's."""
        path = self.folder / "backout.toml"
        given = {
            "url": f'"{self.database.login_url}"',
            "role": f'"{self.database.application_role}"',
            "lock_timeout": '"300 ms"',
            **self.options,
            **options,
        }
        lines = [f"{key} = {value}" for key, value in given.items() if value]
        path.write_text("\n".join([self.undo_options, "[environments.test]", *lines, ""]), encoding="utf-8")
        return path

    # -- the database ------------------------------------------------------------------------------------------------

    def make(self, schema: str) -> None:
        """Tables and rows, made and owned by the application role."""
        self.database.as_application(schema)

    def elsewhere(self, statements: str) -> None:
        """What the application does meanwhile, in a session of its own."""
        self.database.as_application(statements)

    def dump(self) -> Dump:
        """Every row of every table of the user's, as text, in order; identical rows as often as they are there."""
        with psycopg.connect(self.database.superuser_url, autocommit=True) as connection:
            connection.execute("SET extra_float_digits = 3; SET DateStyle = 'ISO'; SET TimeZone = 'UTC'")
            found = {}
            for (name,) in connection.execute(_TABLES).fetchall():
                rows = connection.execute(sql.SQL("SELECT r::text FROM ONLY {} r").format(sql.SQL(name))).fetchall()
                found[name] = sorted(row for (row,) in rows)
            return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer to a query of a superuser."""
        return self.database.execute(query)

    def triggers(self) -> list[tuple[str, str, str]]:
        """Every trigger of the application's with its `tgenabled`."""
        return self.database.execute(_TRIGGERS)

    def journal(self) -> list[tuple[Any, ...]]:
        """(number, mode, state) of every run."""
        return self.database.execute("SELECT number, mode, state FROM backout.run ORDER BY number")

    def rescue_tables(self) -> list[str]:
        """What lies in the rescue schema."""
        rows = self.database.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'rescue'::regnamespace ORDER BY 1"
        )
        return [name for (name,) in rows]

    # -- the verbs -----------------------------------------------------------------------------------------------------

    def change(self, statements: str, *, data: str = "internal", suffix: str = ".sql", more: str = "") -> Change:
        """A change file with these statements, read as the project reads it."""
        self.changes_made += 1
        path = self.folder / f"change-{self.changes_made}{suffix}"
        mark = "#" if suffix == ".py" else "--"
        head = [f"{mark} /// change", f'{mark} title = "A change"', f'{mark} data = "{data}"', *more.splitlines()]
        path.write_text("\n".join([*head, f"{mark} ///", statements, ""]), encoding="utf-8")
        return self.project.change(str(path))

    def run(self, statements: str, **options: str) -> RunReport:
        """Run, for real."""
        return self.project.run(self.change(statements, **options), "test", ask=yes)

    def ghost(self, statements: str, *, undo: bool = False, **options: str) -> RunReport:
        """A ghost run."""
        return self.project.ghost(self.change(statements, **options), "test", undo=undo, ask=yes)

    def undo(
        self, run: RunReport | str, *, partial: bool = False, overwrite: Collection[int] = (), ghost: bool = False
    ) -> RunReport:
        """Undo a run."""
        name = run if isinstance(run, str) else run.identifier
        return self.project.undo(name, "test", partial=partial, overwrite=overwrite, ghost=ghost, ask=yes)

    def log(self) -> tuple[RunRecord, ...]:
        """The newest runs first; settles what a dead process has left."""
        return self.project.log("test")

    # -- the claims ----------------------------------------------------------------------------------------------------

    def proves(self, statements: str, *, suffix: str = ".sql") -> RunReport:
        """Assert that a ghost changes nothing, and that run and undo restore exactly. Returns the run's report."""
        before, triggers = self.dump(), self.triggers()
        self.ghost(statements, suffix=suffix)
        assert before == self.dump()
        proof = self.ghost(statements, undo=True, suffix=suffix)
        assert proof.way_back == "proven"
        assert before == self.dump()
        report = self.run(statements, suffix=suffix)
        assert report.proof is not None
        assert report.proof.complete
        assert before != self.dump(), "the change changed nothing: this scenario shows nothing"
        undone = self.undo(report)
        assert undone.conflicts == ()
        assert before == self.dump()
        assert triggers == self.triggers()
        return report

    def refuses(self, statements: str, **options: str) -> BackoutError:
        """The run is refused or rolled back, and nothing is left of it; the error."""
        before = self.dump()
        error = failure(lambda: self.run(statements, **options))
        assert before == self.dump()
        assert self.rescue_tables() == [] if self._has_journal() else True
        return error

    def _has_journal(self) -> bool:
        return bool(self.database.execute("SELECT to_regnamespace('rescue') IS NOT NULL")[0][0])


TWO_TABLES = """
CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');
CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1, 'a');
"""

PEOPLE = """
CREATE TABLE person (
 id int PRIMARY KEY, name text, mail text UNIQUE, age int CHECK (age < 150), lock_version int DEFAULT 0);
INSERT INTO person VALUES (1, 'ann', 'a@x', 30), (2, 'bob', 'b@x', 40), (3, 'cid', 'c@x', 50), (4, 'dot', 'd@x', 60);
"""


def stage_with_two_tables(database: PostgresDatabase, folder: Path) -> Stage:
    """Two tables, `t` and `u`."""
    found = stage_for(database, folder)
    found.make(TWO_TABLES)
    return found


def stage_with_people(database: PostgresDatabase, folder: Path, rights: Rights) -> Stage:
    """Four persons."""
    found = stage_for(database, folder, rights)
    found.make(PEOPLE)
    return found


def people(stage: Stage) -> list[tuple[Any, ...]]:
    """What the table of persons holds."""
    return stage.rows("SELECT id, name, mail, age FROM person ORDER BY id")


def place(stage: Stage) -> str:
    """Where the first statement of the first change stands."""
    return f"{stage.folder}/change-1.sql:5"


def stage_for(
    database: PostgresDatabase,
    folder: Path,
    rights: Rights = Rights.OWNER,
    *,
    undo_options: str = "",
    **options: str,
) -> Stage:
    """A stage whose login role has these rights."""
    if rights is Rights.REPLICA:
        grant_replica_role(database)
    return Stage(database, folder, options, undo_options)


def grant_replica_role(database: PostgresDatabase) -> None:
    """Let the login role switch the application's triggers off for its own session."""
    grant = sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}")
    database.execute(grant.format(sql.Identifier(database.login_role)))


def failure(act: Callable[[], object]) -> BackoutError:
    """The error that it raises, which is ours."""
    try:
        act()
    except BackoutError as error:
        return error
    raise AssertionError("nothing was raised")


def text_of(error: BackoutError) -> list[str]:
    """The whole text that a user is shown, line by line."""
    return str(error).split("\n")


def wait_until(is_true: Callable[[], bool], *, seconds: float = 30) -> None:
    """Ask until it is true; an error after that long."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not become true in time"


def waits_for_lock(database: PostgresDatabase, pid: int) -> bool:
    """Whether the backend waits for a lock, as the server says."""
    return bool(database.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)", [pid])[0][0])


def in_background(act: Callable[[], object]) -> tuple[Thread, list[BaseException]]:
    """Start it in a thread; what it raises is in the list."""
    raised: list[BaseException] = []

    def catching() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 -- told to the test
            raised.append(error)

    thread = Thread(target=catching)
    thread.start()
    return thread, raised


def backends(database: PostgresDatabase, purpose: str) -> list[int]:
    """The processes of our sessions for that purpose."""
    rows = database.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s", [purpose]
    )
    return [pid for (pid,) in rows]


def conflicts(stage: Stage, run: RunReport | str, **options: Any) -> list[Conflict]:
    """The conflicts that the undo meets; it writes nothing."""
    before = stage.dump()
    error = failure(lambda: stage.undo(run, **options))
    assert isinstance(error, Conflicts)
    assert (error.exit_status, error.state) == (5, "untouched")
    assert before == stage.dump()
    return [one for one in error.conflicts if isinstance(one, Conflict)]


def left_behind(stage: Stage) -> list[str]:
    """What is there of armed tables: functions, triggers, logs."""
    rows = stage.rows(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = to_regnamespace('backout') "
        "UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE 'backout%' "
        "UNION ALL SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'armed%'"
    )
    return [name for (name,) in rows]
