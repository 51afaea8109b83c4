"""Backups of SQLite by its backup API, and of anything by a command of one's own."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pyrage
import pytest

from backout import Project
from backout.errors import BackoutError, Refused
from integration.postgres.stage import failure, text_of, yes
from integration.sqlite.driving import dump

SCHEMA = """
CREATE TABLE patient (id INTEGER PRIMARY KEY, name TEXT NOT NULL, photo BLOB);
CREATE TABLE visit (id INTEGER PRIMARY KEY AUTOINCREMENT, patient INT REFERENCES patient, cost REAL) STRICT;
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clinic in a file, with an environment beside it that is empty."""
    with closing(sqlite3.connect(tmp_path / "clinic.db")) as connection:
        connection.executescript(SCHEMA)
        people = [(n, f"patient {n}", bytes([n % 256]) * 50) for n in range(1, 501)]
        connection.executemany("INSERT INTO patient VALUES (?, ?, ?)", people)
        connection.executemany("INSERT INTO visit (patient, cost) VALUES (?, ?)", [(n, n * 1.5) for n, _, _ in people])
        connection.commit()
    with closing(sqlite3.connect(tmp_path / "spare.db")) as connection:
        connection.execute("VACUUM")
    configure(tmp_path, '"sqlite"')
    return tmp_path


def configure(folder: Path, backup: str) -> None:
    (folder / "backout.toml").write_text(
        f'[environments.test]\nurl = "sqlite:///{folder}/clinic.db"\nbackup = {backup}\n'
        f'[environments.spare]\nurl = "sqlite:///{folder}/spare.db"\n'
    )


def project(folder: Path) -> Project:
    return Project.find(folder / "backout.toml")


def elsewhere(folder: Path, statements: str) -> None:
    with closing(sqlite3.connect(folder / "clinic.db")) as connection:
        connection.executescript(statements)


def run(folder: Path, statements: str, data: str = "internal") -> object:
    path = folder / "change.sql"
    path.write_text(
        f'-- /// change\n-- title = "A change"\n-- data = "{data}"\n-- repeat = true\n-- ///\n{statements}\n'
    )
    found = project(folder)
    return found.run(found.change(str(path)), "test", ask=yes)


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_restored_file_is_the_one_that_was_backed_up(folder: Path, journal_mode: str, is_encrypted: bool) -> None:
    """At home and elsewhere; whether its newest rows are in the file or in its log."""
    identity = pyrage.x25519.Identity.generate()
    (folder / "key.txt").write_text(str(identity))
    if is_encrypted:
        configure(folder, f'{{provider = "sqlite", recipients = ["{identity.to_public()}"]}}')
    key = folder / "key.txt" if is_encrypted else None
    elsewhere(folder, f"PRAGMA journal_mode = {journal_mode}")
    before = dump(folder / "clinic.db")
    backup = project(folder).backup("test")
    (content,) = [Path(place).read_bytes() for place in backup.places]
    assert (b"patient 1" in content) is not is_encrypted
    project(folder).restore(backup.identifier, "spare", identity=key, ask=yes)
    assert before == dump(folder / "spare.db")
    elsewhere(folder, "DELETE FROM visit; DROP TABLE patient")
    project(folder).restore(backup.identifier, "test", identity=key, replace_all=True, ask=yes)
    assert before == dump(folder / "clinic.db")


def test_a_journal_stays_and_none_comes_along(folder: Path) -> None:
    """Nor does a rescue: not even in pages that nobody points at any more."""
    before = dump(folder / "clinic.db")
    report = run(folder, "UPDATE patient SET name = 'somebody-else' WHERE id <= 3;")
    backup = project(folder).backup("test")
    changed = dump(folder / "clinic.db")
    project(folder).init_journal("spare")
    project(folder).restore(backup.identifier, "spare", ask=yes)
    assert changed == dump(folder / "spare.db")
    assert project(folder).log("spare") == ()
    assert b"patient 3\x03" not in (folder / "spare.db").read_bytes()
    project(folder).undo(report.identifier, "test", ask=yes)  # type: ignore[attr-defined]
    project(folder).restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert [record.number for record in project(folder).log("test")] == [2, 1]
    assert before != changed == dump(folder / "clinic.db")


def test_a_run_takes_its_backup_first(folder: Path) -> None:
    """The rows in it are those from before; of PHI there is none in clear."""
    before = dump(folder / "clinic.db")
    run(folder, "UPDATE patient SET name = 'nobody';")
    (backup,) = project(folder).backups("test")
    project(folder).restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert before == dump(folder / "clinic.db")
    error = failure(lambda: run(folder, "UPDATE patient SET name = 'nobody';", data="phi"))
    assert error.message == "the rows are PHI, and the backup would be a file in clear: there are no recipients"
    assert before == dump(folder / "clinic.db")


def test_a_damaged_backup_is_refused(folder: Path) -> None:
    """Even if its record was altered with it."""
    backup = project(folder).backup("test")
    path = Path(backup.places[0])
    path.write_bytes(path.read_bytes().replace(b"patient 1", b"patient 2", 1))
    before = dump(folder / "clinic.db")
    error = failure(lambda: project(folder).restore(backup.identifier, "test", replace_all=True, ask=yes))
    assert error.message == f'backup "{backup.identifier}" cannot be used: "{path}" (it was altered)'
    assert before == dump(folder / "clinic.db")


def test_another_databases_provider_is_refused(folder: Path) -> None:
    """The whole text."""
    configure(folder, '"pg_dump"')
    error = failure(lambda: project(folder).backup("test"))
    assert text_of(error) == [
        '"pg_dump" does not serve "test", which is sqlite', "state: untouched",
        'hint: write backup = "sqlite" for it',
    ]  # fmt: skip


# -- a command of one's own --------------------------------------------------------------------------------------------

#: A host's program, which keeps backups under names of its own.
HOST = """
import pathlib, sqlite3, sys
here = pathlib.Path(__file__).parent
verb, *rest = sys.argv[1:]
kept = here / "host"
kept.mkdir(exist_ok=True)
if verb == "take":
    (kept / "backup-17").write_bytes((here / "clinic.db").read_bytes())
    print("Backing up", rest[0])
    print("backup-17")
