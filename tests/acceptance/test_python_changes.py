"""Changes written in Python: `apply(db)` and `check(db)` inside of the supervised transaction, on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from acceptance.program import Finished, backout
from backout import Project
from backout.errors import AssertionFailed, BackoutError, DatabaseFailed, Refused, RolledBack
from backout.runs.report import RunReport
from servers import PostgresDatabase, present

TABLES = (
    "CREATE TABLE patient (id INTEGER PRIMARY KEY, name TEXT NOT NULL, phone TEXT, touched INTEGER DEFAULT 0);"
    "INSERT INTO patient (id, name, phone) VALUES (1, 'Ada', '12 34'), (2, 'Bela', '56'), (3, 'Chidi', NULL)"
)
BEFORE = [(1, "Ada", "12 34", 0), (2, "Bela", "56", 0), (3, "Chidi", None, 0)]
HEAD = '# /// change\n# title = "A change in Python"\n# ///\n'  # three lines


def yes(_kind: str, _question: str) -> bool:
    return True


@dataclass(frozen=True)
class Clinic:
    """A project with the environment "clinic", and its one table."""

    folder: Path
    mark: str  # how a parameter is written there
    query: Callable[[str], list[tuple[Any, ...]]]

    @property
    def path(self) -> Path:
        return self.folder / "changes" / "change.py"

    def write(self, text: str) -> None:
        self.path.write_text(HEAD + dedent(text).replace("?", self.mark), encoding="utf-8")

    def run(self, text: str) -> RunReport:
        self.write(text)
        project = Project.find(start=self.folder)
        return project.run(project.change("change"), "clinic", ask=yes)

    def ghost(self, text: str) -> RunReport:
        self.write(text)
        project = Project.find(start=self.folder)
        return project.ghost(project.change("change"), "clinic", undo=True, ask=yes)

    def undo(self, run: RunReport) -> RunReport:
        return Project.find(start=self.folder).undo(run.identifier, ask=yes)

    def refused(self, text: str, kind: type[BackoutError]) -> BackoutError:
        """The error that the run ends with; the database is as it was."""
        with pytest.raises(kind) as caught:
            self.run(text)
        assert self.patients() == BEFORE
        return caught.value

    def patients(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT id, name, phone, touched FROM patient ORDER BY id")

    def last(self) -> str:
        """How the journal says that the newest run ended."""
        return Project.find(start=self.folder).log("clinic", limit=1)[0].state.value


def on_postgres(database: PostgresDatabase, folder: Path) -> Clinic:
    database.as_application(TABLES)
    _write_project(folder, f'url = "{database.login_url}"\nrole = "{database.application_role}"')
    return Clinic(folder, "%s", database.execute)


def on_sqlite(folder: Path) -> Clinic:
    path = folder / "clinic.db"

    def query(statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(statement).fetchall()

    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
    _write_project(folder, f'url = "sqlite:///{path}"')
    return Clinic(folder, "?", query)


def _write_project(folder: Path, database: str) -> None:
    (folder / "changes").mkdir()
    (folder / "backout.toml").write_text(f"[environments.clinic]\n{database}\n", encoding="utf-8")


@pytest.fixture(params=["pg18", "sqlite"] if "pg18" in present() else ["sqlite"])
def clinic(request: pytest.FixtureRequest, tmp_path: Path) -> Clinic:
    if request.param == "sqlite":
        return on_sqlite(tmp_path)
    return on_postgres(request.getfixturevalue("postgres18"), tmp_path)


@pytest.fixture
def postgres_clinic(postgres18: PostgresDatabase, tmp_path: Path) -> Clinic:
    return on_postgres(postgres18, tmp_path)


MEND = """
    def apply(db):
        for number, phone in db.execute("SELECT id, phone FROM patient WHERE phone LIKE ?", ["% %"]).fetchall():
            wrote = db.execute("UPDATE patient SET phone = ? WHERE id = ?", [phone.replace(" ", ""), number])
            assert wrote.rowcount == 1
        db.execute("INSERT INTO patient (id, name) VALUES (4, 'Daria')")

    def check(db):
        (left,) = db.execute("SELECT count(*) FROM patient WHERE phone LIKE ?", ["% %"]).fetchone()
        return left == 0
    """


def test_a_parameter_of_the_metadata_is_at_hand_with_the_value_of_this_environment(clinic: Clinic) -> None:
    clinic.write("""
        def apply(db):
            first, name = db.parameters["first"], db.parameters["name"]
            assert first == 2 and isinstance(first, int)
            db.execute("UPDATE patient SET name = ? WHERE id >= ?", [name, first])
            try:
                db.parameters["first"] = 1
            except TypeError:
                return
            raise AssertionError("it could be set")
    """)
    declared = '# [parameters]\n# name = "X"\n# first = {type = "int", per_environment = true}\n# ///\n'
    clinic.path.write_text(clinic.path.read_text().replace("# ///\n", declared, 1))
    project = Project.find(start=clinic.folder)
    project.run(project.change("change"), "clinic", parameters={"first": 2}, ask=yes)
    assert [name for _, name, *_ in clinic.patients()] == ["Ada", "X", "X"]


def test_ghost_run_and_undo_of_a_script(clinic: Clinic) -> None:
    ghost = clinic.ghost(MEND)
    assert ghost.way_back == "proven"
    assert clinic.patients() == BEFORE

    run = clinic.run(MEND)
    assert [(one.inserted, one.updated, one.deleted) for one in run.tables] == [(1, 1, 0)]
    assert [(one.title, one.passed) for one in run.assertions] == [("check(db)", True)]
    assert run.digest == ghost.digest
    assert clinic.patients() == [(1, "Ada", "1234", 0), *BEFORE[1:], (4, "Daria", None, 0)]

    clinic.undo(run)
    assert clinic.patients() == BEFORE


def test_results_are_those_of_a_cursor(clinic: Clinic) -> None:
    clinic.run(
        """
        def apply(db):
            one = db.execute("SELECT name FROM patient WHERE id = ?", [1])
            assert one.fetchone() == ("Ada",)
            assert one.fetchone() is None
            assert [name for (name,) in db.execute("SELECT name FROM patient ORDER BY id")] == ["Ada", "Bela", "Chidi"]
            assert db.execute("SELECT name FROM patient WHERE id > ?", [1]).fetchall() == [("Bela",), ("Chidi",)]
            assert db.execute("UPDATE patient SET phone = '0' WHERE id < ?", [3]).rowcount == 2
        """
    )

    assert [phone for _, _, phone, _ in clinic.patients()] == ["0", "0", None]


def test_parameters_can_be_named(clinic: Clinic) -> None:
    name = "%(name)s" if clinic.mark == "%s" else ":name"
    clinic.run(f"""
        def apply(db):
            db.execute("UPDATE patient SET phone = NULL WHERE name = {name}", {{"name": "Ada"}})
        """)

    assert clinic.patients()[0] == (1, "Ada", None, 0)


def test_exception_rolls_back_and_is_told_with_its_line(clinic: Clinic) -> None:
    error = clinic.refused(
        """
        def apply(db):
            db.execute("DELETE FROM patient")
            raise ValueError("no such clinic")
        """,
        RolledBack,
    )

    assert str(error) == (
        f"{clinic.path}:7: the script raised ValueError: no such clinic\n"
        "state: rolled back\n"
        "hint: mend the script; nothing was changed"
    )
    assert clinic.last() == "rolled back"


def test_error_of_the_database_is_told_with_its_line(clinic: Clinic) -> None:
    error = clinic.refused(
        """
        def apply(db):
            db.execute("DELETE FROM patient WHERE id = 3")
            db.execute("INSERT INTO patient (id, name) VALUES (1, 'Ada')")
        """,
        DatabaseFailed,
    )

    assert error.message.startswith(f"{clinic.path}:7: ")
    assert error.state == "rolled back"


def test_script_that_swallows_an_error_of_the_database_is_not_committed(clinic: Clinic) -> None:
    clinic.refused(
        """
        def apply(db):
            db.execute("DELETE FROM patient WHERE id = 3")
            try:
                db.execute("INSERT INTO patient (id, name) VALUES (1, 'Ada')")
            except Exception:
                pass
        """,
        BackoutError,
    )


def test_script_that_ends_the_process_is_rolled_back(clinic: Clinic) -> None:
    error = clinic.refused(
        """
        import sys

        def apply(db):
            db.execute("DELETE FROM patient")
            sys.exit("enough")
        """,
        RolledBack,
    )

    assert error.message == f"{clinic.path}:9: the script raised SystemExit: enough"
    assert clinic.last() == "rolled back"


def test_check_that_returns_false_rolls_back(clinic: Clinic) -> None:
    error = clinic.refused(
        """
        def apply(db):
            db.execute("DELETE FROM patient WHERE id = 1")

        def check(db):
            return db.execute("SELECT count(*) FROM patient").fetchone() == (3,)
        """,
        AssertionFailed,
    )

    assert str(error) == (
        f"{clinic.path}: check(db) returned False\nstate: rolled back\nhint: look at the rows with `backout ghost`"
    )


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_script_may_not_end_the_transaction_itself(clinic: Clinic, end: str) -> None:
    error = clinic.refused(
        f"""
        def apply(db):
            db.execute("DELETE FROM patient")
            db.{end}()
        """,
        Refused,
    )

    assert (
        error.message
        == {
            "commit": "a change may not commit: the run does, when all is captured and proven",
            "rollback": "a change may not roll back: raise an exception, and the run does",
        }[end]
        + f" ({clinic.path}:7)"
    )
    assert error.state == "rolled back"


@pytest.mark.parametrize(
    "statement", ["COMMIT", "SAVEPOINT a; COMMIT", "ROLLBACK", "BEGIN", "DROP TABLE patient", "VACUUM", "SELEC 1"]
)
def test_forbidden_statement_is_refused(clinic: Clinic, statement: str) -> None:
    error = clinic.refused(
        f"""
        def apply(db):
            db.execute("DELETE FROM patient")
            db.execute("{statement}")
        """,
        Refused,
    )

    assert error.message.endswith(f" ({clinic.path}:7)")
    assert error.state == "rolled back"
    assert clinic.last() == "refused"


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE patient",
        "SET ROLE NONE",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION DEFAULT",
        "ABORT",
        "END",
        "LISTEN x",
        "PREPARE TRANSACTION 'x'",
        "DO $$ BEGIN COMMIT; END $$",
        "COPY patient TO STDOUT",
        "SET row_security = on",
    ],
)
def test_forbidden_statement_of_postgresql_is_refused(postgres_clinic: Clinic, statement: str) -> None:
    postgres_clinic.refused(
        f"""
        def apply(db):
            db.execute("DELETE FROM patient")
            db.execute({statement!r})
        """,
        BackoutError,
    )


def test_savepoint_takes_back_a_part(clinic: Clinic) -> None:
    run = clinic.run(
        """
        def apply(db):
            with db.savepoint():
                db.execute("UPDATE patient SET phone = '1' WHERE id = 1")
            try:
                with db.savepoint():
                    db.execute("DELETE FROM patient")
                    raise LookupError
            except LookupError:
                pass
            try:
                with db.savepoint():
                    db.execute("INSERT INTO patient (id, name) VALUES (2, 'twice')")
            except Exception:
                pass
            with db.savepoint(), db.savepoint():
                db.execute("UPDATE patient SET phone = '2' WHERE id = 2")
        """
    )
    assert [phone for _, _, phone, _ in clinic.patients()] == ["1", "2", None]

    clinic.undo(run)
    assert clinic.patients() == BEFORE


MODE = """
    import os

    def apply(db):
        db.execute("UPDATE patient SET phone = ? WHERE id = 1", [db.mode + " " + os.environ["BACKOUT_MODE"]])

    def check(db):
        return db.execute("SELECT phone FROM patient WHERE id = 1").fetchone() == ("real real",)
    """


def test_script_can_ask_whether_it_is_a_ghost_run(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKOUT_MODE", raising=False)

    with pytest.raises(AssertionFailed):
        clinic.ghost(MODE)
    clinic.run(MODE)

    assert clinic.patients()[0] == (1, "Ada", "real real", 0)


def test_script_can_print_and_json_stays_one_object(clinic: Clinic) -> None:
    clinic.write("""
        import sys

        def apply(db):
            print("one of", len(db.execute("SELECT id FROM patient").fetchall()))
            sys.stdout.write("and more\\n")
            db.execute("UPDATE patient SET phone = NULL WHERE id = 1")
        """)

    said: Finished = backout(clinic.folder, "ghost", "change", "--on", "clinic", "--yes", "--json")

    assert said.status == 0
    assert said.out.startswith("{")
    assert said.err == "one of 3\nand more\n"


# -- the application's own models, through SQLAlchemy ------------------------------------------------------------------

MODELS = """
    from sqlalchemy import Integer, String, event
    from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class Patient(Base):
        __tablename__ = "patient"
        id = mapped_column(Integer, primary_key=True)
        name = mapped_column(String)
        phone = mapped_column(String)
        touched = mapped_column(Integer, default=0)

    @event.listens_for(Patient, "before_update")
    def count(mapper, connection, patient):
        patient.touched += 1

    class PatientSession(Session):  # a listener of Session itself would hear the sessions of other tests
        pass

    @event.listens_for(PatientSession, "before_flush")
    def tidy(session, context, instances):
        for patient in session.dirty:
            patient.phone = patient.phone and patient.phone.replace(" ", "")

    def session_of(db):
        return PatientSession(bind=db.sqlalchemy(), join_transaction_mode="create_savepoint")
    """

BY_MODEL = (
    MODELS
    + """
    def apply(db):
        with session_of(db) as session:
            session.get(Patient, 1).phone = "7 8 9"
            session.add(Patient(id=4, name="Daria"))
            session.commit()
            session.delete(session.get(Patient, 3))
            session.commit()
        db.execute("UPDATE patient SET phone = '0' WHERE id = 2")
    """
)
AFTER = [(1, "Ada", "789", 1), (2, "Bela", "0", 0), (4, "Daria", None, 0)]


def test_models_and_their_callbacks_run_inside(postgres: PostgresDatabase, tmp_path: Path) -> None:
    clinic = on_postgres(postgres, tmp_path)

    ghost = clinic.ghost(BY_MODEL)
    assert ghost.way_back == "proven"
    assert clinic.patients() == BEFORE

    run = clinic.run(BY_MODEL)
    assert clinic.patients() == AFTER
    assert run.proof is not None
    assert run.proof.complete
    assert [(one.inserted, one.updated, one.deleted) for one in run.tables] == [(1, 2, 1)]

    clinic.undo(run)
    assert clinic.patients() == BEFORE


def test_commit_of_a_session_does_not_commit_the_run(postgres_clinic: Clinic) -> None:
    error = postgres_clinic.refused(
        MODELS
        + """
    def apply(db):
        with session_of(db) as session:
            session.delete(session.get(Patient, 3))
            session.commit()
        raise ValueError("after the session's commit")
    """,
        RolledBack,
    )

    assert error.message.endswith("the script raised ValueError: after the session's commit")


def test_rollback_of_a_session_takes_back_only_its_own_part(postgres_clinic: Clinic) -> None:
    run = postgres_clinic.run(
        MODELS
        + """
    def apply(db):
        db.execute("UPDATE patient SET phone = '1' WHERE id = 1")
        with session_of(db) as session:
            session.get(Patient, 2).phone = "2"
            session.commit()
            session.delete(session.get(Patient, 3))
            session.flush()
            session.rollback()
            session.get(Patient, 3).phone = "3"
            session.commit()
    """
    )
    assert postgres_clinic.patients() == [(1, "Ada", "1", 0), (2, "Bela", "2", 1), (3, "Chidi", "3", 1)]

    postgres_clinic.undo(run)
    assert postgres_clinic.patients() == BEFORE


def test_session_that_meets_an_error_can_roll_back_and_go_on(postgres_clinic: Clinic) -> None:
    postgres_clinic.run(
        MODELS
        + """
    from sqlalchemy.exc import IntegrityError

    def apply(db):
        with session_of(db) as session:
            session.add(Patient(id=2, name="twice"))
            try:
                session.flush()
            except IntegrityError:
                session.rollback()
            session.get(Patient, 1).phone = "1"
            session.commit()
    """
    )

    assert postgres_clinic.patients() == [(1, "Ada", "1", 1), *BEFORE[1:]]


@pytest.mark.parametrize("statement", ["TRUNCATE patient", "COMMIT", "SET ROLE NONE"])
def test_statement_through_sqlalchemy_is_judged_as_well(postgres_clinic: Clinic, statement: str) -> None:
    error = postgres_clinic.refused(
        f"""
        from sqlalchemy import text

        def apply(db):
            connection = db.sqlalchemy()
            connection.execute(text("DELETE FROM patient"))
            connection.execute(text("{statement}"))
        """,
        Refused,
    )

    assert error.message.startswith("a statement of the script may not run: ")
    assert error.state == "rolled back"


def test_core_connection_cannot_commit_the_run(postgres_clinic: Clinic) -> None:
    postgres_clinic.refused(
        """
        from sqlalchemy import text

        def apply(db):
            connection = db.sqlalchemy()
            connection.execute(text("DELETE FROM patient"))
            connection.commit()
            raise ValueError("stop")
        """,
        RolledBack,
    )


def test_many_rows_at_once_and_returned_values(postgres_clinic: Clinic) -> None:
    run = postgres_clinic.run(
        MODELS
        + """
    from sqlalchemy import select, update

    def apply(db):
        with session_of(db) as session:
            session.add_all(Patient(id=number, name=f"p{number}") for number in range(10, 500))
            session.commit()
            found = session.execute(update(Patient).where(Patient.id > 490).values(phone="1").returning(Patient.id))
            assert len(found.all()) == 9
            assert len(session.scalars(select(Patient).where(Patient.name.like("p%"))).all()) == 490
            session.commit()
    """
    )
    postgres_clinic.undo(run)

    assert postgres_clinic.patients() == BEFORE


def test_sqlalchemy_on_sqlite_is_refused_clearly(tmp_path: Path) -> None:
    clinic = on_sqlite(tmp_path)

    error = clinic.refused("def apply(db):\n    db.sqlalchemy()\n", Refused)

    assert str(error) == (
        f"db.sqlalchemy() is not available on SQLite ({clinic.path}:5)\n"
        "state: rolled back\n"
        'hint: use db.execute("…", parameters); compile a statement with str(statement.compile(…))'
    )


def test_without_sqlalchemy_it_is_said_how_to_get_it(postgres_clinic: Clinic) -> None:
    (postgres_clinic.folder / "sitecustomize.py").write_text(
        "import sys\n\n\nclass Without:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'sqlalchemy':\n            raise ModuleNotFoundError(name)\n\n\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    postgres_clinic.write("""
        def apply(db):
            db.sqlalchemy()
        """)

    said = backout(
        postgres_clinic.folder, "run", "change", "--on", "clinic", "--yes", PYTHONPATH=str(postgres_clinic.folder)
    )

    assert said == Finished(
        3,
        "",
        (
            "error: `db.sqlalchemy()` needs SQLAlchemy, which is not installed here "
            f"({postgres_clinic.path}:6)\n"
            "state: rolled back\n"
            "hint: pip install 'backout[sqlalchemy]'\n"
        ),
    )
