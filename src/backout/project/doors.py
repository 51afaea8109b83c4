"""The doors to a project's databases: every way to one passes `_opened`, and with it the gates.

Not for: what is done behind them (`reading.py`, `running.py`, `looking.py`, `keeping.py`).
"""

from __future__ import annotations

import atexit
import getpass
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from backout.change.model import Change, DataClass
from backout.engines.protocol import Database
from backout.engines.values import (
    JournalState,
    RunRecord,
    ServerFacts,
    Settings,
)
from backout.errors import BackoutError, Busy, Refused, UsageError
from backout.gates.judge import (
    Stamp,
    require_hosts,
    require_journal,
    require_ordinary_role,
    require_primary,
    require_private,
    require_stamp,
)
from backout.gates.policy import Policy
from backout.project.announcements import Herald
from backout.project.backups import Backups
from backout.project.book import Book
from backout.project.config import Config, Environment
from backout.project.engine import open_database
from backout.project.hosts import hosts_of, places_of
from backout.project.permission import Gatekeeper, Place, Wish
from backout.project.permit import Permit
from backout.project.statements import Statements
from backout.project.subject import Subject, subject_of
from backout.project.tunnel import Tunnel, tunnel_of
from backout.runs.supervise import undisturbed

#: Answers a question: (kind, text). Kinds: "create_journal", "run", "rehearse", "undo", "resume", "restore". False means no.
Ask = Callable[[str, str], bool]
Progress = Callable[[str], None]


def refuse_to_answer(_kind: str, question: str) -> bool:
    """The library's own answer: whoever calls says yes in code."""
    raise UsageError(f"a question needs an answer: {question}", hint="pass `ask=lambda kind, question: True`, or --yes")


def silent(_stage: str) -> None:
    """Show no progress."""


class Intent(Enum):
    """What a database is opened for."""

    LOOK = "look"
    GHOST = "ghost"
    WRITE = "write"

    @property
    def writes(self) -> bool:
        """A ghost run writes too, and rolls back."""
        return self is not Intent.LOOK


