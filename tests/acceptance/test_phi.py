"""Of 200 seeded values of PHI none is in any output or artefact of any verb, on real databases.

The one place that holds them is the database itself; the change's own file is its author's.
"""

from __future__ import annotations

import random
import sqlite3
import string
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage
import pytest

from acceptance.program import Finished, backout
from integration.announcements.listeners import WebListener, web_listener
from servers import PostgresDatabase

COLUMNS = "id TEXT PRIMARY KEY, name TEXT NOT NULL, reason TEXT, city TEXT"
HEAD = '-- /// change\n-- title = "A change"\n-- data = "phi"\n{more}-- ///\n'


@dataclass
class Clinic:
    """A project with environments "live" and "spare", and all that its verbs have said and left."""

    folder: Path
    execute: Callable[[str], list[Any]]  # what somebody else does in the database of "live"
    values: list[str]
    told: WebListener
    journal: Callable[[], str]
    said: list[tuple[str, str]] = field(default_factory=list)

    def type(self, *arguments: str, status: int | tuple[int, ...] = 0) -> Finished:
        """Type a command, and remember what it said; its exit status is one of these."""
        ended = backout(self.folder, *arguments, TEAM_HOOK=f"{self.told.url}/s3cret")
        self.said.append((" ".join(arguments), ended.out + ended.err))
        wanted = status if isinstance(status, tuple) else (status,)
        assert ended.status in wanted, f"{arguments}: {ended.status}\n{ended.out}\n{ended.err}"
        return ended

    def change(self, name: str, statements: str, suffix: str = ".sql", more: str = "") -> str:
        """Write a change file."""
        mark = "#" if suffix == ".py" else "--"
        head = HEAD.format(more=more).replace("--", mark)
        (self.folder / "changes" / f"{name}{suffix}").write_text(head + statements + "\n")
        return name

    def hits(self) -> list[tuple[str, str]]:
        """Where a value was found: in what was said, in what is told, in a file, or in the journal."""
        places = [*self.said, ("messages", repr(self.told.got)), ("journal", self.journal())]
        data = list(self.folder.glob("*.db*"))  # the databases themselves
        places += [
            (str(path), path.read_bytes().decode(errors="replace"))
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.parent.name != "changes" and path not in data
        ]
        return [(place, value) for place, text in places for value in self.values if value in text]


@pytest.fixture
def values() -> list[str]:
    """200 values that nobody would say by chance; a hundred of them are keys."""
    chance = random.Random(4711)
    return ["".join(chance.choices(string.ascii_letters, k=10)) for _ in range(200)]


@pytest.fixture
def told() -> Iterator[WebListener]:
    """Who is told."""
    with web_listener() as listener:
        yield listener


def configure(folder: Path, live: str, spare: str, more: str = "") -> None:
    identity = pyrage.x25519.Identity.generate()
    (folder.parent / "key.txt").write_text(str(identity))
    (folder / "changes").mkdir()
    policy = (
        f'{more}keep = "1 ms"\nlock_timeout = "300 ms"\nannounce = {{to = ["team"], before = "1 ms"}}\n'
        f'backup = {{provider = "{"sqlite" if live.startswith("sqlite") else "pg_dump"}", '
        f'recipients = ["{identity.to_public()}"]}}\n'
    )
    (folder / "backout.toml").write_text(
        f'[channels.team]\nkind = "webhook"\nurl_env = "TEAM_HOOK"\n[tables.patient]\nphi = ["name", "reason"]\n'
        f'[environments.live]\nurl = "{live}"\n{policy}[environments.spare]\nurl = "{spare}"\n'
    )


def rows(values: list[str]) -> str:
    """INSERTs of a hundred patients."""
    return "".join(
        f"INSERT INTO patient VALUES ('{key}', '{name}', 'because of {name}', 'Berlin');"
        for key, name in zip(values[:100], values[100:], strict=True)
    )


@pytest.fixture
def on_sqlite(tmp_path: Path, values: list[str], told: WebListener) -> Clinic:
    """In a file."""
    folder = tmp_path / "clinic"
    folder.mkdir()
    for name in ("live", "spare"):
        with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
            connection.executescript(f"CREATE TABLE patient ({COLUMNS});" + (rows(values) if name == "live" else ""))
    configure(folder, f"sqlite:///{folder}/live.db", f"sqlite:///{folder}/spare.db")

    def execute(statements: str) -> list[Any]:
        with closing(sqlite3.connect(folder / "live.db")) as connection:
            connection.executescript(statements)
        return []

    def journal() -> str:
        with closing(sqlite3.connect(folder / "live.db")) as connection:
            return repr(
                [connection.execute(f"SELECT * FROM {one}").fetchall() for one in ("backout_run", "backout_run_table")]
            )

    return Clinic(folder, execute, values, told, journal)


