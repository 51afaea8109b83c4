"""What the second person sees of a session while it is open: one table in the rescue schema, written in autocommit.

In the rescue schema, since it shows rows: the login role alone reads it. What the session says has the name '' there,
everybody who watches a row of their own. Not for: the statements, which the transcript has (`lines.py`).
Invariant: rows of a run that has ended are taken away by it, or by the next session.
"""

from __future__ import annotations

from collections.abc import Mapping

from backout.engines.postgres.names import qualified
from backout.engines.postgres.session import Session
from backout.engines.values import TableName

_NAME = "session"
_WRITE = (
    "INSERT INTO {} AS s (run, who, told) VALUES ($1, $2, $3) "
    "ON CONFLICT (run, who) DO UPDATE SET told = excluded.told, at = pg_catalog.clock_timestamp()"
)


def tell(control: Session, schema: str, run: int, told: str) -> None:
    """Write what the session says; it is committed when this returns."""
    table = _table(schema)
    if not _exists(control, schema):
        control.run(
            f"CREATE TABLE {table} (run bigint NOT NULL, who text NOT NULL, told text NOT NULL, "
            "at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), PRIMARY KEY (run, who))",
            doing="make the table of sessions",
        )
    control.run(f"DELETE FROM {table} s USING backout.run r WHERE r.number = s.run AND r.state <> 'running'")
    control.run(_WRITE.format(table), [run, "", told], doing="tell who watches")


def told(control: Session, schema: str, run: int) -> str | None:
    """What the session says."""
    if not _exists(control, schema):
        return None
    rows = control.run(f"SELECT told FROM {_table(schema)} WHERE run = $1 AND who = ''", [run]).rows
    return str(rows[0][0]) if rows else None


def watched(control: Session, schema: str, run: int, person: str) -> None:
    """A sign of life; of a session that has ended none is kept."""
    if told(control, schema, run) is not None:
        control.run(_WRITE.format(_table(schema)), [run, person, ""], doing="say that you are watching")


def watchers(control: Session, schema: str, run: int) -> Mapping[str, float]:
    """Who, and how many seconds ago by the server's clock."""
    rows = control.run(
        f"SELECT who, extract(epoch FROM pg_catalog.clock_timestamp() - at)::float8 FROM {_table(schema)} "
        "WHERE run = $1 AND who <> ''",
        [run],
    ).rows
    return dict(rows)


def untell(control: Session, schema: str, run: int) -> None:
    """Take it away."""
    if _exists(control, schema):
        control.run(f"DELETE FROM {_table(schema)} WHERE run = $1", [run])


def _table(schema: str) -> str:
    return qualified(TableName(schema, _NAME))


def _exists(control: Session, schema: str) -> bool:
    return control.value("SELECT pg_catalog.to_regclass($1)::text", [_table(schema)]) is not None
