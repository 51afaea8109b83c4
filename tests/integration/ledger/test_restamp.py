"""Who says which environment a database is, or puts a backup in its place: only an operator, and the ledger has who did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from acceptance.program import backout
from backout.errors import Refused, UsageError
from integration.ledger.clinic import CONFIG, Clinic, yes

HARMLESS = CONFIG + '[environments.harmless]\nurl = "sqlite:{folder}/clone.db"\n'


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    """With a production database that is stamped, and a clone of it."""
    clinic = Clinic(tmp_path)
    clinic.prepare()
    clinic.run()
    shutil.copy(tmp_path / "production.db", tmp_path / "clone.db")
    clinic.configure(HARMLESS)
    return clinic


def stamp(clinic: Clinic, database: str) -> str:
    return str(clinic.sql(database, "SELECT value FROM backout_meta WHERE name = 'environment'")[0][0])


def last_entry(clinic: Clinic) -> dict[str, Any]:
    (body,) = clinic.sql("ledger", "SELECT body FROM backout_ledger_entry ORDER BY position DESC LIMIT 1")[0]
    content = json.loads(body)
    statement: dict[str, Any] = json.loads(content["statement"])
    return statement | {"signed": content["signature"] is not None}


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ("eve", 'a stamp from "production" to "harmless": eve may not run anything on production'),
        ("ann", 'a stamp from "production" to "harmless": ann may not run anything on production'),
    ],
)
def test_nobody_but_an_operator_of_production_says_that_it_is_something_else(
    clinic: Clinic, person: str, words: str
) -> None:
    before = len(clinic.sql("ledger", "SELECT position FROM backout_ledger_entry"))
    for dry_run in (True, False):
        with pytest.raises(Refused) as caught:
            clinic.project(person).init_journal("harmless", restamp=True, dry_run=dry_run)
        assert (caught.value.message, caught.value.hint) == (words, "let one of these do it: cem")
    assert stamp(clinic, "clone") == "production"
    assert len(clinic.sql("ledger", "SELECT position FROM backout_ledger_entry")) == before


def test_nobody_but_an_operator_makes_another_database_production(clinic: Clinic) -> None:
    clinic.project("cem").init_journal("harmless", restamp=True)
    clinic.configure(HARMLESS.replace("production.db", "clone.db"))
    with pytest.raises(Refused, match='a stamp from "harmless" to "production": eve may not run anything'):
        clinic.project("eve").init_journal("production", restamp=True)
    assert stamp(clinic, "clone") == "harmless"


def test_an_operator_does_it_in_their_own_name_and_the_ledger_has_it(clinic: Clinic) -> None:
    identity = clinic.sql("clone", "SELECT value FROM backout_meta WHERE name = 'identity'")[0][0]
    done = backout(
        clinic.folder, "init", "--on", "harmless", "--restamp", "--yes", "--key", "keys/cem"
    )  # fmt: skip
    assert (done.status, done.out) == (0, 'stamped "harmless"\n'), done.err
    assert stamp(clinic, "clone") == "harmless"
    entry = last_entry(clinic)
    assert (entry["kind"], entry["environment"], entry["person"], entry["signed"]) == (
        "restamp", "harmless", "cem@example.org", True,
    )  # fmt: skip
    assert entry["details"] == {"from": "production", "identity": identity}
    assert clinic.project(None).audit().is_sound


def test_the_command_line_says_the_way_out(clinic: Clinic) -> None:
    refused = backout(clinic.folder, "init", "--on", "harmless", "--restamp", "--yes", "--key", "keys/eve")
    assert (refused.status, refused.err) == (
        3,
        'error: a stamp from "production" to "harmless": eve may not run anything on production\n'
        "state: untouched\nhint: let one of these do it: cem\n",
    )


def test_a_copy_that_stays_production_is_for_its_operators_too(clinic: Clinic) -> None:
    with pytest.raises(Refused):
        clinic.project("eve").init_journal("production", restamp=True)
    clinic.project("cem").init_journal("production", restamp=True)


def test_without_the_key_of_anybody_nothing_is_stamped(clinic: Clinic) -> None:
    clinic.signers.unlink()
    with pytest.raises(UsageError, match="nobody can sign"):
        clinic.project("cem").init_journal("harmless", restamp=True)
    assert stamp(clinic, "clone") == "production"


def test_a_configuration_that_knows_no_production_is_no_way_round(clinic: Clinic) -> None:
    """Where nothing is said of it, an environment of that name is strict."""
    text = '[environments.harmless]\nurl = "sqlite:{folder}/clone.db"\n'
    clinic.configure(text)
    clinic.signers.write_text("")
    with pytest.raises(UsageError, match="nobody can sign"):
        clinic.project("eve").init_journal("harmless", restamp=True)
    assert stamp(clinic, "clone") == "production"


def test_a_ledger_that_was_altered_lets_nobody(clinic: Clinic) -> None:
    clinic.unguard()
    clinic.sql("ledger", "UPDATE backout_ledger_entry SET body = replace(body, 'ann', 'eve') WHERE position = 1")
    with pytest.raises(Refused, match="the ledger is not as it was written"):
        clinic.project("cem").init_journal("harmless", restamp=True)
    assert stamp(clinic, "clone") == "production"


def test_where_nobody_is_asked_nobody_has_to_sign(clinic: Clinic) -> None:
    clinic.project("cem").init_journal("harmless", restamp=True)
    shutil.copy(clinic.folder / "clone.db", clinic.folder / "other.db")
    clinic.configure(HARMLESS + '[environments.other]\nurl = "sqlite:{folder}/other.db"\n')
    before = last_entry(clinic)
    clinic.project(None).init_journal("other", restamp=True)
    assert (stamp(clinic, "other"), last_entry(clinic)) == ("other", before)


def test_only_an_operator_puts_a_backup_in_the_place_of_production(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path / "other")
    clinic.configure(CONFIG + 'backup = {{provider = "sqlite", restore_into = "allow"}}\n')
    backup = clinic.project("cem").backup("production")
    clinic.sql("production", "UPDATE referral SET status = 'lost'")
    before = clinic.rows()

    def restore(person: str) -> None:
        clinic.project(person).restore(backup.identifier, "production", replace_all=True, ask=yes)

    with pytest.raises(Refused) as caught:
        restore("ann")
    assert (caught.value.gate, caught.value.message) == (
        "operator", 'a restore into "production": ann may not run anything on production',
    )  # fmt: skip
    assert clinic.rows() == before
    clinic.project("bob").approve_restore(backup.identifier, "production")
    restore("cem")
    assert clinic.rows() == [(1, "open"), (2, "open"), (3, "closed")]
    said = last_entry(clinic)
    assert (said["kind"], said["person"], said["details"], said["signed"]) == (
        "restore", "cem@example.org", {"backup": backup.identifier}, True,
    )  # fmt: skip
