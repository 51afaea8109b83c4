"""Where the transcripts of the endpoint are kept: one table in the rescue schema, which the login role alone may read.

Not for: what a line says (`endpoint/transcript.py`). Invariant: lines of a committed run go with its rescue; those of
any other run are dropped when the run's days are over, by the next run that writes lines.
"""

from __future__ import annotations

from collections.abc import Sequence

from backout.engines.postgres.names import qualified
from backout.engines.postgres.session import Session
from backout.engines.values import TableName

_NAME = "transcript"


def keep_lines(control: Session, schema: str, run: int, lines: Sequence[tuple[int, str, str]]) -> None:
    """Write lines; they are committed when this returns."""
    table = qualified(TableName(schema, _NAME))
    if not _exists(control, schema):
        control.run(
            f"CREATE TABLE {table} (run bigint NOT NULL, place bigint NOT NULL, line text NOT NULL, hash text NOT NULL, "
            "PRIMARY KEY (run, place))",
            doing="make the table of transcripts",
        )
    if lines[0][0] == 1:
        control.run(
            f"DELETE FROM {table} t USING backout.run r WHERE r.number = t.run AND r.state <> 'committed' "
            "AND r.finished_at + r.keep_days * interval '1 day' < pg_catalog.clock_timestamp()"
        )
    # Arrays of text as parameters take 36 µs of our time for a line, and this 2 [measured with psycopg 3.3].
    rows = "".join(f"{run}\t{place}\t{_escaped(line)}\t{hashed}\n" for place, line, hashed in lines)
    control.copy_in(f"COPY {table} (run, place, line, hash) FROM STDIN", rows, doing="keep the transcript")


def _escaped(line: str) -> str:
    """As a value of COPY's text format (manual: COPY, "Text Format")."""
    return line.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def read_lines(control: Session, schema: str, run: int) -> Sequence[tuple[int, str, str]]:
    """All lines of a run."""
    if not _exists(control, schema):
        return ()
    table = qualified(TableName(schema, _NAME))
    rows = control.run(f"SELECT place, line, hash FROM {table} WHERE run = $1 ORDER BY place", [run]).rows
    return [(place, line, hashed) for place, line, hashed in rows]


def last_line(control: Session, schema: str, run: int) -> tuple[int, str] | None:
    """Number and hash of the run's last line; None: it has none."""
    if not _exists(control, schema):
        return None
    table = qualified(TableName(schema, _NAME))
    rows = control.run(f"SELECT place, hash FROM {table} WHERE run = $1 ORDER BY place DESC LIMIT 1", [run]).rows
    return (int(rows[0][0]), str(rows[0][1])) if rows else None


def drop_lines(control: Session, schema: str, run: int) -> None:
    """The run's lines; the caller owns the transaction."""
    if _exists(control, schema):
        control.run(f"DELETE FROM {qualified(TableName(schema, _NAME))} WHERE run = $1", [run])


def _exists(control: Session, schema: str) -> bool:
    return bool(
        control.value(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = $1 AND c.relname = $2)",
            [schema, _NAME],
        )
    )
