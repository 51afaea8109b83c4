"""`backout report`: what the document of a change says after its way up the ladder, on real databases."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from acceptance.program import Finished, backout
from backout import Project
from servers import PASSWORD, PostgresDatabase
from unit.test_report import Page

SCHEMA = """
CREATE TABLE referral (id integer PRIMARY KEY, status text NOT NULL, patient text NOT NULL);
INSERT INTO referral VALUES (1, 'open', '<script>alert(1)</script>'), (2, 'open', 'secret-2'), (3, 'closed', 'x');
"""
CHANGE = """-- /// change
-- title = "Close the open referrals"
-- request = "https://tracker.example.com/4711"
-- requested_by = "owner@clinic.example.com"
-- risk = "A referral that somebody reopened could be closed again."
-- mitigation = "A ghost run first, and the assertion."
{more}-- ///

-- @expect 2
UPDATE referral SET status = 'closed', patient = patient || ' (closed)' WHERE status = 'open';

-- @assert "none is open"
SELECT count(*) = 0 FROM referral WHERE status = 'open';
"""
CONFIG = """
[project]
name = "clinic"
[people.ada]
email = "ada@example.org"
[people.grace]
email = "grace@example.org"
[environments.staging]
url = "sqlite:///{folder}/staging.db"
[environments.qa]
url = "postgresql://nobody:secret@127.0.0.1:1/clinic"
[environments.production]
url = "sqlite:///{folder}/production.db"
after = ["staging"]
approvals = ["correctness"]
announce = "none"
backup = "sqlite"
"""


class Clinic:
    """A project with three environments, two people with keys, and a change; nothing has been run yet."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        (folder / "changes").mkdir()
        (folder / "backout.toml").write_text(CONFIG.format(folder=folder))
        self.write(more)
        for name in ("staging", "production"):
            with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
                connection.executescript(SCHEMA)
        for person in ("ada", "grace"):
            key = folder / person
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
            public = key.with_suffix(".pub").read_text().split()
            with (folder / "allowed_signers").open("a") as file:
                file.write(f"{person}@example.org {public[0]} {public[1]}\n")

    def write(self, more: str = "") -> None:
        (self.folder / "changes" / "close.sql").write_text(CHANGE.format(more=more))

    def say(self, *arguments: str, key: str = "ada") -> Finished:
        ended = backout(self.folder, *arguments, "--key", key)
        assert ended.status == 0, ended.err
        return ended

    def up_the_ladder(self) -> None:
        self.say("submit", "close")
        self.say("rehearse", "close", "--on", "staging", "--yes")
        self.say("approve", "close", "--on", "production", "--for", "correctness", "--tick", "all", key="grace")
        self.say("run", "close", "--on", "production", "--yes")

    def report(self, *arguments: str) -> str:
        return self.say("report", "close", *arguments).out


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not on this machine")
    return Clinic(tmp_path)


def test_report_of_a_change_that_went_all_the_way(clinic: Clinic) -> None:
    clinic.up_the_ladder()
    digest = Project.find(start=clinic.folder).change("close").digest

    text = clinic.report()

    assert text.startswith("# Close the open referrals\n")
    assert f"| **Digest** | `{digest}` |" in text
    assert "<https://tracker.example.com/4711>" in text
    assert "A referral that somebody reopened could be closed again." in text
    assert "| **Links** | ⚠️ not written |" in text
    assert "✅ exact" in text
    assert "| grace | approved: correctness | production |" in text
    assert "| ada | certified a rehearsal | staging |" in text
    assert "### staging" in text
    assert "(✅ committed, then undone)" in text
    assert "#### Undo staging-" in text
    assert "⚠️ not reached, so nothing is known of it: unable to connect" in text
    assert "secret@" not in text
    assert "#### Run production-1 (✅ committed)" in text
    assert "| `main.referral` | 0 | 2 | 0 | named in the change |" in text
    assert "images, kept until" in text
    assert "| **Backup** | production-" in text
    assert "backout restore production-" in text
    assert "- `~` id `2`: status `open` → `closed`, patient `secret-2` → `secret-2 (closed)`" in text
    assert "$ backout undo production-1" in text
    assert "| **Ledger** | `entry " in text
    assert "$ backout audit" in text


