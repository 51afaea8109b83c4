"""Protocol B, approval of a production change, step by step: four people of two teams, three environments, one ledger.

Development, test and production are databases of their own. The script says at each step what the pull request has then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.team import Team, team_of
from integration.announcements.listeners import WebListener, web_listener
from servers import PostgresServers

PEOPLE = {"ann": "developer", "bob": "engineering-lead", "cem": "console-services", "dev": "devops"}
SCHEMA = """CREATE TABLE form (id integer PRIMARY KEY, status text NOT NULL, saved date NOT NULL);
CREATE TABLE veteran (id integer PRIMARY KEY, form_id integer NOT NULL REFERENCES form);
"""
SEED = """INSERT INTO form VALUES (1, 'in progress', '2024-03-01'), (2, 'in progress', '2024-05-01'),
  (3, 'in progress', '2026-10-01'), (4, 'sent', '2024-01-01'), (5, 'in progress', '2024-07-01'),
  (6, 'in progress', '2024-09-01');
INSERT INTO veteran VALUES (1, 1);
"""
EXPIRED = [1, 2, 5, 6]
TESTS = """-- the form of this autumn stays in progress
SELECT status = 'in progress' FROM form WHERE id = 3;

-- what was sent stays sent
SELECT status = 'sent' FROM form WHERE id = 4;
"""
RISK = "A form that somebody is still filling in could be closed under their hands."
DOCUMENTS = f"""\
-- risk = "{RISK}"
-- mitigation = "A ghost run on production, then two forms only, then all."
-- links = ["https://logs.internal/vets-api?change=expire-forms"]
"""
TASK = """\
-- /// change
-- title = "Expire the forms that nobody has touched for two years"
-- author = "ann@example.org"
-- request = "https://github.internal/vets-api/pull/4711"
-- requested_by = "bob@example.org"
{documents}-- idempotent = true
-- [test]
-- schema = "tests/schema.sql"
-- seed = "tests/seed.sql"
-- file = "tests/expire-forms.sql"
-- ///

-- @subset form by=id
-- @expect 1..4
UPDATE form SET status = {status} WHERE status = 'in progress' AND saved < DATE '2025-01-01';

-- @subset form by=id
-- @assert "no old form is in progress"
SELECT count(*) = 0 FROM form WHERE status = 'in progress' AND saved < DATE '2025-01-01';
"""
RIGHT = "'expired'"
CONFIG = """
[channels.platform-architecture]
kind = "slack"
url_file = "slack.url"
[environments.dev]
{dev}
[environments.staging]
{staging}
identity = "ssh"
after = ["dev"]
[environments.production]
{production}
profile = "team"
after = ["dev", "staging"]
approvals = ["requesting-team", "platform"]
roles = {requesting-team = "engineering-lead", platform = "console-services"}
documents = ["risk", "mitigation", "backout", "request", "requested_by", "links"]
subset = true
operators = ["devops"]
attest = 1
announce = {to = ["platform-architecture"], before = "1 ms"}
"""


@pytest.fixture
def channel() -> Iterator[WebListener]:
    """The channel of the platform's architects: a web server on this machine that takes what Slack takes."""
    with web_listener((200, {})) as listener:
        yield listener


@pytest.fixture
def team(tmp_path: Path, postgres_servers: PostgresServers, channel: WebListener) -> Iterator[Team]:
    with team_of(tmp_path, PEOPLE, postgres_servers, ("dev", "staging", "production")) as made:
        for name in ("dev", "staging", "production"):
            made.databases[name].as_application(SCHEMA + SEED)
        made.configure(CONFIG)
        (made.folder / "slack.url").write_text(f"{channel.url}/hook\n")
        tests = made.folder / "changes" / "tests"
        tests.mkdir()
        for name, text in (("schema", SCHEMA), ("seed", SEED), ("expire-forms", TESTS)):
            (tests / f"{name}.sql").write_text(text)
        yield made


def write(team: Team, documents: str = DOCUMENTS, status: str = RIGHT) -> None:
    (team.folder / "changes" / "expire-forms.sql").write_text(TASK.format(documents=documents, status=status))