@pytest.fixture
def on_postgres(tmp_path: Path, values: list[str], told: WebListener, postgres18: PostgresDatabase) -> Clinic:
    """On a server."""
    folder = tmp_path / "clinic"
    folder.mkdir()
    postgres18.as_application(f"CREATE TABLE patient ({COLUMNS});" + rows(values))
    spare = f"sqlite:///{folder}/spare.db"
    configure(folder, postgres18.login_url, spare, f'role = "{postgres18.application_role}"\n')

    def journal() -> str:
        return repr([postgres18.execute(f"SELECT * FROM backout.{one}") for one in ("run", "run_table")])

    return Clinic(folder, postgres18.as_application, values, told, journal)


@pytest.fixture(params=["sqlite", "postgres"])
def clinic(request: pytest.FixtureRequest) -> Clinic:
    """On each of the two."""
    found: Clinic = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.mark.timeout(900)  # a hundred processes
def test_no_value_of_phi_is_in_any_output_or_artefact(clinic: Clinic) -> None:
    """Each verb, also where it fails, as text and as JSON."""
    some = clinic.values[0]
    is_postgres = (clinic.folder / "backout.toml").read_text().count("postgresql://") > 0
    move = clinic.change(
        "move",
        f"-- to {some}\nUPDATE patient SET city = '{some}', name = name || city WHERE city = 'Berlin';\n"
        f"-- @assert \"nobody is left\"\nSELECT count(*) = 0 FROM patient WHERE city = 'Berlin' AND id <> '{some}';",
    )
    clinic.type("init", "--on", "live", "--yes")
    for words in (["doctor", "--on", "live"], ["check", move, "--on", "live"]):
        clinic.type(*words, status=(0, 3))
        clinic.type(*words, "--json", status=(0, 3))
    clinic.type("ghost", move, "--undo", "--on", "live", "--yes")
    clinic.type("ghost", move, "--on", "live", "--yes", "--json")
    clinic.type("announce", move, "--on", "live")
    clinic.type("backup", "--on", "live")
    clinic.type("run", move, "--on", "live", "--yes", "--rows", "200")
    run = clinic.type("log", "--on", "live", "--limit", "1").out
    number = run.split("live-")[1].split()[0]
    for words in (["show", f"live-{number}", "--rows", "200"], ["log", "--on", "live"], ["backups", "--on", "live"]):
        clinic.type(*words)
        clinic.type(*words, "--json")
    clinic.execute(f"UPDATE patient SET name = '{clinic.values[1]}', city = 'x' WHERE id = '{some}'")
    clinic.type("undo", f"live-{number}", "--yes", status=5)
    clinic.type("undo", f"live-{number}", "--ghost", "--partial", "--yes", "--json", status=5)
    clinic.type("undo", f"live-{number}", "--partial", "--yes", status=5)
    clinic.type("retain", f"live-{number}", "--until", "2100-01-01", "--why", "legal hold")
    _failing(clinic, is_postgres=is_postgres)
    clinic.type("rehearse", clinic.change("again", "UPDATE patient SET city = city || '?';"), "--on", "live", "--yes",
                status=(0, 3, 9))  # fmt: skip
    clinic.type("status", move, status=(0, 2, 3))
    clinic.type("audit", status=(0, 2, 3))
    clinic.type("report", move, status=(0, 2, 3))
    backup = clinic.type("backups", "--on", "live").out.split("live-")[1].split()[0]
    clinic.type("restore", f"live-{backup}", "--to", "spare", "--replace", "--yes", status=(2, 3))
    clinic.type("clean", "--on", "live", "--yes")
    assert [event["event"] for _, event in clinic.told.got][:2] == ["announce", "done"]
    clinic.said.append(("what is here is found", clinic.values[199]))
    assert clinic.hits() == [("what is here is found", clinic.values[199])]


def test_what_people_write_of_a_run_holds_no_value_of_a_column_that_is_declared(clinic: Clinic) -> None:
    move = clinic.change("move", "UPDATE patient SET city = 'Hamburg' WHERE city = 'Berlin';")
    clinic.type("init", "--on", "live", "--yes")
    clinic.type("announce", move, "--on", "live")
    clinic.type("run", move, "--on", "live", "--yes")
    name = clinic.values[150]
    refused = clinic.type("attest", "live-1", "--saw", f"the list shows the city of {name}", status=3)
    assert refused.err.startswith(
        'error: the text holds a value of the column "name" of "patient", which is declared PHI\nstate: untouched\n'
    )
    kept = ("retain", "live-1", "--until", "2100-01-01", "--why")
    clinic.type(*kept, f"legal hold of {name.upper()}", status=3)
    clinic.type("attest", "live-1", "--saw", "the list shows Hamburg")  # no value of a declared column
    clinic.type(*kept, "legal hold, case 17")
    assert clinic.hits() == []