class Doors:
    """A configuration, the people's book, and how its databases are opened."""

    def __init__(self, config: Config, *, allow_superuser: bool = False, key: Path | None = None) -> None:
        """`key` is the SSH key that statements are signed with; None: the one that git or the agent has."""
        self.config = config
        self._allow_superuser = allow_superuser
        self._key = key
        self._book = Book(config)
        self._tunnels: dict[str, Tunnel] = {}

    @property
    def statements(self) -> Statements:
        """What people say: submit, approve, object, claim, …"""
        return Statements(self._book, self._key)

    @contextmanager
    def _opened(
        self, on: str, intent: Intent, ask: Ask = refuse_to_answer
    ) -> Iterator[tuple[Database, Environment, ServerFacts]]:
        """The database behind its gates; closed at the end, whatever happens."""
        environment = self.config.environment(on)
        with self._way_to(environment):
            yield from self._behind_gates(environment, intent, ask)

    def _behind_gates(
        self, environment: Environment, intent: Intent, ask: Ask
    ) -> Iterator[tuple[Database, Environment, ServerFacts]]:
        database = self.open(environment)
        try:
            facts = database.facts()
            if intent.writes:
                require_hosts(hosts_reached(environment, facts), self._policy_of(environment), environment.name)
                require_primary(facts, environment.name)
                require_ordinary_role(facts, database.settings)
            self._require_journal(database, environment, facts, intent, ask)
            yield database, environment, facts
        finally:
            # The work has ended: who says stop now comes too late, and must not be told that nothing was changed.
            with suppress(KeyboardInterrupt), undisturbed():
                database.close()

    def open(self, environment: Environment) -> Database:
        """Connect, past no gate: for `doctor` and for settling a run whose answer was lost."""
        settings: Settings = self.config.settings(environment)
        if environment.connect is not None:
            self._tunnel(environment).open()
        return open_database(replace(settings, superuser_allowed=settings.superuser_allowed or self._allow_superuser))

    @contextmanager
    def _way_to(self, environment: Environment) -> Iterator[None]:
        """The environment's connect command, if it has one, for as long as this lasts; started by `open`.

        Where the command has ended by itself meanwhile, an error says so: it is what broke the connection.
        """
        if environment.connect is None or environment.name in self._tunnels:
            yield
            return
        tunnel = self._tunnel(environment)
        try:
            yield
        except BackoutError as error:
            ended = tunnel.obituary
            if ended is not None and ended not in error.message:
                error.message = f"{error.message}; {ended}"
            raise
        finally:
            with suppress(KeyboardInterrupt), undisturbed():
                tunnel.close()
                del self._tunnels[environment.name]

    def _tunnel(self, environment: Environment) -> Tunnel:
        assert environment.connect is not None
        if environment.name not in self._tunnels:
            places = places_of(environment.resolved_url())
            self._tunnels[environment.name] = tunnel_of(environment.connect, places, self.config.folder)
            atexit.register(self._tunnels[environment.name].close)  # for who opens a database past `_opened`
        return self._tunnels[environment.name]

    def _require_journal(
        self, database: Database, environment: Environment, facts: ServerFacts, intent: Intent, ask: Ask
    ) -> None:
        state = database.journal.state()
        require_journal(state)
        if state is JournalState.ABSENT:
            if not intent.writes:
                return
            require_rights(database)
            if not ask(
                "create_journal", f'make the journal (schema "backout") in {facts.database} as "{environment.name}"?'
            ):
                raise Refused(
                    "journal", "there is no journal in this database", hint=f"backout init --on {environment.name}"
                )
            database.journal.create()
            facts = database.facts()  # an engine without an identity of its own has one from now on
        stamp = Stamp(*database.journal.stamp())
        require_stamp(stamp, facts, database.settings)
        if intent.writes:
            database.journal.settle()
        elif facts.is_primary:
            with suppress(Busy):  # who only looks can do without: another session has the lock, and is at work
                database.journal.settle()

    def _run_named(self, run: str, on: str | None) -> tuple[str, int]:
        """`41` with an environment, or `production-41`."""
        name, _, number = run.rpartition("-")
        if not number.isdigit():
            raise UsageError(
                f'"{run}" is not a run', hint="name it by number, like 41 or production-41; see `backout log`"
            )
        if on is None and not name:
            raise UsageError(f'on which environment is run "{run}"?', hint=f"add --on ENV, or write ENV-{number}")
        return on or name, int(number)

    def _policy_of(self, environment: Environment) -> Policy:
        """What this environment asks of people, by whatever URL it is reached: its stamp must be its name."""
        return self.config.policy_for(environment.name)

    @contextmanager
    def _permitted(
        self, database: Database, environment: Environment, facts: ServerFacts, change: Change,
        values: Mapping[str, Any], emergency: str | None, *, is_subset: bool = False,
    ) -> Iterator[Permit]:  # fmt: skip
        """The gates that are about people, and what the ledger keeps of the run; see `project/permission.py`."""
        place = self._place(database, environment, facts)
        with_people = place.policy.asks_anything
        subject = subject_of(change, self.config, values) if with_people else Subject(change.identifier, change.digest)
        with Gatekeeper(self._book, self._key).permitted(
            place, Wish(subject, emergency, is_subset=is_subset)
        ) as permit:
            yield permit

    def _place(self, database: Database, environment: Environment, facts: ServerFacts) -> Place:
        hosts = hosts_reached(environment, facts)
        return Place(database, environment.name, facts, self._policy_of(environment), hosts)

    def _herald(self, environment: Environment, subject: Subject) -> Herald:
        return Herald(self.config, self._policy_of(environment), self.statements, environment.name, subject)

    def _backups(self, environment: Environment, identity: Path | None = None) -> Backups:
        return Backups(self.config, environment, self.config.settings(environment), identity)


def hosts_reached(environment: Environment, facts: ServerFacts) -> tuple[str, ...]:
    """Every host that the URL names, and the one that the driver is connected to."""
    return tuple(dict.fromkeys((*hosts_of(environment.resolved_url()), *((facts.host,) if facts.host else ()))))


def require_private_place(data: str, facts: ServerFacts) -> None:
    """PHI may be kept where nothing would carry it elsewhere."""
    if data == DataClass.PHI.value:
        require_private(facts)


def require_rights(database: Database) -> None:
    """The journal can be made by this role; the error lists the GRANTs that it lacks."""
    missing = database.journal.missing_rights()
    if missing:
        raise Refused(
            "rights", "the journal cannot be made: rights are missing",
            hint="let an administrator run:\n  " + "\n  ".join(missing),
        )  # fmt: skip


def has_journal(database: Database) -> bool:
    """Whether backout has ever been let into this database."""
    return database.journal.state() is JournalState.PRESENT


def found(database: Database, number: int, environment: Environment) -> RunRecord:
    """The run of that number. Raises UsageError where there is none."""
    record = database.journal.run(number) if has_journal(database) else None
    if record is None:
        raise UsageError(
            f'there is no run {number} on "{environment.name}"', hint=f"list them: backout log --on {environment.name}"
        )
    return record


def operator() -> str:
    """The account that runs this, for people to read: variables can name another. Who it was is in a run's authority."""
    return getpass.getuser()
