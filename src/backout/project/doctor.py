"""`backout doctor`: what is wrong or weak in the configuration, and in a database that it names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backout.engines.values import JournalState
from backout.errors import BackoutError
from backout.gates.judge import Stamp, require_ordinary_role, require_primary, require_stamp
from backout.project.advice import Advice
from backout.project.doctor_keeping import advise_on_keeping
from backout.project.doctor_people import advise_on_people
from backout.project.engine import usual_dialect
from backout.sql.model import Dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backout.engines.protocol import Database
    from backout.project.config import Config, Environment


def advise(
    config: Config, environment: Environment | None, connect: Callable[[Environment], Database]
) -> tuple[Advice, ...]:
    """Look at the configuration and, with an environment, at its database. Writes nothing."""
    found = list(_of_config(config))
    if environment is not None:
        found += _of_database(environment, connect)
    return tuple(found)


def _of_config(config: Config) -> Iterator[Advice]:
    if config.path is None:
        yield Advice("weak", "there is no backout.toml here or above", "make one: backout init")
        return
    yield Advice("fine", f"the configuration is {config.path}")
    if not config.environments:
        yield Advice("weak", "no environment is configured", "write [environments.dev] with its url")
    for environment in config.environments.values():
        if environment.superuser_allowed:
            text = f'"{environment.name}" lets changes run as a superuser'
            yield Advice("weak", text, 'create a role for backout, and take out superuser = "allow"')
        if environment.role is None and usual_dialect([environment]) is Dialect.POSTGRES:
            text = f'"{environment.name}" has no `role`: changes run as the role that owns journal and rescue'
            yield Advice("weak", text, "name the application's role, so that a change cannot write either")
    yield from advise_on_people(config)
    yield from advise_on_keeping(config, os.environ)
    if not config.append_only and not config.bookkeeping:
        yield Advice("fine", "no bookkeeping columns and no append-only tables are named")


def _of_database(environment: Environment, connect: Callable[[Environment], Database]) -> Iterator[Advice]:
    try:
        database = connect(environment)
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
        return
    try:
        yield from _facts(database, environment)
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
    finally:
        database.close()


def _facts(database: Database, environment: Environment) -> Iterator[Advice]:
    facts = database.facts()
    role = facts.role or facts.login_role
    yield Advice(
        "fine", f"{facts.product} {facts.version}, database {facts.database}" + (f", role {role}" if role else "")
    )
    try:
        require_primary(facts, environment.name)
        require_ordinary_role(facts, database.settings)
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
    state = database.journal.state()
    if state is JournalState.ABSENT:
        missing = database.journal.missing_rights()
        hint = (
            "let an administrator run:\n  " + "\n  ".join(missing)
            if missing
            else f"backout init --on {environment.name}"
        )
        yield Advice("wrong" if missing else "weak", "there is no journal in this database yet", hint)
        return
    if state is JournalState.NEWER:
        yield Advice(
            "wrong", "the journal in this database was made by a newer backout", "upgrade backout on this machine"
        )
        return
    try:
        require_stamp(Stamp(*database.journal.stamp()), facts, database.settings)
        yield Advice("fine", f'the database is stamped "{environment.name}"')
    except BackoutError as error:
        yield Advice("wrong", error.message, error.hint)
    for left in database.journal.left_behind():
        hint = f"backout log --on {environment.name} takes it away, as soon as nobody uses the table for a moment"
        yield Advice("weak", left, hint)
    due = len(database.journal.expired())
    if due:
        yield Advice("weak", f"the rescue of {due} runs has expired", f"backout clean --on {environment.name}")
