"""Backups of PostgreSQL: taken, recorded, encrypted, restored and compared, on real servers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from backout.engines.postgres.embedded import EmbeddedServer
from backout.errors import BackoutError, Refused
from backout.recovery.backups.model import Backup
from integration.postgres.stage import Stage, failure, stage_for, text_of, yes
from servers import PASSWORD, SETTINGS, PostgresDatabase, PostgresServers, present

SCHEMA = """
CREATE TABLE patient (id int PRIMARY KEY, name text NOT NULL, born date, notes jsonb, photo bytea);
CREATE TABLE visit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, patient int NOT NULL REFERENCES patient,
                    cost numeric(10, 2), total numeric GENERATED ALWAYS AS (cost * 2) STORED);
CREATE INDEX ON visit (patient);
CREATE VIEW costs AS SELECT patient, sum(cost) AS cost FROM visit GROUP BY patient;
INSERT INTO patient SELECT n, 'patient ' || n, DATE '1970-01-01' + n, jsonb_build_object('n', n), decode(md5(n::text), 'hex')
  FROM generate_series(1, 500) n;
INSERT INTO visit (patient, cost) SELECT n, n * 1.5 FROM generate_series(1, 500) n;
"""


@pytest.fixture
def stage(postgres: PostgresDatabase, tmp_path: Path) -> Stage:
    """A clinic whose runs are preceded by a backup."""
    found = stage_for(postgres, tmp_path, backup='"pg_dump"')
    found.make(SCHEMA)
    return found


@pytest.fixture
def elsewhere(stage: Stage, postgres_servers: PostgresServers) -> Iterator[PostgresDatabase]:
    """Another database on the same server, with its own roles, which the project knows as "spare"."""
    name = f"pg{stage.database.version}"
    database = postgres_servers.create_database(name)
    stage.undo_options = (
        f'[environments.spare]\nurl = "{database.login_url}"\nrole = "{database.application_role}"\n'
        'lock_timeout = "300 ms"\n'
    )
    yield database
    postgres_servers.drop_database(name, database)


def key_file(folder: Path) -> tuple[str, Path]:
    """A recipient, and the file with its secret key."""
    identity = pyrage.x25519.Identity.generate()
    path = folder / "key.txt"
    path.write_text(f"# created by a test\n{identity}\n")
    return str(identity.to_public()), path


def files(stage: Stage) -> dict[str, bytes]:
    """What lies in the folder of the backups."""
    folder = stage.folder / ".backout" / "backups"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def test_a_restored_database_is_the_one_that_was_backed_up(stage: Stage, elsewhere: PostgresDatabase) -> None:
    """Row by row, in another environment, under its roles; and at home, over what has changed since."""
    before = stage.dump()
    backup = stage.project.backup("test")
    spare = Stage(elsewhere, stage.folder / "spare")
    stage.project.restore(backup.identifier, "spare", ask=yes)
    assert before == spare.dump()
    assert elsewhere.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == [
        (elsewhere.application_role,)
    ]
    assert elsewhere.execute("SELECT to_regnamespace('backout')") == [(None,)]
    assert elsewhere.as_application("INSERT INTO visit (patient, cost) VALUES (1, 1) RETURNING id, total") == [(501, 2)]
    stage.elsewhere("DELETE FROM visit; UPDATE patient SET name = 'somebody else'; DROP VIEW costs")
    stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert before == stage.dump()
    assert stage.rows("SELECT sum(cost) FROM costs") == [(187875,)]


def test_a_journal_stays_and_comes_back_only_where_there_is_none(stage: Stage, elsewhere: PostgresDatabase) -> None:
    """What was recorded since is not wiped out; in an emptied database, at home, a run of before can still be undone."""
    before = stage.dump()
    run = stage.run("UPDATE patient SET name = 'nobody' WHERE id <= 10")
    backup = stage.project.backup("test")
    stage.project.init_journal("spare")
    stage.project.restore(backup.identifier, "spare", ask=yes)
    assert stage.project.log("spare") == ()
    assert elsewhere.execute("SELECT environment FROM backout.journal") == [("spare",)]
    assert elsewhere.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'rescue'") == [(0,)]
    assert stage.dump() == Stage(elsewhere, stage.folder).dump()
    later = stage.run("DELETE FROM visit")
    stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert [record.number for record in stage.log()] == [later.run, run.run]
    stage.undo(run)
    assert before == stage.dump()
    stage.database.execute("DROP SCHEMA backout CASCADE; DROP SCHEMA rescue CASCADE")
    stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert [record.number for record in stage.log()] == [run.run]
    stage.undo(run)
    assert before == stage.dump()


def test_a_backup_is_recorded_with_what_is_needed_to_find_and_restore_it(stage: Stage) -> None:
    """In a file beside it, with the database's clock, and for its owner only."""
    backup = stage.project.backup("test")
    (stored,) = [Path(place) for place in backup.places]
    assert stored.read_bytes()[:5] == b"PGDMP"
    assert backup.sha256 == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert backup.size_bytes == stored.stat().st_size
    assert stored.stat().st_mode & 0o777 == 0o600
    assert backup.restore == f"backout restore {backup.identifier} --to ENV"
    assert (backup.provider, backup.product) == ("pg_dump", "PostgreSQL")
    assert backup.made_with == f"pg_dump {stage.database.server.programs.version}"
    (clock,) = stage.rows("SELECT now()")[0]
    assert backup.taken_at <= clock
    record = json.loads((stored.parent / f"{backup.identifier}.backup.json").read_text())
    assert record["sha256"] == backup.sha256
    assert stage.project.backups("test") == (backup,)