def expired(team: Team, environment: str) -> list[int]:
    return [number for (number,) in team.rows(environment, "SELECT id FROM form WHERE status = 'expired' ORDER BY id")]


def report(team: Team, person: str) -> str:
    """The document that goes into the pull request."""
    made = team.types(person, "report", "expire-forms")
    assert made.status == 0, made.err
    return made.out


def attest(team: Team, person: str, run: dict[str, Any], saw: str) -> None:
    said = team.says(person, "statement", "attest", run["identifier"], "--saw", saw)
    assert said["signed"] is True


def test_approval_process(team: Team, channel: WebListener) -> None:
    in_order = ("approve", "expire-forms", "--on", "production", "--tick", "all")

    # -- 1, 2. Create the task, complete the documents -----------------------------------------------------------------

    # [B2] "All required documents are included in the PR prior to approval": without them nobody can approve.
    write(team, documents="")
    team.says("ann", "statement", "submit", "expire-forms")
    refused = team.refused("bob", *in_order)
    for missing in ("risk", "mitigation", "links"):
        assert missing in refused
    write(team, documents=DOCUMENTS.replace(RISK, "TODO"))
    assert "documents" in team.missing("bob", "expire-forms", "production")

    # -- 3. Test locally -----------------------------------------------------------------------------------------------

    # [B7] "artificially create some in progress forms and test": the change has its own tests, on a database of their own.
    write(team)
    tested = team.says("ann", "check", "check", "expire-forms", "--test")["tests"]
    assert (tested["passed"], tested["problems"]) == (True, [])
    assert [one["title"] for one in tested["checks"]] == [
        "the form of this autumn stays in progress", "what was sent stays sent",
    ]  # fmt: skip
    submitted = team.says("ann", "statement", "submit", "expire-forms")
    digest = submitted["digest"]

    # -- 4. Run in dev -------------------------------------------------------------------------------------------------

    # [B3] "Transactional: If it fails, the transaction is rolled back and no damage is done".
    before = team.tables("dev")
    write(team, status="NULL")
    damaged = team.says("ann", "run", "run", "expire-forms", "--on", "dev", "--yes", status=4)
    assert (damaged["error"]["code"], damaged["error"]["state"]) == ("database_error", "rolled back")
    assert team.tables("dev") == before
    write(team)

    # [B6] "Run rake task in dev. Document results of tests with proof of data output in PR". Staging wants it first.
    assert "it was not rehearsed on dev" in team.refused("dev", "rehearse", "expire-forms", "--on", "staging", "--yes")
    on_dev = team.says("ann", "rehearse", "rehearse", "expire-forms", "--on", "dev", "--yes")
    # [B3] "Idempotent: … run them over and over again and get to the same end state": it was run twice.
    assert (on_dev["idempotent"], on_dev["again"]["net_change"]) == (True, {})
    assert on_dev["compared"] == {"public.form": 6, "public.veteran": 1}
    assert on_dev["run"]["digest"] == digest
    attest(team, "ann", on_dev["run"], "four forms say that they have expired")
    proof = report(team, "ann")
    assert on_dev["run"]["identifier"] in proof
    for part in ("certified a rehearsal", "`in progress` → `expired`", "backout undo production-NUMBER"):
        assert part in proof, part

    # -- 5. Approvals --------------------------------------------------------------------------------------------------

    # [B1] "approved by requesting teams engineering lead AND someone from the Console Services team": not by the author,
    # nor by the same team twice. "approving authority confirms all documents are within the PR": each ticks a checklist.
    assert "ann wrote or edited it" in team.refused("ann", *in_order)
    dev_says = team.refused("dev", *in_order, "--for", "platform")
    assert "dev is not console-services" in dev_says
    bob_says = team.refused("bob", *in_order, "--for", "platform")
    assert "bob is not console-services" in bob_says
    for person, kind in (("bob", "requesting-team"), ("cem", "platform")):
        approved = team.says(person, "statement", *in_order, "--for", kind)
        assert (approved["digest"], bool(approved["details"]["checklist"])) == (digest, True)

    # -- 6. Staging ----------------------------------------------------------------------------------------------------

    assert "it was not rehearsed on staging" in team.refused(
        "dev", "run", "expire-forms", "--on", "production", "--yes"
    )
    on_staging = team.says("dev", "rehearse", "rehearse", "expire-forms", "--on", "staging", "--yes")
    assert (on_staging["run"]["digest"], on_staging["idempotent"]) == (digest, True)
    attest(team, "cem", on_staging["run"], "the console lists them as expired")
    assert on_staging["run"]["identifier"] in report(team, "dev")  # [B6] "proof of data output in PR"

    # -- 7. Schedule and announce --------------------------------------------------------------------------------------

    # [B6] "announce prod database rake task in platform architecture slack channel".
    assert "it was not announced" in team.refused("dev", "run", "expire-forms", "--on", "production", "--yes")
    announced = team.says("dev", "announce", "announce", "expire-forms", "--on", "production")
    assert announced["told"] == ["platform-architecture"]
    assert "Expire the forms" in channel.got[0][1]["text"]

    # -- 8. Run it -----------------------------------------------------------------------------------------------------

    # [B1] "Devops engineer … runs rake task in production with assistance from creator": the creator may not.
    some_forms = ("run", "expire-forms", "--on", "production", "--subset", "2 rows", "--yes")
    assert "ann may not run anything on production" in team.refused("ann", *some_forms)
    # [B4] "ghost run the task so that any changes aren't applied but can be validated".
    whole = team.tables("production")
    ghost = team.says("dev", "run", "ghost", "expire-forms", "--on", "production", "--yes")
    assert [(one["updated"], one["captured_by"] != "") for one in ghost["tables"]] == [(4, True)]
    assert [one["passed"] for one in ghost["assertions"]] == [True]
    assert team.tables("production") == whole
    # [B5] "running a smaller subset of the larger task and validating results": the whole is refused until then.
    refused = team.refused("dev", "run", "expire-forms", "--on", "production", "--yes")
    assert "subset" in refused
    some = team.says("dev", "run", *some_forms)
    assert (some["outcome"], some["subset"] is not None) == ("committed", True)
    assert expired(team, "production") == EXPIRED[:2]
    attest(team, "dev", some, "two forms say that they have expired")
    run = team.says("dev", "run", "run", "expire-forms", "--on", "production", "--yes")
    assert (run["outcome"], run["digest"], run["subset"]) == ("committed", digest, None)
    assert (run["authority"]["person"], run["authority"]["signed"]) == ("dev", True)
    assert expired(team, "production") == EXPIRED
    # [B3] once more, and nothing is another one.
    again = team.says("dev", "run", "ghost", "expire-forms", "--on", "production", "--yes", status=4)
    assert again["error"]["code"] == "expectation_failed"  # it expects at least one row of a first run

    # -- 9, 10. Validate, report, announce -----------------------------------------------------------------------------

    # [B6] "Perform validations, report results in the PR. Announce … the completion": what ran, on how many rows, before
    # and after, who looked, the way back, and where the audit trail is [B2].
    attest(team, "cem", run, "the console shows no old form in progress")
    final = team.starts("cem", "report", "expire-forms").out
    head = team.says("cem", "audit", "audit", "--on", "production")
    assert (head["sound"], head["problems"]) == (True, [])
    for part in (
        digest,
        run["identifier"],
        f"backout undo {run['identifier']}",
        "validated by cem",
        head["head"]["hash"],
    ):
        assert part in final, part
    completed = [body["text"] for _, body in channel.got[1:]]
    assert len(completed) == 2
    assert "some of it is done" in completed[0]
    assert f"Run {run['identifier']} of" in completed[1]
    assert "public.form: 0 inserted, 2 updated, 0 deleted" in completed[1]

    # [B2] "What is your backout plan?": it is a command, and it does what it says.
    undone = team.says("dev", "run", "undo", run["identifier"], "--yes")
    assert (undone["outcome"], undone["conflicts"]) == ("committed", [])
    assert expired(team, "production") == EXPIRED[:2]
