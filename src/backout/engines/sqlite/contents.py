"""What is in the tables, for a comparison of two moments: how many rows, and a fingerprint of them.

The fingerprint is of a multiset: the sum of a 128-bit hash of each row, types included (1, 1.0 and '1' are three values).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import apsw

from backout.engines.sqlite.catalogue import table_names
from backout.engines.sqlite.statements import quote_name, single
from backout.engines.values import Contents, TableName


def read_contents(connection: apsw.Connection, exactly: Collection[TableName]) -> Mapping[TableName, Contents]:
    """Count every table of the application; of those in `exactly`, take a fingerprint. One snapshot."""
    wanted = {name.name for name in exactly}
    found: dict[TableName, Contents] = {}
    with connection:  # a read transaction
        for name in table_names(connection):
            found[TableName("main", name)] = _contents(connection, name, fingerprint=name in wanted)
    return found


def _contents(connection: apsw.Connection, name: str, *, fingerprint: bool) -> Contents:
    if not fingerprint:
        return Contents(int(single(connection, f"SELECT count(*) FROM main.{quote_name(name)}")))
    total = rows = 0
    for row in connection.execute(f"SELECT * FROM main.{quote_name(name)}"):
        rows += 1
        total += int.from_bytes(hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=16).digest())
    return Contents(rows, f"{total % 2**128:032x}")