def test_a_run_takes_its_backup_first_and_says_which(stage: Stage) -> None:
    """In its report, and in the journal; the backup holds the rows as they were before."""
    before = stage.dump()
    report = stage.run("UPDATE patient SET name = 'nobody'")
    (backup,) = stage.project.backups("test")
    assert report.backup is not None
    assert report.backup["id"] == backup.identifier
    assert stage.rows("SELECT report->'backup'->>'sha256' FROM backout.run") == [(backup.sha256,)]
    stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert before == stage.dump()


def test_mirrors_have_the_same_file_and_stand_in_for_a_lost_one(stage: Stage) -> None:
    """The first place whose file is the recorded one is used; an altered file is not."""
    stage.options = {"backup": '{provider = "pg_dump", folder = "near", mirrors = ["far"]}'}
    before = stage.dump()
    backup = stage.project.backup("test")
    near, far = map(Path, backup.places)
    assert (near.parent.name, far.parent.name) == ("near", "far")
    assert near.read_bytes() == far.read_bytes()
    stage.elsewhere("DELETE FROM visit")
    near.write_bytes(near.read_bytes()[:-1] + b"?")
    _, note = stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes)
    assert note == f'not taken from "{near}" (it was altered)'
    assert before == stage.dump()
    far.unlink()
    error = failure(lambda: stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes))
    assert error.message == (
        f'backup "{backup.identifier}" cannot be used: "{near}" (it was altered), "{far}" (it is not there)'
    )
    assert before == stage.dump()


def test_with_recipients_only_their_keys_open_it(stage: Stage) -> None:
    """No clear byte of the dump is in the folder, at the end as little as meanwhile."""
    recipient, key = key_file(stage.folder)
    _, other = key_file(stage.folder / "..")
    stage.options = {"backup": f'{{provider = "pg_dump", recipients = ["{recipient}"]}}'}
    before = stage.dump()
    backup = stage.project.backup("test")
    assert backup.encrypted
    assert backup.restore.endswith("--identity FILE")
    assert all(b"PGDMP" not in content and b"patient 1" not in content for content in files(stage).values())
    stage.elsewhere("DELETE FROM visit")
    changed = stage.dump()
    assert text_of(failure(lambda: stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes))) == [
        f'backup "{backup.identifier}" is encrypted', "state: untouched",
        "hint: name the file with a secret key: --identity FILE",
    ]  # fmt: skip
    wrong = failure(lambda: stage.project.restore(backup.identifier, "test", identity=other, replace_all=True, ask=yes))
    assert wrong.message == "the backup cannot be decrypted: it is for other keys, or was altered"
    assert changed == stage.dump()
    stage.project.restore(backup.identifier, "test", identity=key, replace_all=True, ask=yes)
    assert before == stage.dump()