def test_html_is_one_inert_file(clinic: Clinic) -> None:
    clinic.up_the_ladder()

    said = clinic.report("--format", "html", "-o", "report.html")

    assert said == "wrote report.html\n"
    text = (clinic.folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert page.loads == page.handlers == []
    assert page.links == ["https://tracker.example.com/4711"]
    assert "<script>alert(1)</script> (closed)" in page.text
    assert "approved: correctness" in page.text


def test_report_before_anything_was_run_says_what_is_missing(clinic: Clinic) -> None:
    text = clinic.report("--on", "production")

    assert "nobody has said anything about this digest yet" in text
    assert "this digest was not run here" in text
    assert "it may not run yet" in text
    assert "⚠️ ladder: " in text
    assert "backout undo production-NUMBER" in text


def test_runs_of_another_digest_do_not_count(clinic: Clinic) -> None:
    clinic.up_the_ladder()
    clinic.write('-- links = ["https://example.com/x"]\n')

    text = clinic.report("--on", "staging", "--on", "production")

    assert text.count("this digest was not run here") == 2
    assert "grace" not in text


def test_unsigned_statements_and_those_that_do_not_count_are_marked(clinic: Clinic) -> None:
    clinic.up_the_ladder()
    (clinic.folder / "allowed_signers").write_text("")

    text = clinic.report("--on", "production")

    assert "does not count" in text
    assert "| grace | approved" not in text


def test_of_phi_no_row_and_no_constant_is_in_any_report(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, more="-- data = 'phi'\n")
    clinic.say("rehearse", "close", "--on", "staging", "--yes", "--reapply")

    for form in ("markdown", "html"):
        text = clinic.report("--format", form, "--on", "staging")
        assert "alert(1)" not in text
        assert "secret-2" not in text
        assert "rows are not shown: the change says that they are PHI" in text
        assert "'open'" not in text


def test_tampered_ledger_is_said(clinic: Clinic) -> None:
    clinic.up_the_ladder()
    with closing(sqlite3.connect(clinic.folder / ".backout" / "ledger.sqlite")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(
            "UPDATE backout_ledger_entry SET body = replace(body, 'grace', 'grape') WHERE body LIKE '%grace%'"
        )
        connection.commit()

    assert "the ledger is not sound: entry" in clinic.report("--on", "production")


def test_subset_run_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    path = clinic.folder / "changes" / "close.sql"
    text = path.read_text().replace("-- @expect 2", "-- @subset referral by=id")
    path.write_text(text.replace('-- @assert "none', '-- @subset referral by=id\n-- @assert "none'))
    clinic.say("run", "close", "--on", "staging", "--subset", "1 row", "--yes")

    said = clinic.report("--on", "staging")

    assert "staging: subset applied" in said
    assert "⚠️ only 1 row by id" in said


def test_report_of_a_postgresql_environment_by_url(tmp_path: Path, postgres18: PostgresDatabase) -> None:
    postgres18.as_application(SCHEMA)
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "close.sql").write_text(CHANGE.format(more=""))
    (tmp_path / "backout.toml").write_text(
        f'[environments.dev]\nurl = "{postgres18.login_url}"\nrole = "{postgres18.application_role}"\n'
    )
    assert backout(tmp_path, "ghost", "close", "--on", "dev", "--undo", "--yes").status == 0
    assert backout(tmp_path, "run", "close", "--on", "dev", "--yes").status == 0
    assert backout(tmp_path, "undo", "dev-2", "--yes").status == 0

    text = backout(tmp_path, "report", "close").out

    assert "✅ dev: run and undone" in text
    assert "taken in the ghost run, and compared: proven" in text
    assert "#### Undo dev-3 (✅ committed)" in text
    assert "| **Rescue** | put back in full |" in text
    assert "complete, exact" in text
    assert "nobody is asked" in text


def test_report_into_a_folder_that_is_not_there_is_an_error(clinic: Clinic) -> None:
    ended = backout(clinic.folder, "report", "close", "--on", "staging", "-o", "nowhere/report.md")
    assert ended.status == 2
    assert "unable to write" in ended.err


def test_report_of_a_url_says_it_in_the_way_back_and_without_its_password(
    tmp_path: Path, postgres18: PostgresDatabase
) -> None:
    postgres18.as_application(SCHEMA)
    path = tmp_path / "close.sql"
    path.write_text(CHANGE.format(more=""))
    assert backout(tmp_path, "run", str(path), "--on", postgres18.login_url, "--yes").status == 0

    text = backout(tmp_path, "report", str(path), "--on", postgres18.login_url).out

    assert PASSWORD not in text
    assert f"$ backout undo {postgres18.name}-1 --on " in text
    assert ":***@" in text
