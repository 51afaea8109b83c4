"""What two people agree to, in a few bytes: the rows of one table as they were, and as the run leaves them.

Not for: comparing tables (`differing`). Invariant: equal images give equal fingerprints, in whatever order they lie; of
different ones the sorted SHA-256 of their rows differ.
"""

from __future__ import annotations

import hashlib

from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.session import Session
from backout.engines.values import CapturedTable, TableName


def fingerprint(before_session: Session, after_session: Session, schema: str, captured: CapturedTable) -> str:
    """SHA-256, in hexadecimal, over the table's columns and both sides.

    Each session reads the side that it alone may see; rows are hashed by the server, so that 32 bytes of each are sorted
    (`sha256`: manual 9.5; a row's text quotes what could be mistaken for its structure: manual 8.16.6).
    """
    before = _side(before_session, schema, captured, captured.before_rescue)
    after = _side(after_session, schema, captured, captured.after_rescue)
    columns = [column.name for column in captured.table.restorable]
    return hashlib.sha256(repr((str(captured.table.name), columns, before, after)).encode()).hexdigest()


def _side(session: Session, schema: str, captured: CapturedTable, rescue: str | None) -> tuple[int, str]:
    """(rows, hash) of one side; no rows where there is no rescue table of it."""
    if rescue is None:
        return 0, ""
    cells = comma(f"i.{quoted(column.name)}" for column in captured.table.restorable)
    count, hashed = session.one(
        "SELECT count(*), pg_catalog.encode(pg_catalog.sha256(coalesce(pg_catalog.string_agg(h, '' ORDER BY h), '')), 'hex') "
        f"FROM (SELECT pg_catalog.sha256(pg_catalog.convert_to(ROW({cells})::text, 'UTF8')) AS h "
        f"FROM {qualified(TableName(schema, rescue))} i) hashed"
    )
    return int(count), str(hashed)