def test_of_phi_no_backup_is_in_clear(stage: Stage) -> None:
    """Without recipients the run is refused, nothing was written; nor does a recent backup in clear count."""
    stage.options = {"backup": '{provider = "pg_dump", max_age = "1 hour"}'}
    stage.project.backup("test")
    kept = files(stage)
    error = stage.refuses("UPDATE patient SET name = 'nobody'", data="phi")
    assert text_of(error) == [
        "the rows are PHI, and the backup would be a file in clear: there are no recipients", "state: untouched",
        'hint: make a key with age-keygen, and name its public part: backup.recipients = ["age1…"]',
    ]  # fmt: skip
    assert kept == files(stage)
    assert stage.journal() == []
    stage.options = {
        "backup": f'{{provider = "pg_dump", max_age = "1 hour", recipients = ["{key_file(stage.folder)[0]}"]}}'
    }
    report = stage.run("UPDATE patient SET name = 'nobody'", data="phi")
    assert report.backup is not None
    assert report.backup["encrypted"]


def test_a_recent_backup_will_do_where_the_policy_says_how_recent(stage: Stage) -> None:
    """Not one whose file has gone, nor one that is too old."""
    stage.options = {"backup": '{provider = "pg_dump", max_age = "1 hour"}'}
    backup = stage.project.backup("test")
    used = [stage.run("UPDATE patient SET name = 'a'").backup, stage.run("UPDATE patient SET name = 'b'").backup]
    assert [one and one["id"] for one in used] == [backup.identifier, backup.identifier]
    Path(backup.places[0]).unlink()
    third = stage.run("UPDATE patient SET name = 'c'").backup
    assert third is not None
    assert third["id"] != backup.identifier
    stage.options = {"backup": '{provider = "pg_dump", max_age = "1 ms"}'}
    fourth = stage.run("UPDATE patient SET name = 'd'").backup
    assert fourth is not None
    assert fourth["id"] not in (backup.identifier, third["id"])


def test_a_backup_that_fails_refuses_the_run(stage: Stage) -> None:
    """Nothing was written, and no half a file is left."""
    stage.make("CREATE TABLE secret (id int); REVOKE ALL ON secret FROM CURRENT_USER")
    stage.database.execute("ALTER TABLE secret OWNER TO postgres")
    error = stage.refuses("UPDATE patient SET name = 'nobody'")
    assert isinstance(error, Refused)
    assert error.message.startswith("unable to dump the database: pg_dump: error: ")
    assert "permission denied for table secret" in error.message
    assert error.state == "untouched"
    assert stage.journal() == []
    assert files(stage) == {}


