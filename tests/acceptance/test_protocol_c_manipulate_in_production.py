"""Protocol C, manipulating data in production: the exception, for private data that may not be in the repository.

A product owner asks, a pair does it, in development, test and production in turn: once with a text that the second
developer has read and approved beforehand, and once at one prompt, where the second one watches and agrees at the end.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import proxy
from acceptance.prompt import Going
from acceptance.team import Team, team_of
from integration.announcements.listeners import WebListener, web_listener
from servers import PostgresServers

PEOPLE = {"pat": "product-owner", "ann": "developer", "bob": "developer", "zoe": "developer"}
ENVIRONMENTS = ("dev", "test", "production")
SCHEMA = """
CREATE TABLE applicant (id integer PRIMARY KEY, email text NOT NULL CHECK (email LIKE '%@%'), phone text);
CREATE TABLE application (id integer PRIMARY KEY, applicant_id integer NOT NULL REFERENCES applicant);
INSERT INTO applicant VALUES (6, 'six@example.org', NULL), (7, 'old@example.org', '250 555 0100');
INSERT INTO application VALUES (70, 7);
"""
PRIVATE = ("n.crowfoot@band.example", "250 555 0199")
CHANGE = f"""\
-- /// change
-- title = "Correct the address of one applicant"
-- request = "mail of 2026-11-19, correction of an address"
-- requested_by = "pat@example.org"
-- date = 2026-11-19
-- risk = "The notice of award goes to somebody else's address."
-- mitigation = "One row, looked at by two people in three environments."
-- ///
-- @expect 1
UPDATE applicant SET email = '{PRIVATE[0]}', phone = '{PRIVATE[1]}' WHERE id = 7;

