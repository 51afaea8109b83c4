"""Backups of MariaDB by mariadb-dump: taken, encrypted, restored and compared, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from backout import Project
from backout.engines.values import TableName
from backout.errors import Refused, RestoreFailed
from integration.postgres.stage import failure, yes
from servers_mariadb import MariaDatabase, MariaServers

SCHEMA = """
CREATE TABLE patient (id INT PRIMARY KEY, name VARCHAR(100) NOT NULL, born DATE, notes TEXT, photo BLOB, at DATETIME(6));
CREATE TABLE visit (id INT AUTO_INCREMENT PRIMARY KEY, patient INT NOT NULL, cost DECIMAL(10, 2),
                    FOREIGN KEY (patient) REFERENCES patient (id));
INSERT INTO patient SELECT seq, CONCAT('patient-ä€😀 ', seq), DATE '1970-01-01' + INTERVAL seq DAY, REPEAT('x', seq),
       UNHEX(MD5(seq)), '2026-01-01 00:00:00.123456' FROM seq_1_to_300;
INSERT INTO visit (patient, cost) SELECT seq, seq * 1.5 FROM seq_1_to_300;
"""


@pytest.fixture
def folder(mariadb: MariaDatabase, tmp_path: Path) -> Path:
    """A clinic whose runs are preceded by a backup."""
    mariadb.execute(SCHEMA)
    configure(tmp_path, mariadb, '"mariadb-dump"')
    return tmp_path


@pytest.fixture
def elsewhere(mariadb_servers: MariaServers, folder: Path) -> Iterator[MariaDatabase]:
    """Another, empty database of the server, which the project knows as "spare"."""
    database = mariadb_servers.create_database()
    with (folder / "backout.toml").open("a") as file:
        file.write(f'[environments.spare]\nurl = "{database.superuser_url}"\nsuperuser = "allow"\n')
    yield database
    mariadb_servers.drop_database(database)


def configure(folder: Path, database: MariaDatabase, backup: str) -> None:
    (folder / "backout.toml").write_text(
        f'[environments.test]\nurl = "{database.superuser_url}"\nsuperuser = "allow"\nbackup = {backup}\n'
    )


def project(folder: Path) -> Project:
    return Project.find(folder / "backout.toml")


def content(database: MariaDatabase) -> dict[str, list[tuple[object, ...]]]:
    return {table: database.execute(f"SELECT * FROM {table} ORDER BY id") for table in ("patient", "visit")}


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_restored_database_is_the_one_that_was_backed_up(
    folder: Path, mariadb: MariaDatabase, elsewhere: MariaDatabase, is_encrypted: bool
) -> None:
    """Row by row, elsewhere and at home, with every character and byte."""
    identity = pyrage.x25519.Identity.generate()
    (folder / "key.txt").write_text(str(identity))
    key = folder / "key.txt" if is_encrypted else None
    if is_encrypted:
        text = (folder / "backout.toml").read_text()
        sealed = f'{{provider = "mariadb-dump", recipients = ["{identity.to_public()}"]}}'
        (folder / "backout.toml").write_text(text.replace('"mariadb-dump"', sealed))
    before = content(mariadb)
    backup = project(folder).backup("test")
    stored = Path(backup.places[0]).read_bytes()
    assert ("patient-ä€😀 7".encode() in stored) is not is_encrypted
    project(folder).restore(backup.identifier, "spare", identity=key, ask=yes)
    assert before == content(elsewhere)
    mariadb.execute("DELETE FROM visit; UPDATE patient SET name = 'nobody'")
    project(folder).restore(backup.identifier, "test", identity=key, replace_all=True, ask=yes)
    assert before == content(mariadb)
    assert project(folder).backups("test") == (backup,)
    assert backup.made_with.startswith("mariadb-dump 1")


def test_a_run_takes_its_backup_first(folder: Path, mariadb: MariaDatabase) -> None:
    """The rows in it are those from before, and the journal's record of the run stays when it is restored."""
    before = content(mariadb)
    path = folder / "change.sql"
    path.write_text(
        '-- /// change\n-- title = "A change"\n-- dialect = "mariadb"\n-- ///\nUPDATE patient SET name = "x";\n'
    )
    found = project(folder)
    report = found.run(found.change(str(path)), "test", ask=yes)
    assert report.backup is not None
    assert content(mariadb) != before
    found.restore(report.backup["id"], "test", replace_all=True, ask=yes)
    assert before == content(mariadb)
    assert [record.number for record in found.log("test")] == [report.run]
    assert TableName(mariadb.name, "patient") in [one.table.name for one in found.log("test")[0].tables]


def test_a_dump_that_fails_refuses_the_run(folder: Path, mariadb: MariaDatabase) -> None:
    """Here for a view whose table is gone; nothing is left over."""
    mariadb.execute("CREATE TABLE gone (id INT); CREATE VIEW broken AS SELECT id FROM gone; DROP TABLE gone")
    error = failure(lambda: project(folder).backup("test"))
    assert isinstance(error, Refused)
    assert error.message.startswith("unable to dump the database: mariadb-dump: ")
    assert list((folder / ".backout" / "backups").glob("*")) == []


def test_a_restore_that_ends_half_way_says_so(folder: Path, mariadb: MariaDatabase, elsewhere: MariaDatabase) -> None:
    """MariaDB cannot take back what it has done: the state is told as it is."""
    backup = project(folder).backup("test")
    elsewhere.execute("CREATE TABLE keeper (id INT PRIMARY KEY); CREATE VIEW visit AS SELECT id FROM keeper")
    error = failure(lambda: project(folder).restore(backup.identifier, "spare", replace_all=True, ask=yes))
    assert isinstance(error, RestoreFailed)
    assert (error.exit_status, error.state) == (10, "partly restored")