def _failing(clinic: Clinic, *, is_postgres: bool) -> None:
    """Changes that fail in ways in which a database, a script or a reader would quote values."""
    some, key, other = clinic.values[5], clinic.values[6], clinic.values[7]
    texts = {
        "duplicate": f"UPDATE patient SET id = '{key}' WHERE id = '{other}';",
        "unread": f"UPDATE patient SET city = = '{some}';",
        "unread-too": f"UPDATE patient SET {some} {key} = 1;",
        "answered": f"UPDATE patient SET city = 'x';\n-- @assert \"who\"\nSELECT name FROM patient WHERE id = '{key}';",
        "tracked": "-- @pre \"who\"\nSELECT name FROM patient;\nUPDATE patient SET city = 'x';\n-- @expect 1\n"
                   "UPDATE patient SET city = 'y';",
        "literal": f"UPDATE patient SET name = '{some}';",
    }  # fmt: skip
    if is_postgres:
        texts["cast"] = f"UPDATE patient SET city = (name::int)::text WHERE id = '{key}';"
        texts["raised"] = f"DO $$ BEGIN RAISE 'no %', (SELECT name FROM patient WHERE id = '{key}'); END $$;"
        texts["after"] = (
            "UPDATE patient SET city = city;\n-- @after \"who\"\nSELECT name FROM patient WHERE id = "
            f"'{key}';\n-- @after \"cast\"\nSELECT name::int FROM patient;"
        )  # fmt: skip
    config = (clinic.folder / "backout.toml").read_text()
    quiet = "\n".join(line for line in config.split("\n") if not line.startswith(("announce", "backup")))
    (clinic.folder / "backout.toml").write_text(quiet)  # else each change would have to be announced, and backed up
    for name, text in texts.items():
        clinic.change(name, text)
        clinic.type("run", name, "--on", "live", "--yes", "--json", status=(2, 3, 4, 9))
    script = (
        "import sys\ndef apply(db):\n    found = db.execute('SELECT * FROM patient ORDER BY id').fetchall()\n"
        "    print(found)\n    print(found, file=sys.stderr)\n    raise ValueError(found)\n"
    )
    clinic.change("script", script, ".py")
    clinic.type("ghost", "script", "--on", "live", "--yes", "--json", status=4)
    given = clinic.change(
        "given", "UPDATE patient SET reason = :reason WHERE id = 'nobody';",
        more='-- [parameters]\n-- reason = {type = "text", per_environment = true}\n',
    )  # fmt: skip
    clinic.type("ghost", given, "--on", "live", "--yes", "--param", f"reason={some}")
    (clinic.folder / "backout.toml").write_text(config)


def test_rows_are_masked_and_say_what_changed(clinic: Clinic) -> None:
    """Which columns, and how many rows; asked for without a terminal, the values are not to be had."""
    move = clinic.change("move", f"UPDATE patient SET city = 'x' WHERE id = '{clinic.values[0]}';")
    shown = clinic.type("ghost", move, "--on", "live", "--yes")
    assert "id •••:  city ••• → ••• (another value)" in shown.out
    assert "UPDATE patient SET city = ••• WHERE id = •••;" in shown.out or "city = ••• WHERE id = •••" in shown.out
    assert "values are masked, since the change says that its rows are PHI" in shown.out
    refused = clinic.type("ghost", move, "--on", "live", "--yes", "--reveal", status=2)
    assert refused.err.startswith("error: --reveal needs a terminal\nstate: untouched\n")


def test_a_publication_that_would_carry_the_rescue_elsewhere_refuses(
    on_postgres: Clinic, postgres18: PostgresDatabase
) -> None:
    """Before anything is written; of other data it does not matter."""
    move = on_postgres.change("move", "UPDATE patient SET city = 'x';")
    on_postgres.type("ghost", move, "--on", "live", "--yes")
    postgres18.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    refused = on_postgres.type("ghost", move, "--on", "live", "--yes", status=3)
    assert refused.err == (
        'error: the rows are PHI, and publication "everything" would carry the rescue tables elsewhere\n'
        "state: untouched\n"
        "hint: let the publication name tables or schemas instead of all; or take PHI out of the change\n"
    )
    postgres18.execute("DROP PUBLICATION everything; CREATE PUBLICATION kept FOR TABLES IN SCHEMA rescue")
    on_postgres.type("run", move, "--on", "live", "--yes", status=3)
    postgres18.execute("DROP PUBLICATION kept; CREATE PUBLICATION fine FOR TABLES IN SCHEMA public")
    on_postgres.type("ghost", move, "--on", "live", "--yes")