elif verb == "list":
    print("\\n".join(sorted(one.name for one in kept.iterdir())))
elif verb == "restore":
    (here / "clinic.db").write_bytes((kept / rest[0]).read_bytes())
elif verb == "delete":
    (kept / rest[0]).unlink()
elif verb == "stream":
    pathlib.Path(rest[0]).open("wb").write((here / "clinic.db").read_bytes())
    print("chatter that is no backup")
elif verb == "unstream":
    content = pathlib.Path(rest[0]).open("rb").read()
    (here / "clinic.db").write_bytes(content)
elif verb == "fail":
    sys.exit("host: error: quota exceeded")
"""


@pytest.fixture
def host(folder: Path) -> str:
    """How to call the host's program."""
    (folder / "host.py").write_text(HOST)
    return f"{sys.executable} {folder}/host.py"


def commands(folder: Path, *, more: str = "", **templates: str) -> None:
    written = ", ".join(f"{name} = '{text}'" for name, text in templates.items())
    configure(folder, f'{{provider = "command", {written}{more}}}')


def test_a_hosts_own_backups_are_taken_found_restored_and_deleted(folder: Path, host: str) -> None:
    """By the name that the host gave; where there are mirrors, the fastest is named first."""
    commands(
        folder, take=f"{host} take {{environment}}", list=f"{host} list", restore=f"{host} restore {{id}}",
        delete=f"{host} delete {{id}}", more=', mirrors = ["us-east-1", "us-west-1"]',
    )  # fmt: skip
    before = dump(folder / "clinic.db")
    backup = project(folder).backup("test")
    assert (backup.held_as, backup.places) == ("backup-17", ("us-east-1", "us-west-1"))
    assert backup.restore == f"{host} restore backup-17"
    elsewhere(folder, "DELETE FROM visit")
    project(folder).restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert before == dump(folder / "clinic.db")


def test_a_backup_that_the_host_does_not_list_does_not_count(folder: Path, host: str) -> None:
    """The run is refused, with its database untouched."""
    commands(folder, take=f"{host} take x", list=f"{host} list-nothing")
    before = dump(folder / "clinic.db")
    error = failure(lambda: run(folder, "DELETE FROM visit;"))
    assert error.message == 'the backup "backup-17" was made, and `list` does not show it'
    assert (error.exit_status, error.state) == (3, "untouched")
    assert before == dump(folder / "clinic.db")


def test_a_streamed_backup_is_encrypted_on_its_way(folder: Path, host: str) -> None:
    """The program writes into {file}, which is a pipe; what it prints is no part of the backup."""
    identity = pyrage.x25519.Identity.generate()
    key = folder / "key.txt"
    key.write_text(str(identity))
    commands(
        folder, take=f"{host} stream {{file}}", restore=f"{host} unstream {{file}}",
        more=f', recipients = ["{identity.to_public()}"]',
    )  # fmt: skip
    before = dump(folder / "clinic.db")
    backup = project(folder).backup("test")
    content = Path(backup.places[0]).read_bytes()
    assert b"patient 1" not in content
    assert b"chatter" not in content
    assert pyrage.decrypt(content, [identity]) == (folder / "clinic.db").read_bytes()
    elsewhere(folder, "DELETE FROM visit")
    project(folder).restore(backup.identifier, "test", identity=key, replace_all=True, ask=yes)
    assert before == dump(folder / "clinic.db")


@pytest.mark.parametrize("template", ["fail", "fail {file}"])
def test_a_host_that_fails_refuses_the_run(folder: Path, host: str, template: str) -> None:
    """With its own words, and nothing left over."""
    commands(folder, take=f"{host} {template}")
    before = dump(folder / "clinic.db")
    error = failure(lambda: run(folder, "DELETE FROM visit;"))
    assert isinstance(error, Refused)
    assert error.message == "unable to take the backup: host: error: quota exceeded"
    assert before == dump(folder / "clinic.db")
    assert list((folder / ".backout" / "backups").glob("*")) == []


def test_no_shell_reads_a_template(folder: Path, host: str) -> None:
    """A word stays a word, whatever is in it."""
    commands(folder, take=f'{host} take "$(touch {folder}/owned); touch {folder}/owned"')
    project(folder).backup("test")
    assert not (folder / "owned").exists()


def test_a_program_that_is_not_there_is_named(folder: Path) -> None:
    """The whole text."""
    commands(folder, take="/nowhere/tool take")
    error: BackoutError = failure(lambda: project(folder).backup("test"))
    assert text_of(error) == [
        'unable to take the backup: "/nowhere/tool" cannot be run: no such file or directory', "state: untouched",
        "hint: install it, or name another provider of backups",
    ]  # fmt: skip