def test_the_password_is_on_no_command_line(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pg_dump of our own on the PATH writes down how it was called, and hands on to the real one."""
    real = stage.database.server.programs.path("pg_dump")
    seen = tmp_path / "seen"
    place = tmp_path / "bin"
    place.mkdir()
    (place / "pg_dump").write_text(f'#!/bin/sh\necho "$@" >> {seen}\nexec {real} "$@"\n')
    (place / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    stage.project.backup("test")
    assert "--dbname=" in seen.read_text()
    assert PASSWORD not in seen.read_text()
    record = "".join(content.decode(errors="replace") for name, content in files(stage).items() if "json" in name)
    assert PASSWORD not in record


def test_a_pg_dump_that_is_too_old_is_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole text."""
    from backout.engines.postgres import dump

    old = [one for one in dump.tools("pg_dump") if one.major < stage.database.version]
    monkeypatch.setattr(dump, "tools", lambda _name: tuple(old))
    error = failure(lambda: stage.project.backup("test"))
    version, there = stage.database.version, ", ".join(sorted({one.version for one in old})) or "none"
    assert text_of(error) == [
        f"no pg_dump of version {version} or newer is on this machine: there is {there}", "state: untouched",
        f"hint: install postgresql-client-{version}, or put its programs on the PATH",
    ]  # fmt: skip


@pytest.mark.parametrize("stamped", [True, False])
def test_production_is_not_replaced_unless_its_policy_says_so(stage: Stage, stamped: bool) -> None:
    """By the stamp in the database, whatever the environment is called here; and by its name."""
    backup = stage.project.backup("test")
    solo = 'profile = "solo"\n'
    name = "other" if stamped else "production"
    stage.undo_options = f'[environments.{name}]\nurl = "{stage.database.login_url}"\n{solo}'
    if stamped:
        stage.project.init_journal("other")
        stage.database.execute("UPDATE backout.journal SET environment = 'production'")
        error = failure(lambda: stage.project.restore(backup.identifier, "other", replace_all=True, ask=yes))
        assert error.message == 'this database says that it is "production", not "other"'
        return
    error = failure(lambda: stage.project.restore(backup.identifier, "production", replace_all=True, ask=yes))
    assert text_of(error) == [
        '"production" is a production database, and its policy allows no restore', "state: untouched",
        'hint: restore into another environment, or write backup.restore_into = "allow" for "production"',
    ]  # fmt: skip
    stage.undo_options += 'backup = {provider = "pg_dump", restore_into = "allow"}\n'
    stage.project.restore(backup.identifier, "production", replace_all=True, ask=yes)


def test_tables_are_not_replaced_unless_told(stage: Stage) -> None:
    """And a "no" is a no."""
    backup = stage.project.backup("test")
    error = failure(lambda: stage.project.restore(backup.identifier, "test", ask=yes))
    assert text_of(error) == [
        '"test" holds tables, which a restore replaces', "state: untouched",
        "hint: restore into an empty database, or say --replace",
    ]  # fmt: skip
    said_no = failure(
        lambda: stage.project.restore(backup.identifier, "test", replace_all=True, ask=lambda _kind, _text: False)
    )
    assert said_no.message == "not restored: you said no"


def test_a_restore_that_fails_leaves_everything_as_it_was(stage: Stage) -> None:
    """It is one transaction: here something that is not in the backup stands in its way."""
    backup = stage.project.backup("test")
    stage.elsewhere("UPDATE patient SET name = 'later'; CREATE VIEW later AS SELECT name FROM patient")
    before = stage.dump()
    error = failure(lambda: stage.project.restore(backup.identifier, "test", replace_all=True, ask=yes))
    assert error.message.startswith("unable to restore the database: pg_restore: error: ")
    assert (error.exit_status, error.state) == (3, "untouched")
    assert before == stage.dump()


# -- continuous archiving ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archiving_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedServer, Path]]:
    """A server of the newest version that archives its log into a folder."""
    programs = next(iter(present().values()), None)
    if programs is None:
        pytest.skip("no PostgreSQL to test with")
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="backout-test-archive-", dir="/tmp" if os.geteuid() == 0 else None))
    place.chmod(0o777)
    archive = place / "archive"
    archive.mkdir()
    archive.chmod(0o777)
    settings = {
        **SETTINGS, "wal_level": "replica", "archive_mode": "on",
        "archive_command": f"test ! -e {place}/broken && cp %p {archive}/%f",
    }  # fmt: skip
    server = EmbeddedServer.start(place / "server", programs=programs, settings=settings, ephemeral=True)
    yield server, archive
    server.stop()
    subprocess.run(["rm", "-rf", str(place)], check=True)


def pitr_stage(server: EmbeddedServer, folder: Path) -> tuple[str, Path]:
    """The URL of a database on it, and a configuration whose backups are the archive."""
    url = server.url("postgres")
    path = folder / "backout.toml"
    path.write_text(f'[environments.test]\nurl = "{url}"\nsuperuser = "allow"\nbackup = "pitr"\n')
    return url, path


def taken(config: Path) -> Backup:
    from backout import Project

    return Project.find(config).backup("test")


def test_continuous_archiving_counts_once_it_is_seen_to_work(
    archiving_server: tuple[EmbeddedServer, Path], tmp_path: Path
) -> None:
    """A named restore point, whose log file is in the archive when the backup counts."""
    server, archive = archiving_server
    _, config = pitr_stage(server, tmp_path)
    backup = taken(config)
    assert backup.restore_point is not None
    assert backup.lsn is not None
    archived = max(path.name for path in archive.glob("*"))
    content = (archive / archived).read_bytes()
    assert backup.restore_point.encode() in content
    assert backup.sha256 is None


def test_an_archive_that_does_not_work_refuses(
    archiving_server: tuple[EmbeddedServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the server's own."""
    from backout.engines.postgres import archiving

    server, archive = archiving_server
    _, config = pitr_stage(server, tmp_path)
    monkeypatch.setattr(archiving.make_restore_point, "__defaults__", (3.0,))
    broken = archive.parent / "broken"
    broken.touch()
    error = failure(lambda: taken(config))
    broken.unlink()
    assert isinstance(error, Refused)
    assert "was not archived within 3 s" in error.message
    assert error.state == "untouched"


def test_a_server_without_an_archive_refuses(stage: Stage) -> None:
    """The whole text."""
    stage.options = {"backup": '"pitr"'}
    error: BackoutError = stage.refuses("UPDATE patient SET name = 'nobody'")
    assert text_of(error) == [
        "this server archives nothing: archive_mode is off, wal_level is minimal", "state: untouched",
        'hint: set up continuous archiving (manual 25.3), or another provider than "pitr"',
    ]  # fmt: skip
