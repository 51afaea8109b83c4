"""Two people at one database: what the tests of paired sessions begin with.

Not for: what they type and say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acceptance.prompt import Going
from acceptance.team import Team, team_of
from servers import PostgresServers

PEOPLE = {"ann": "developer", "bob": "developer"}
SCHEMA = """
CREATE TABLE applicant (id integer PRIMARY KEY, email text NOT NULL);
INSERT INTO applicant VALUES (6, 'six@example.org'), (7, 'old@example.org');
"""
CHANGE = """\
-- /// change
-- title = "Correct the address of one applicant"
-- session = true
-- ///
"""
LADDER = """
[environments.dev]
{dev}
identity = "ssh"
[environments.production]
{production}
profile = "solo"
identity = "ssh"
after = ["dev"]
"""
CONFIG = '[environments.production]\n{production}\nprofile = "solo"\nidentity = "ssh"\n'
CORRECTION = "UPDATE applicant SET email = 'new@example.org' WHERE id = 7;\n"
RUN = "production-1"
OURS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'backout: %'"
BEFORE, AFTER = [(6, "six@example.org"), (7, "old@example.org")], [(6, "six@example.org"), (7, "new@example.org")]


@contextmanager
def pair_of(tmp_path: Path, postgres_servers: PostgresServers) -> Iterator[Team]:
    """Ann and Bob, with one change that is a session."""
    with team_of(tmp_path, PEOPLE, postgres_servers, ["dev", "production"]) as made:
        for name in ("dev", "production"):
            made.databases[name].as_application(SCHEMA)
        (made.folder / "changes" / "correct-address.sql").write_text(CHANGE)
        made.configure(CONFIG)
        yield made


def configure(team: Team, more: str) -> None:
    team.configure(CONFIG + more)


def session(team: Team, *more: str, on: str = "production", loud: str = "stderr") -> Going:
    """Ann begins one."""
    words = ("session", "correct-address", "--on", on, "--yes", "--json", *more)
    return Going(team.folder, *words, key=team.key("ann"), loud=loud)


def watch(team: Team) -> Going:
    """Bob watches it."""
    return Going(team.folder, "watch", RUN, key=team.key("bob"), loud="stdout")


def applicants(team: Team) -> list[tuple[object, ...]]:
    return team.rows("production", "SELECT id, email FROM applicant ORDER BY id")
