"""What is in the tables, for a comparison of two moments: how many rows, and a fingerprint of them.

The fingerprint is of a multiset: two sums of 64-bit hashes with different seeds, over each row as exact text. Equal
contents have equal fingerprints on one server; that different ones have equal ones is a matter of 2⁻¹²⁸.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from backout.engines.postgres.names import qualified
from backout.engines.postgres.queries import query
from backout.engines.postgres.session import EXACT_TEXT, Session
from backout.engines.values import Contents, TableName

_EXACTLY = "; ".join(
    f"SET LOCAL {name} = '{value}'" for name, value in {**EXACT_TEXT, "row_security": "off", "TimeZone": "UTC"}.items()
)


def read_contents(session: Session, rescue_schema: str, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
    """Count every permanent table that the login role may read; of those in `exactly`, take a fingerprint. One snapshot."""
    session.run(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_EXACTLY}")
    try:
        names = [TableName(schema, name) for schema, name in session.run(query("countable"), [rescue_schema]).rows]
        return {name: _contents(session, name, fingerprint=name in exactly) for name in names}
    finally:
        if not session.lost:
            session.run("ROLLBACK")


def _contents(session: Session, name: TableName, *, fingerprint: bool) -> Contents:
    source = f"FROM ONLY {qualified(name)} AS t"
    doing = f'compare table "{name}"'
    if not fingerprint:
        return Contents(session.run(f"SELECT count(*) {source}", doing=doing).rows[0][0])
    sums = ", ".join(f"sum(pg_catalog.hashtextextended(ROW(t.*)::text, {seed})::numeric)" for seed in (0, 1))
    rows, *hashes = session.run(f"SELECT count(*), {sums} {source}", doing=doing).rows[0]
    return Contents(rows, "/".join(str(one or 0) for one in hashes))
