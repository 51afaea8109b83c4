"""A team with databases of its own: what the scripts of the protocols begin with.

People have SSH keys and type the installed program; databases, ledger and listeners are real. Not for: what a protocol
says. Invariant: whatever somebody types is checked against its published schema, and exits with the status that is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from acceptance.forked import Forked
from acceptance.program import Finished, Typed, backout, told
from integration.ledger.keys import allow, make_key
from servers import PostgresDatabase, PostgresServers, present


@dataclass
class Team:
    """The project's folder; `people` are names with their roles, `databases` those of the environments and "ledger"."""

    folder: Path
    people: Mapping[str, str]
    databases: Mapping[str, PostgresDatabase]
    typed: Typed  # how most commands are started, see `forked.py`
    signers: Path = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "changes").mkdir(parents=True)
        self.signers = self.folder / "allowed_signers"
        for name in self.people:
            allow(self.signers, f"{name}@example.org", make_key(self.folder.parent / "keys", name))

    def key(self, person: str) -> Path:
        """Their private key."""
        return self.folder.parent / "keys" / person

    def configure(self, text: str) -> None:
        """Write `backout.toml`: the project, its people, the ledger, then this; `{url of staging}` is filled in."""
        head = f'[project]\nname = "clinic"\nledger = "{self.databases["ledger"].application_url}"\n'
        for name, role in self.people.items():
            head += f'[people.{name}]\nemail = "{name}@example.org"\nroles = ["{role}"]\n'
        for name, database in self.databases.items():
            place = f'url = "{database.login_url}"\nrole = "{database.application_role}"'
            text = text.replace(f"{{{name}}}", place)
        (self.folder / "backout.toml").write_text(head + text)

    def says(self, person: str, schema: str, *words: str, status: int | tuple[int, ...] = 0) -> dict[str, Any]:
        """What the program answers as JSON when this person types it."""
        key = str(self.key(person))
        return told(self.folder, schema, *words, status=status, typed=self.typed, BACKOUT_KEY=key)

    def types(self, person: str, *words: str) -> Finished:
        """What this person sees."""
        return self.typed(self.folder, *words, BACKOUT_KEY=str(self.key(person)))

    def starts(self, person: str, *words: str) -> Finished:
        """The same with the program that is installed, started anew."""
        return backout(self.folder, *words, BACKOUT_KEY=str(self.key(person)))

    def refused(self, person: str, *words: str, status: int = 3) -> str:
        """The words with which the program refuses; no row of any environment is another one."""
        before = {name: self.tables(name) for name in self.databases if name != "ledger"}
        ended = self.types(person, *words)
        assert (ended.status, ended.out) == (status, ""), ended
        assert "\nstate: untouched\n" in ended.err
        assert {name: self.tables(name) for name in before} == before
        return ended.err

    def missing(self, person: str, change: str, environment: str) -> list[str]:
        """The gates that stop a run now."""
        status = self.says(person, "status", "status", change, "--on", environment)
        return [one["gate"] for one in status["gates"] if not one["satisfied"]]

    def rows(self, environment: str, query: str) -> list[tuple[Any, ...]]:
        """Rows as the database has them, past backout."""
        return [tuple(one) for one in self.databases[environment].execute(query)]

    def tables(self, environment: str) -> dict[str, list[tuple[Any, ...]]]:
        """Every table of the application, whole."""
        names = self.rows(environment, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return {name: self.rows(environment, f'SELECT * FROM "{name}" ORDER BY 1') for (name,) in names}


@contextmanager
def team_of(
    folder: Path, people: Mapping[str, str], servers: PostgresServers, environments: Sequence[str]
) -> Iterator[Team]:
    """A team with a PostgreSQL database for each environment, and one for the ledger, until the block ends."""
    if "pg18" not in present():
        pytest.skip("PostgreSQL 18 is not tested in this run")
    databases = {name: servers.create_database("pg18") for name in (*environments, "ledger")}
    typed = Forked()
    try:
        yield Team(folder / "project", people, databases, typed)
    finally:
        typed.close()
        for database in databases.values():
            servers.drop_database("pg18", database)
