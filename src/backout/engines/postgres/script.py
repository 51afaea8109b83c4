"""The `db` that a Python change is given: the supervised connection, seen through a guard.

A script may execute statements and open savepoints; it may not end the transaction, nor run what a change file may not
contain. Every statement that passes, SQLAlchemy's included, is read by the same rules as a file's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import psycopg
from psycopg import sql
from psycopg.abc import Params, Query
from psycopg.rows import tuple_row

from backout.engines.postgres.errors import translated
from backout.engines.postgres.session import Session
from backout.errors import Busy, Refused

Guard = Callable[[str], None]


class ScriptConnection:
    """What `apply(db)` gets. `%s` and `%(name)s` parameters, as in the DB-API."""

    def __init__(self, session: Session, guard: Guard, explained: Callable[[Busy], Busy]) -> None:
        self._session, self._guard, self._explained = session, guard, explained
        self._savepoints = 0
        self.mode = "real"  # "ghost" in a ghost run
        self.parameters: Mapping[str, Any] = {}  # of the change, with this environment's values

    def execute(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Run one statement; returns a cursor (`fetchone`, `fetchall`, iteration, `rowcount`)."""
        cursor: psycopg.Cursor[tuple[Any, ...]] = psycopg.ClientCursor(self._session.connection, row_factory=tuple_row)
        self._guard(statement)
        try:
            return cursor.execute(statement.encode(), parameters)
        except psycopg.Error as error:
            found = translated(error, "run a statement of the script")
            raise (self._explained(found) if isinstance(found, Busy) else found) from None

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part that is taken back when it raises."""
        self._savepoints += 1
        name = f"backout_script_{self._savepoints}"
        self._session.run(f"SAVEPOINT {name}")
        try:
            yield
        except Exception:
            self._session.run(f"ROLLBACK TO SAVEPOINT {name}")
            raise
        self._session.run(f"RELEASE SAVEPOINT {name}")

    def sqlalchemy(self) -> Any:
        """A SQLAlchemy `Connection` inside the supervised transaction.

        Use it as `Session(bind=db.sqlalchemy(), join_transaction_mode="create_savepoint")`: the session's own commits
        become savepoints (SQLAlchemy 2.0 manual, "Joining a Session into an External Transaction").
        """
        try:
            from sqlalchemy import create_engine
            from sqlalchemy.pool import StaticPool
        except ImportError:
            raise Refused(
                "sqlalchemy",
                "`db.sqlalchemy()` needs SQLAlchemy, which is not installed here",
                hint="pip install 'backout[sqlalchemy]'",
            ) from None
        guarded = _Guarded(self._session.connection, self._guard)
        # Without hstore: looking for it asks psycopg for the raw connection, which is not the guarded one.
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: guarded, poolclass=StaticPool, use_native_hstore=False
        )
        connection = engine.connect()
        connection.begin()
        return connection

    def batches(self, *_arguments: Any, **_named: Any) -> NoReturn:
        """Always refused: a change in batches shows it in its text, and then has a `db` of its own."""
        raise Refused(
            "script", "db.batches was not seen in the text of the change, which runs in one transaction therefore",
            hint='call it in apply itself, by the name of its argument: for batch in db.batches("table", by="id"):',
        )  # fmt: skip

    def commit(self) -> NoReturn:
        """Always refused: the run commits when everything is proven."""
        raise Refused("script", "a change may not commit: the run does, when all is captured and proven", hint=None)

    def rollback(self) -> NoReturn:
        """Always refused: raise an exception instead."""
        raise Refused("script", "a change may not roll back: raise an exception, and the run does", hint=None)


class _Guarded:
    """A DB-API connection for SQLAlchemy whose end is not its own, and whose statements are read first."""

    def __init__(self, connection: psycopg.Connection[Any], guard: Guard) -> None:
        self.__dict__["_connection"], self.__dict__["_guard"] = connection, guard

    def cursor(self, *args: Any, **options: Any) -> Any:
        guard = self._guard

        class GuardedCursor(psycopg.Cursor[Any]):
            def execute(self, query: Query, params: Params | None = None, **more: Any) -> Any:
                guard(_text(query, self))
                return super().execute(query, params, **more)  # type: ignore[arg-type]  # t-strings pass as well

            def executemany(self, query: Query, *more: Any, **options: Any) -> None:
                guard(_text(query, self))
                super().executemany(query, *more, **options)

            def copy(self, statement: Query, *more: Any, **options: Any) -> Any:
                guard(_text(statement, self))
                return super().copy(statement, *more, **options)

        if args or options.get("name"):
            return self._connection.cursor(*args, **options)
        return GuardedCursor(self._connection)

    def commit(self) -> None:
        """Not the script's to do; the run commits."""

    def rollback(self) -> None:
        """Not the script's to do; the run rolls back."""

    def close(self) -> None:
        """The run closes it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "autocommit":  # SQLAlchemy sets it; the supervised session's transaction is said in SQL
            setattr(self._connection, name, value)


def _text(query: Query, context: psycopg.Cursor[Any]) -> str:
    if isinstance(query, sql.Composable):
        return query.as_string(context)
    return query.decode() if isinstance(query, bytes) else str(query)
