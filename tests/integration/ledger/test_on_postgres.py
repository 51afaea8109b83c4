"""The same gates on PostgreSQL, with the ledger in a PostgreSQL database, too: clock, shapes, journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from backout.engines.values import RunState
from backout.errors import Refused
from integration.ledger.clinic import CONFIG, Clinic, yes
from servers import PostgresDatabase

TABLE = """
CREATE TABLE public.referral (id bigint PRIMARY KEY, status text);
INSERT INTO public.referral VALUES (1, 'open'), (2, 'open'), (3, 'closed');
"""


@pytest.fixture
def clinic(tmp_path: Path, postgres18: PostgresDatabase) -> Clinic:
    postgres18.execute(TABLE, role="application")
    postgres18.execute(f'GRANT CREATE ON SCHEMA public TO "{postgres18.login_role}"')  # for the ledger
    found = Clinic(tmp_path)
    found.configure(
        CONFIG.replace('name = "clinic"', f'name = "clinic"\nledger = "{postgres18.login_url}"')
        .replace("sqlite:{folder}/production.db", postgres18.login_url)
        .replace("roles = {{", f'role = "{postgres18.application_role}"\naccept_ghost_undo = true\nroles = {{{{')
    )
    return found


def rows(postgres: PostgresDatabase) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = postgres.execute("SELECT id, status FROM referral ORDER BY id")
    return found


def test_a_change_runs_with_its_evidence_and_the_audit_holds(clinic: Clinic, postgres18: PostgresDatabase) -> None:
    clinic.prepare(leave_out="rehearse")
    with pytest.raises(Refused) as caught:
        clinic.run()
    assert (caught.value.gate, caught.value.message) == ("ladder", "it was not rehearsed on staging")
    clinic.project("eve").ghost(clinic.change, "production", undo=True, ask=yes)
    report = clinic.run()
    assert (report.outcome, rows(postgres18)) == (RunState.COMMITTED, [(1, "closed"), (2, "closed"), (3, "closed")])
    audit = clinic.project(None).audit("production")
    assert (audit.problems, audit.unsigned) == ((), 0)
    clinic.project("cem").undo(report.identifier, ask=yes)
    assert rows(postgres18) == [(1, "open"), (2, "open"), (3, "closed")]


def test_a_rehearsal_on_another_product_does_not_certify(clinic: Clinic, postgres18: PostgresDatabase) -> None:
    clinic.prepare()  # staging is SQLite
    with pytest.raises(Refused) as caught:
        clinic.run()
    assert caught.value.message == "rehearsed on SQLite, and production is PostgreSQL"


def test_a_column_that_changed_since_is_named(clinic: Clinic, postgres18: PostgresDatabase) -> None:
    clinic.prepare(leave_out="rehearse")
    clinic.project("eve").ghost(clinic.change, "production", undo=True, ask=yes)
    postgres18.execute("ALTER TABLE public.referral ALTER status TYPE varchar(20)", role="application")
    status = clinic.project("cem").status(clinic.change, "production")
    assert [one.text for one in status.verdicts if not one.satisfied] == [
        "it was not rehearsed on staging; and the ghost --undo here is out of date: the tables of production differ from "
        'what they were: public.referral: column "status" is character varying(20) here, and was text'
    ]
    with pytest.raises(Refused) as caught:
        clinic.run()
    assert caught.value.gate == "ladder"
    assert rows(postgres18)[0] == (1, "open")


def test_a_ledger_whose_end_was_cut_off_shows(clinic: Clinic, postgres18: PostgresDatabase) -> None:
    clinic.prepare(leave_out="rehearse")
    clinic.project("eve").ghost(clinic.change, "production", undo=True, ask=yes)
    clinic.run()
    postgres18.execute("DROP TRIGGER backout_ledger_entry_no_change ON backout_ledger_entry", role="login")
    postgres18.execute("DELETE FROM backout_ledger_entry WHERE position > 3", role="login")
    audit = clinic.project(None).audit("production")
    assert "its end was cut off" in audit.problems[0].text
    with pytest.raises(Refused) as caught:
        clinic.run()
    assert caught.value.gate == "ledger"
