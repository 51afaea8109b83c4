"""The SQL of an undo, for one table whose rows have no key: text from values, no session. Whole rows, as multisets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backout.engines.postgres.images import batch_column, spare_name
from backout.engines.postgres.names import comma, qualified, quoted
from backout.engines.postgres.undo_columns import CONFLICT_TABLE, Pair, kind_of
from backout.engines.postgres.undo_keyed import KeyedTable
from backout.engines.values import ConflictKind, TableName, UndoTable

#: Equal values of these are the same text, and are found by a hash.
_PLAIN_TYPES = {"smallint", "integer", "bigint", "uuid", "date"}


@dataclass(frozen=True)
class KeylessTable:
    """The statements that put back a table without a key: whole rows, as a multiset.

    Rows that are the same before and after cancel out. Which post-image belongs to which pre-image is not known, so that
    the table is put back as a whole or not at all. The caller holds SHARE ROW EXCLUSIVE on it.
    """

    undo: UndoTable
    place: int
    rescue_schema: str

    @property
    def pairs(self) -> list[Pair]:
        """Every column; see `KeyedTable.pairs`."""
        return KeyedTable(self.undo, self.place, self.rescue_schema).pairs

    @property
    def target(self) -> str:
        """The table, without its children."""
        return f"ONLY {qualified(self.undo.table.name)}"

    def _now(self, alias: str = "t") -> str:
        return f"ROW({comma(pair.compared_now(alias) for pair in self.pairs)})::text"

    def _image(self, alias: str) -> str:
        return f"ROW({comma(pair.compared_image(alias) for pair in self.pairs)})::text"

    def _rows(self, side: str | None) -> str:
        """Whole rows of an image as text, with how many of each."""
        if side is None:
            return "(SELECT NULL::text AS whole, 0::bigint AS copies WHERE false)"
        return f"(SELECT {self._image('i')} AS whole, count(*) AS copies FROM {self._images(side)} i GROUP BY 1)"

    def _images(self, side: str) -> str:
        """A rescue table; of a run in batches the rows of one of them."""
        name, batch = qualified(TableName(self.rescue_schema, side)), self.undo.captured.batch
        if batch is None:
            return name
        return f"(SELECT one.* FROM {name} one WHERE one.{quoted(batch_column(self.undo.captured.table))} = {batch})"

    def _surplus(self, side: str | None, other: str | None) -> str:
        return (
            f"(SELECT a.whole, a.copies - coalesce(b.copies, 0) AS copies FROM {self._rows(side)} a "
            f"LEFT JOIN {self._rows(other)} b ON b.whole = a.whole WHERE a.copies > coalesce(b.copies, 0))"
        )

    @property
    def _made(self) -> str:
        return self._surplus(self.undo.captured.after_rescue, self.undo.captured.before_rescue)

    @property
    def _gone(self) -> str:
        return self._surplus(self.undo.captured.before_rescue, self.undo.captured.after_rescue)

    def expected(self) -> str:
        """(to delete, to update, to insert)."""
        return (
            f"SELECT coalesce((SELECT sum(copies) FROM {self._made} m)::bigint, 0), 0, "
            f"coalesce((SELECT sum(copies) FROM {self._gone} g)::bigint, 0)"
        )

    def delete(self) -> str:
        """Delete as many copies of each row as the run made."""
        return (
            f"DELETE FROM {self.target} AS t USING (SELECT t.ctid AS place, {self._now()} AS whole, row_number() "
            f"OVER (PARTITION BY {self._now()}) AS copy FROM {self.target} AS t "
            f"WHERE {self._near} AND {self._now()} IN (SELECT g.whole FROM {self._made} g)) h, {self._made} m "
            f"WHERE t.ctid = h.place AND m.whole = h.whole AND h.copy <= m.copies"
        )

    @property
    def _near(self) -> str:
        """Can it be one of the run's rows, by one column? To be asked before whole rows are made texts of.

        Of a run in batches the table is read once for each of them.
        """
        made = self.undo.captured.after_rescue
        for pair in self.pairs:
            if made is not None and pair.captured.type in _PLAIN_TYPES and not pair.retyped:
                now, then = f"t.{quoted(pair.now.name)}", f"i.{quoted(pair.captured.name)}"
                return f"({now} IS NULL OR {now} IN (SELECT {then} FROM {self._images(made)} i))"
        return "true"

    def insert(self) -> str | None:
        """Bring back as many copies of each row as the run replaced."""
        if self.undo.captured.before_rescue is None:
            return None
        source = self._images(self.undo.captured.before_rescue)
        names = comma(quoted(pair.now.name) for pair in self.pairs)
        values = comma(pair.was("i") for pair in self.pairs)
        whole, copy = (quoted(spare_name(name, self.undo.captured.table)) for name in ("backout_whole", "backout_copy"))
        numbered = (
            f"(SELECT p.*, {self._image('p')} AS {whole}, row_number() OVER (PARTITION BY {self._image('p')}) "
            f"AS {copy} FROM {source} p)"
        )
        return (
            f"INSERT INTO {qualified(self.undo.table.name)} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} "
            f"FROM {numbered} i JOIN {self._gone} g ON g.whole = i.{whole} WHERE i.{copy} <= g.copies"
        )

    def identity(self, alias: str) -> str:
        """The whole row as one text."""
        return self._image(alias)

    def lets_go(self, alias: str, columns: Sequence[str]) -> str:  # noqa: ARG002 -- a whole row goes
        """See `KeyedTable.lets_go`; of several rows that are the same, all must be the run's."""
        return (
            f"({self._now(alias)} IN (SELECT m.whole FROM {self._made} m JOIN (SELECT {self._now()} AS whole, "
            f"count(*) AS copies FROM {self.target} AS t GROUP BY 1) n ON n.whole = m.whole WHERE n.copies <= m.copies) "
            f"AND {self._not_left})"
        )

    @property
    def _not_left(self) -> str:
        """Is the table put back at all?"""
        return f"NOT EXISTS (SELECT FROM {CONFLICT_TABLE} x WHERE x.place = {self.place} AND NOT x.forced)"

    def unrestored(self) -> str:
        """Nothing to ask: the table is locked, and the counts of the writes tell."""
        return "SELECT 0"

    def names_anew(self, columns: Sequence[str]) -> str:  # noqa: ARG002 -- a whole row comes
        """See `KeyedTable.names_anew`."""
        return self._not_left

    def removes(self, columns: Sequence[str]) -> str:  # noqa: ARG002 -- a whole row goes
        """See `KeyedTable.removes`."""
        return self._not_left

    def rows_in_conflict(self, limit: int) -> str:
        """See `KeyedTable.rows_in_conflict`; which row became which is not known."""
        names = [pair.captured.name for pair in self.pairs]
        cells, joins = [], []
        for alias, side in (("p", self.undo.captured.before_rescue), ("q", self.undo.captured.after_rescue)):
            if side is None:
                cells += ["NULL::text"] * len(names)
                continue
            cells += [f"{alias}.{quoted(name)}::text" for name in names]
            joins.append(
                f"LEFT JOIN LATERAL (SELECT i.* FROM {self._images(side)} i "
                f"WHERE {self._image('i')} = x.identity LIMIT 1) {alias} ON true"
            )
        cells += ["NULL::text"] * len(names)
        return (
            f"SELECT x.number, x.kind, x.columns, x.detail, {comma(cells)} FROM {CONFLICT_TABLE} x {' '.join(joins)} "
            f"WHERE x.place = {self.place} AND NOT x.forced ORDER BY x.number LIMIT {limit}"
        )

    def refuse(self, detail: str) -> tuple[str, list[str]]:
        """Put every row that cannot be written into the conflict table, since a constraint refuses one of them."""
        return (
            f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) SELECT {self.place}, m.whole, "
            f"{kind_of(ConflictKind.CONSTRAINT)}, ARRAY[]::text[], $1 FROM "
            f"(SELECT whole FROM {self._gone} g UNION SELECT whole FROM {self._made} m) m"
        ), [detail]

    def classify(self) -> list[str]:
        """Rows that the run made and that are not there any more, as often."""
        return [
            (
                f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT {self.place}, m.whole, "
                f"{kind_of(ConflictKind.CHANGED)}, ARRAY[]::text[] FROM {self._made} m LEFT JOIN "
                f"(SELECT {self._now()} AS whole, count(*) AS copies FROM {self.target} AS t GROUP BY 1) n "
                f"ON n.whole = m.whole WHERE coalesce(n.copies, 0) < m.copies"
            )
        ]
