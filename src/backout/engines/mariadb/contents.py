"""What is in the tables, for a comparison of two moments: how many rows, and a fingerprint of them.

The fingerprint is of a multiset: the sum of a hash of each row, by the exact bytes of its values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from backout.engines.mariadb import catalogue
from backout.engines.mariadb.images import row_hash
from backout.engines.mariadb.names import qualified
from backout.engines.mariadb.session import Session
from backout.engines.values import Contents, TableName


def read_contents(control: Session, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
    """Count every table of the database; of those in `exactly`, take a fingerprint. One snapshot."""
    names = set(catalogue.user_tables(control, [control.address.database])) | set(exactly)
    tables = [table for name in sorted(names) if (table := catalogue.describe(control, name)) is not None]
    control.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    try:
        found = {}
        for table in tables:
            halves = "COUNT(*)"
            if table.name in exactly:
                digest = row_hash(table.columns, "t")
                for first in (1, 17):
                    halves += f", SUM(CAST(CONV(SUBSTR({digest}, {first}, 16), 16, 10) AS UNSIGNED))"
            rows, *sums = control.one(f"SELECT {halves} FROM {qualified(table.name)} t")
            found[table.name] = Contents(int(rows), ":".join(map(str, sums)) or None)
        return found
    finally:
        control.run("ROLLBACK")
