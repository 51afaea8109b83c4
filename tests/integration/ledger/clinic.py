"""A small clinic with two databases, a policy, and people with real keys: what tests of four eyes begin with."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backout.change.model import Change
from backout.errors import BackoutError
from backout.gates.checklist import checklist
from backout.ledger.entry import entry_hash
from backout.project import Project
from backout.project.config_file import read_config
from backout.runs.report import RunReport
from integration.ledger.keys import allow, make_key

PEOPLE = {
    "ann": "developer",
    "bob": "team-lead",
    "cem": "platform",
    "dan": "product-owner",
    "eve": "developer",
}
CONFIG = """
[project]
name = "clinic"

{people}
[environments.staging]
url = "sqlite:{folder}/staging.db"

[environments.production]
url = "sqlite:{folder}/production.db"
roles = {{correctness = "team-lead", safety = "platform"}}
operators = ["cem"]
emergency = ["eve"]
overrule = ["team-lead"]
announce = {{before = "1 milliseconds"}}
"""
CHANGE = """\
-- /// change
-- title = "Close the referrals that the outage left open"
-- author = "ann@example.org"
-- request = "https://tracker.internal/4711"
-- requested_by = "dan@example.org"
-- risk = "A referral that was reopened by hand could be closed again."
-- mitigation = "A ghost run on staging, then the assertion below."
-- ///
-- @expect 2
UPDATE referral SET status = 'closed' WHERE status = 'open';
-- @assert "nothing is open"
SELECT count(*) = 0 FROM referral WHERE status = 'open';
"""


@dataclass
class Clinic:
    """The folder of the project, and how its people act."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for name in PEOPLE:
            allow(self.signers, f"{name}@example.org", make_key(self.folder / "keys", name))
        self.configure(CONFIG)
        (self.folder / "changes").mkdir()
        self.write(CHANGE)
        for name in ("staging", "production"):
            with sqlite3.connect(self.folder / f"{name}.db") as database:
                database.executescript(
                    "CREATE TABLE referral (id INTEGER PRIMARY KEY, status TEXT);"
                    "INSERT INTO referral VALUES (1, 'open'), (2, 'open'), (3, 'closed');"
                )
            database.close()

    @property
    def signers(self) -> Path:
        return self.folder / "allowed_signers"

    @property
    def ledger(self) -> Path:
        return self.folder / ".backout" / "ledger.sqlite"

    @property
    def path(self) -> Path:
        return self.folder / "changes" / "close.sql"

    def configure(self, text: str) -> None:
        people = "".join(
            f'[people.{name}]\nemail = "{name}@example.org"\nroles = ["{role}"]\n' for name, role in PEOPLE.items()
        )
        (self.folder / "backout.toml").write_text(text.format(people=people, folder=self.folder))

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def key(self, name: str) -> Path:
        return self.folder / "keys" / name

    def project(self, person: str | None) -> Project:
        config = read_config(self.folder / "backout.toml")
        return Project(config, key=self.key(person) if person else None)

    @property
    def change(self) -> Change:
        return self.project(None).change(str(self.path))

    def approve(self, person: str, kind: str) -> None:
        self.project(person).approve(self.change, "production", kind, ticked=checklist(kind))

    def prepare(self, *, leave_out: str = "") -> None:
        """Everything that the policy asks for, but one thing."""
        steps: dict[str, Any] = {
            "submit": lambda: self.project("ann").statements.submit(self.change),
            "rehearse": lambda: self.project("eve").rehearse(self.change, "staging", ask=yes),
            "correctness": lambda: self.approve("bob", "correctness"),
            "safety": lambda: self.approve("cem", "safety"),
            "announce": lambda: self.project("cem").announced(self.change, "production", ["everybody"]),
        }
        for name, step in steps.items():
            if name != leave_out:
                step()

    def run(self, person: str | None = "cem", **more: Any) -> RunReport:
        return self.project(person).run(self.change, "production", ask=yes, **more)

    def refusal(self, person: str | None = "cem", **more: Any) -> str:
        """The words with which a run is refused; the rows are as they were."""
        before = self.rows()
        try:
            self.run(person, **more)
        except BackoutError as error:
            assert error.state == "untouched", error
            assert self.rows() == before
            return error.message
        raise AssertionError("it ran")

    def rows(self, environment: str = "production") -> list[tuple[int, str]]:
        return self.sql(environment, "SELECT id, status FROM referral ORDER BY id")

    def sql(self, environment: str, statement: str, *parameters: Any) -> list[Any]:
        file = self.ledger if environment == "ledger" else self.folder / f"{environment}.db"
        connection = sqlite3.connect(file)
        try:
            with connection:
                return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    def rechain(self) -> None:
        """What a forger with all rights on the ledger does afterwards: every hash is made to fit again."""
        previous = "0" * 64
        entries = self.sql("ledger", "SELECT position, body FROM backout_ledger_entry ORDER BY position")
        self.unguard()
        self.sql("ledger", "DELETE FROM backout_ledger_entry")
        for position, (_, body) in enumerate(entries, start=1):
            new = entry_hash(position, previous, body)
            self.sql("ledger", "INSERT INTO backout_ledger_entry VALUES (?, ?, ?, ?)", position, previous, new, body)
            previous = new

    def unguard(self) -> None:
        for suffix in ("update", "delete"):
            self.sql("ledger", f"DROP TRIGGER IF EXISTS backout_ledger_entry_no_{suffix}")


def yes(_kind: str, _question: str) -> bool:
    return True