-- @assert "the applicant has the address that was asked for"
SELECT count(*) = 1 FROM applicant WHERE id = 7 AND email = '{PRIVATE[0]}';
"""
UNDATED = CHANGE.replace("-- date = 2026-11-19\n", "")
BROKEN = CHANGE.replace(f"email = '{PRIVATE[0]}',", "email = 'no address',")
OLD, NEW = (7, "old@example.org", "250 555 0100"), (7, *PRIVATE)
CONFIG = """
[channels.product-owner]
kind = "webhook"
url_file = "owner.url"
[environments.dev]
{dev}
identity = "ssh"
[environments.test]
{test}
identity = "ssh"
[environments.production]
{production}
profile = "team"
after = ["dev", "test"]
approvals = ["pair"]
consent = true
documents = ["request", "requested_by", "date", "risk"]
operators = ["developer"]
hosts = ["HOST"]
backup = {provider = "pg_dump", recipients = ["RECIPIENT"], folder = "backups"}
announce = {to = ["product-owner"], before = "1 ms"}
"""


@pytest.fixture
def owner() -> Iterator[WebListener]:
    """Where the product owner is told things."""
    with web_listener((200, {})) as listener:
        yield listener


@pytest.fixture
def team(tmp_path: Path, postgres_servers: PostgresServers, owner: WebListener) -> Iterator[Team]:
    with team_of(tmp_path, PEOPLE, postgres_servers, ENVIRONMENTS) as made:
        for name in ENVIRONMENTS:
            made.databases[name].as_application(SCHEMA)
        (made.folder / "owner.url").write_text(f"{owner.url}/hook\n")
        configure(made)
        yield made


def configure(team: Team, *, production: str = "{production}", host: str = "127.0.0.1") -> None:
    recipient = " ".join(Path(f"{team.key('bob')}.pub").read_text().split()[:2])
    text = CONFIG.replace("HOST", host).replace("RECIPIENT", recipient)
    team.configure(text.replace("[environments.production]\n{production}", f"[environments.production]\n{production}"))


def forwarded(team: Team) -> int:
    """Production is reached by a port-forward from now on, a real one; the port that it opens."""
    database = team.databases["production"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    parts = urlsplit(database.login_url)
    url = f"postgresql://{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}{parts.path}"
    command = json.dumps([sys.executable, str(Path(proxy.__file__)), str(port), str(parts.port)])
    connect = f'{{command = {command}, ready = "Forwarding from"}}'
    configure(team, production=f'url = "{url}"\nrole = "{database.application_role}"\nconnect = {connect}')
    return port


def applicant(team: Team, environment: str) -> tuple[object, ...]:
    (found,) = team.rows(environment, "SELECT id, email, phone FROM applicant WHERE id = 7")
    return found


def hand_in(team: Team, text: str) -> str:
    """Ann writes it where nobody looks, hands it in, and removes it; its digest."""
    file = team.folder.parent / "correct-address.sql"
    file.write_text(text)
    said = team.says("ann", "statement", "submit", "--private", str(file))
    file.unlink()
    return str(said["digest"])


def test_process_to_manipulate_data(team: Team, owner: WebListener) -> None:
    in_production = ("run", "correct-address", "--on", "production", "--yes")
    start = {name: team.tables(name) for name in ENVIRONMENTS}

    # -- Important steps before you begin ------------------------------------------------------------------------------

    # [C2] "Get an email request from Product Owner, including a date request for the changes".
    hand_in(team, UNDATED)
    agree = ("approve", "correct-address", "--on", "production", "--tick", "all")
    assert '"date" is missing' in team.refused("bob", *agree)
    # [C1] "This repository is open-source, therefore we should not commit any private information."
    digest = hand_in(team, CHANGE)
    assert list((team.folder / "changes").iterdir()) == []
    # [C4] "find an other developer who is available to pair": bob reads the very text, and he alone of the two can agree.
    assert team.starts("bob", "show", "correct-address").out == CHANGE
    assert "ann wrote or edited it" in team.refused("ann", *agree)
    # [C3] "ensuring that the work will not be done by multiple devs concurrently": a second one is told, and by whom.
    team.says("ann", "statement", "claim", "correct-address", "--on", "production")
    assert "ann is on it since" in team.refused("zoe", "claim", "correct-address", "--on", "production")
    claimed = team.says("zoe", "status", "status", "correct-address", "--on", "production")
    (claim,) = [one for one in claimed["gates"] if one["gate"] == "claim"]
    assert (claim["satisfied"], claim["who"]) == (False, "ann")

    # -- Don't start in prod -------------------------------------------------------------------------------------------

    assert "it was not rehearsed on dev" in team.refused("ann", *in_production)
    # [C7] "If there was an error roll back the transaction".
    file = team.folder.parent / "broken.sql"
    file.write_text(BROKEN)
    failed = team.says("ann", "run", "run", str(file), "--on", "dev", "--yes", status=4)
    assert (failed["error"]["code"], failed["error"]["state"]) == ("database_error", "rolled back")
    file.unlink()
    # [C7] "select the data and verify the data" before anything is committed: rows before and after, in a ghost run.
    ghost = team.says("ann", "run", "ghost", "correct-address", "--on", "dev", "--yes")
    (seen,) = ghost["tables"]
    assert [(one["before"]["email"], one["after"]["email"]) for one in seen["sample"]] == [(OLD[1], NEW[1])]
    assert (ghost["outcome"], [one["passed"] for one in ghost["assertions"]]) == ("rolled back", [True])
    assert team.tables("dev") == start["dev"]

    # [C6] "Don't commit changes as superuser, change to the database user: set role ccbc", "always … in a transaction".
    # [C8] "Do not rewrite the statement by hand, copy the successful statement and repeat the above steps in test".
    rehearsals = {}
    for environment, more in (("dev", ()), ("test", ("--reapply",))):
        rehearsal = team.says("ann", "rehearse", "rehearse", "correct-address", "--on", environment, "--yes", *more)
        assert rehearsal["run"]["digest"] == digest
        assert rehearsal["run"]["database"]["role"] == team.databases[environment].application_role
        assert rehearsal["compared"] == {"public.applicant": 2, "public.application": 1}
        rehearsals[environment] = rehearsal
    assert team.tables("dev") == start["dev"]  # [C10] dev is put back by the rehearsal itself
    assert applicant(team, "test") == NEW

    # -- The product owner ---------------------------------------------------------------------------------------------

    # [C9] "Message the product owner to verify the changes in test and give approval to update in prod": nobody else's
    # yes counts, and it has its date.
    applied = rehearsals["test"]["reapplied"]["identifier"]
    team.says("pat", "statement", "attest", applied, "--saw", "the form shows the address that I asked for")
    team.says("ann", "statement", "consent", "correct-address", "--on", "production")
    team.says("bob", "statement", *agree)
    assert team.missing("ann", "correct-address", "production") == ["consent", "announcement"]
    asked = datetime.now(UTC)
    consent = team.says("pat", "statement", "consent", "correct-address", "--on", "production")
    assert (consent["person"], consent["digest"], consent["signed"]) == ("pat", digest, True)
    assert asked <= datetime.fromisoformat(consent["at"]) <= datetime.now(UTC)
    team.says("ann", "announce", "announce", "correct-address", "--on", "production")

    # -- Selecting the leader pod --------------------------------------------------------------------------------------

    # [C5] "an additional guardrail to prevent accidentally running commands in the wrong namespace": not where the test
    # database is called production, not at another host, and [C6] not as a superuser.
    wrong = team.databases["test"]
    configure(team, production=f'url = "{wrong.login_url}"\nrole = "{wrong.application_role}"')
    assert 'this database says that it is "test", not "production"' in team.refused("ann", *in_production)
    configure(team, host="leader.ccbc.internal")
    assert 'the URL has host "127.0.0.1"' in team.refused("ann", *in_production)
    configure(team, production=f'url = "{team.databases["production"].superuser_url}"')
    assert "superuser" in team.refused("ann", *in_production)
    assert team.tables("production") == start["production"]
    # "Selecting the leader pod": the way there is a command of the configuration, opened for the run and closed after it.
    port = forwarded(team)

    # -- Make changes to prod ------------------------------------------------------------------------------------------

    # [C3] once more, at the door itself.
    busy = team.refused("zoe", *in_production, status=7)
    assert "ann is on it since" in busy
    run = team.says("ann", "run", *in_production)
    assert (run["outcome"], run["digest"]) == ("committed", digest)  # [C8]
    assert run["database"]["role"] == team.databases["production"].application_role  # [C6]
    assert run["backup"]["taken_at"] <= run["started_at"]  # "Back up database before manipulating data"
    assert run["proof"]["complete"] is True
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", port)) != 0, "nobody else can go that way"
    configure(team)
    assert (applicant(team, "production"), applicant(team, "dev")) == (NEW, OLD)
    # [C9] "and notify the product owner".
    assert [body["event"] for _, body in owner.got] == ["announce", "done"]
    assert owner.got[1][1]["run"] == run["identifier"]

    # [C10] "change any data in the test environment back to previous values".
    undone = team.says("bob", "run", "undo", applied, "--yes")
    assert (undone["outcome"], undone["conflicts"]) == ("committed", [])
    assert (team.tables("test"), team.tables("dev")) == (start["test"], start["dev"])

    # -- Nothing of it is where it should not be -----------------------------------------------------------------------

    # [C1] neither in the folder, nor in the ledger, nor in what the product owner was sent, nor in the public record.
    record = team.types("bob", "export", "correct-address")
    assert (record.status, digest in record.out) == (0, True)
    texts = [record.out, str(owner.got), str(team.tables("ledger"))]
    texts += [one.read_bytes().decode(errors="replace") for one in team.folder.parent.rglob("*") if one.is_file()]
    for name in ENVIRONMENTS:
        tables = team.rows(name, "SELECT tablename FROM pg_tables WHERE schemaname = 'backout'")
        texts += [str(team.rows(name, f"SELECT * FROM backout.{table}")) for (table,) in tables]
    assert [secret for secret in PRIVATE if any(secret in text for text in texts)] == []
    audited = team.says("zoe", "audit", "audit", "--on", "production")
    assert (audited["sound"], audited["problems"]) == (True, [])


AT_THE_PROMPT = CHANGE[: CHANGE.index("-- @expect")].replace("/// change\n", "/// change\n-- session = true\n")
TYPED = f"UPDATE applicant SET email = '{PRIVATE[0]}', phone = '{PRIVATE[1]}' WHERE id = 7;\n"


def pair(team: Team, environment: str) -> dict[str, Any]:
    """Ann types, bob watches every statement and sees the rows; the report, once both have agreed."""
    words = ("session", "correct-address", "--on", environment, "--yes", "--json")
    run = f"{environment}-1"
    with Going(team.folder, *words, key=team.key("ann")) as ann:
        ann.until(f"{environment} {team.databases[environment].application_role}")  # [C6] who one is there
        with Going(team.folder, "watch", run, key=team.key("bob"), loud="stdout") as bob:
            ann.type(TYPED)
            ann.until("UPDATE 1")
            bob.until("UPDATE applicant")
            ann.type("\\q\n")
            bob.until(f"{run} waits for ann and somebody other than ann")
            team.says("ann", "statement", "agree", run, "--yes")
            assert applicant(team, environment) == OLD  # [C7] "commit the transaction" only once it is verified
            team.says("bob", "statement", "agree", run, "--yes")
            report = ann.reports(0)
            bob.ends(0)
    return report


def test_a_pair_does_it_at_one_prompt(team: Team, owner: WebListener) -> None:
    """The same as the protocol has it: two developers at one terminal, in one environment after the other."""
    digest = hand_in(team, AT_THE_PROMPT)
    team.says("bob", "statement", "approve", "correct-address", "--on", "production", "--tick", "all")
    team.says("pat", "statement", "consent", "correct-address", "--on", "production")
    team.says("ann", "announce", "announce", "correct-address", "--on", "production")
    begin = ("session", "correct-address", "--on", "production", "--yes")
    assert "it was not rehearsed on dev" in team.refused("ann", *begin)

    # [C4] "find an other developer who is available to pair", [C7] "verify the data", dev and then [C8] test.
    for environment in ("dev", "test"):
        report = pair(team, environment)
        assert (report["outcome"], report["agreement"]["people"]) == ("committed", ["ann", "bob"])
        assert applicant(team, environment) == NEW

    # [C5] what keeps one from the wrong database. (The way to the leader pod is in the script above: on one machine a
    # command of the configuration is one process's, and bob is at this one, too.)
    wrong = team.databases["test"]
    configure(team, production=f'url = "{wrong.login_url}"\nrole = "{wrong.application_role}"')
    assert 'this database says that it is "test", not "production"' in team.refused("ann", *begin)
    configure(team)
    report = pair(team, "production")
    assert (report["outcome"], report["digest"], report["proof"]["complete"]) == ("committed", digest, True)
    assert applicant(team, "production") == NEW
    assert [body["event"] for _, body in owner.got] == ["announce", "done"]

    # [C10] "change any data in the test environment back to previous values".
    for environment in ("dev", "test"):
        team.says("bob", "run", "undo", f"{environment}-1", "--yes")
        assert applicant(team, environment) == OLD
    assert [secret for secret in PRIVATE if secret in str(team.tables("ledger")) + str(owner.got)] == []
