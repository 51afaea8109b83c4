"""The SQL of an undo, for one table whose rows have a key: text from values, no session.

`p` is the pre-image, `q` the post-image, `t` the table as it is now. A row in both images was updated, one only in `p`
deleted, one only in `q` inserted by the run. Every statement compares and writes in one go, so that under READ
COMMITTED the server itself checks the comparison again on a row that somebody changed in between (manual 13.2.1).

A row that is not as the run left it is a *conflict* and is left alone, unless it is forced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backout.engines.postgres.images import batch_column, image
from backout.engines.postgres.names import comma, literal, qualified, quoted
from backout.engines.postgres.undo_columns import CONFLICT_TABLE, Pair, kind_of, stored_type
from backout.engines.postgres.undo_statements import Rewriting
from backout.engines.values import ConflictKind, TableName, UndoTable

#: Key types whose equality is identity; a key of another type is written back as well.
#: Source: manual 8.1 to 8.20; numeric (1.0 = 1.00), floats (-0.0 = 0.0), bpchar and citext are not among them.
_PLAIN_KEYS = {"smallint", "integer", "bigint", "uuid", "boolean", "date", "oid"}


@dataclass(frozen=True)
class KeyedTable:
    """The statements that put back one table whose rows have a key."""

    undo: UndoTable
    place: int
    rescue_schema: str

    # -- what the columns are ------------------------------------------------------------------------------------------

    @property
    def pairs(self) -> list[Pair]:
        """Every column that is in the pre-image and can be written now."""
        now = {column.name: column for column in self.undo.table.restorable}
        return [
            Pair(column, now[self.undo.columns[column.name]])
            for column in self.undo.captured.table.restorable
            if self.undo.columns.get(column.name) in now
        ]

    @property
    def key(self) -> list[Pair]:
        """The key's columns."""
        wanted = self.undo.captured.table.key
        return [pair for pair in self.pairs if pair.captured.name in wanted]

    @property
    def touched(self) -> list[Pair]:
        """Columns that the run may have changed: those of the post-image, without the key."""
        key = self.undo.captured.table.key
        return [
            p for p in self.pairs if p.captured.name in self.undo.captured.after_columns and p.captured.name not in key
        ]

    @property
    def compared(self) -> list[Pair]:
        """Touched columns in which a difference is a conflict: all but the bookkeeping ones."""
        return [pair for pair in self.touched if pair.now.name not in self.undo.bookkeeping]

    # -- the sources ---------------------------------------------------------------------------------------------------

    def _images(self, side: str | None, alias: str) -> str:
        if side is None:  # no such image was kept: no rows, with the columns that the joins need
            names = comma(f"NULL::{stored_type(p.captured)} AS {quoted(p.captured.name)}" for p in self.pairs)
            return f"(SELECT {names} WHERE false) {alias}"
        name = qualified(TableName(self.rescue_schema, side))
        batch = self.undo.captured.batch
        if batch is not None:
            column = quoted(batch_column(self.undo.captured.table))
            name = f"(SELECT one.* FROM {name} one WHERE one.{column} = {batch})"
        left = self.undo.captured.left_rescue
        if left is None:
            return f"{name} {alias}"
        keys = comma(f"i.{quoted(name)}" for name in self.undo.captured.table.key)
        left_name = qualified(TableName(self.rescue_schema, left))
        own = f"ROW({keys})::text IN (SELECT l.identity FROM {left_name} l)"
        before = self.undo.captured.before_rescue
        if (
            side != before and before is not None and self._loose_key
        ):  # the same row, whose key is kept in two spellings
            whole = comma(f"b.{quoted(name)}" for name in self.undo.captured.table.key)
            same = " AND ".join(f"b.{quoted(name)} = i.{quoted(name)}" for name in self.undo.captured.table.key)
            own += (
                f" OR EXISTS (SELECT FROM {qualified(TableName(self.rescue_schema, before))} b WHERE {same} "
                f"AND ROW({whole})::text IN (SELECT l.identity FROM {left_name} l))"
            )
        return f"(SELECT i.* FROM {name} i WHERE {own}) {alias}"

    @property
    def before(self) -> str:
        """The pre-images that are still to be restored."""
        return self._images(self.undo.captured.before_rescue, "p")

    def before_as(self, alias: str) -> str:
        """The same under another alias."""
        return self._images(self.undo.captured.before_rescue, alias)

    @property
    def after(self) -> str:
        """The post-images that are still to be undone."""
        return self._images(self.undo.captured.after_rescue, "q")

    @property
    def has_before(self) -> bool:
        """Whether there is any pre-image."""
        return self.undo.captured.before_rescue is not None

    @property
    def has_after(self) -> bool:
        """Whether there is any post-image."""
        return self.undo.captured.after_rescue is not None

    @property
    def target(self) -> str:
        """The table itself, without its children: each child was captured by itself."""
        return f"ONLY {qualified(self.undo.table.name)}"

    # -- the conditions ------------------------------------------------------------------------------------------------

    def identity(self, alias: str) -> str:
        """The key as one text, from an image."""
        return f"ROW({comma(f'{alias}.{quoted(pair.captured.name)}' for pair in self.key)})::text"

    @property
    def same_key(self) -> str:
        """Pre- and post-image of the same row."""
        return " AND ".join(f"q.{quoted(p.captured.name)} = p.{quoted(p.captured.name)}" for p in self.key)

    def lets_go(self, alias: str, columns: Sequence[str]) -> str:
        """Is `alias` a row that the undo will delete, or in which it will put back one of these columns?

        A row of the run's that others have made to refer to ours since is not: in it the columns stay as they are.
        """
        if not self.has_after:
            return "false"
        keys = " AND ".join(pair.same(alias, "q") for pair in self.key)
        put_back = [self.differs(pair, "p", "q") for pair in self.touched if pair.now.name in columns]
        goes = " OR ".join([self._no_image("p"), *put_back])
        return (
            f"EXISTS (SELECT FROM {self.after} LEFT JOIN {self.before} ON {self.same_key} "
            f"WHERE {keys} AND ({goes}) AND {self._not_in_conflict('q')})"
        )

    def now_is(self, alias: str) -> str:
        """The row of now that has the key of an image."""
        return " AND ".join(pair.same("t", alias) for pair in self.key)

    def _no_image(self, alias: str) -> str:
        """No row of the other image joined (key columns are never null in an image)."""
        return f"{alias}.{quoted(self.key[0].captured.name)} IS NULL"

    def differs(self, pair: Pair, one: str, other: str) -> str:
        """Do two of p, q, t differ in the column, byte by byte?"""
        sides = [pair.compared_now() if side == "t" else pair.compared_image(side) for side in (one, other)]
        return f"{image(sides[:1])} *<> {image(sides[1:])}"

    def unchanged(self, pairs: Iterable[Pair]) -> str:
        """Is the row now, in these columns, what the run left?"""
        pairs = list(pairs)
        if not pairs:
            return "true"
        now = image(pair.compared_now() for pair in pairs)
        return f"{now} *= {image(pair.compared_image('q') for pair in pairs)}"

    def _not_in_conflict(self, alias: str) -> str:
        return (
            f"NOT EXISTS (SELECT FROM {CONFLICT_TABLE} x WHERE x.place = {self.place} AND NOT x.forced "
            f"AND x.identity = {self.identity(alias)})"
        )

    def _forced(self, alias: str) -> str:
        return (
            f"EXISTS (SELECT FROM {CONFLICT_TABLE} x WHERE x.place = {self.place} AND x.forced "
            f"AND x.identity = {self.identity(alias)})"
        )

    # -- the writes ----------------------------------------------------------------------------------------------------

    def delete(self, *, merging: bool) -> str | None:
        """Delete what the run inserted, where nobody has changed it since."""
        if not self.has_after:
            return None
        ok = self.unchanged(self.compared)
        if merging:
            ok = f"({ok} OR {self._forced('q')}) AND {self._not_in_conflict('q')}"
        return (
            f"DELETE FROM {self.target} AS t USING {self.after} LEFT JOIN {self.before} ON {self.same_key} "
            f"WHERE {self._no_image('p')} AND {self.now_is('q')} AND {ok}"
        )

    def update(self, *, merging: bool) -> str | None:
        """Put back what the run updated. Without `merging`: only rows that nobody touched since, at full speed.

        With it: column by column, keeping what others changed where the run did not; see the module's docstring.
        """
        columns = [pair for pair in (*self._loose_key, *self.touched) if not pair.now.identity_always]
        if not (self.has_before and self.has_after and columns):
            return None
        sets = comma(f"{quoted(pair.now.name)} = {self._value(pair, merging=merging)}" for pair in columns)
        ok = " AND ".join([self.may_update(merging=merging), *(f"NOT ({moved})" for moved in self.renumbered)])
        return (
            f"UPDATE {self.target} AS t SET {sets} FROM {self.before} JOIN {self.after} ON {self.same_key} "
            f"WHERE {self.now_is('p')} AND {ok}"
        )

    def rewrite(self, *, merging: bool) -> Rewriting | None:
        """Like `update`, for what no UPDATE can do; see `Rewriting`."""
        if not (self.has_before and self.has_after):
            return None
        put_back = {pair.now.name: pair for pair in (*self._loose_key, *self.touched)}
        columns = self.undo.table.restorable
        names = comma(quoted(column.name) for column in columns)
        values = comma(
            self._value(put_back[column.name], merging=merging)
            if column.name in put_back
            else f"t.{quoted(column.name)}"
            for column in columns
        )
        images = f"{self.before} JOIN {self.after} ON {self.same_key}"
        return Rewriting(
            f"DELETE FROM {self.target} AS t USING {images} WHERE {self.now_is('p')} AND {self.may_update(merging=merging)}",
            # The count makes every row go before the first comes back.
            lambda moved: (
                f"INSERT INTO {qualified(self.undo.table.name)} ({names}) OVERRIDING SYSTEM VALUE "
                f"SELECT {values} FROM {moved} AS t JOIN ({images}) ON {self.now_is('p')} "
                f"WHERE (SELECT count(*) FROM {moved}) >= 0"
            ),
        )

    def may_update(self, *, merging: bool) -> str:
        """Is a row that the run updated one to be put back?"""
        if not merging:
            return self.unchanged(self.compared)
        return f"(NOT ({self._clash()}) OR {self._forced('p')}) AND {self._not_in_conflict('p')}"

    @property
    def renumbered(self) -> list[str]:
        """Did the run change a column that an UPDATE cannot put back? One condition a column."""
        return [self.differs(pair, "p", "q") for pair in self.touched if pair.now.identity_always]

    @property
    def _loose_key(self) -> list[Pair]:
        return [pair for pair in self.key if pair.captured.type not in _PLAIN_KEYS]

    def _value(self, pair: Pair, *, merging: bool) -> str:
        before = pair.was("p")
        if pair.now.name in self.undo.bookkeeping:
            return f"CASE WHEN {self.differs(pair, 't', 'q')} THEN t.{quoted(pair.now.name)} ELSE {before} END"
        if merging and pair.captured.name not in self.undo.captured.table.key:
            return f"CASE WHEN {self.differs(pair, 'p', 'q')} THEN {before} ELSE t.{quoted(pair.now.name)} END"
        return before

    def _clash(self) -> str:
        """A column that the run changed and that is now neither as the run left it nor already as before."""
        clashes = [
            f"({self.differs(p, 'p', 'q')} AND {self.differs(p, 't', 'q')} AND {self.differs(p, 't', 'p')})"
            for p in self.compared
        ]
        return " OR ".join(clashes) or "false"

    def insert(self, *, merging: bool) -> str | None:
        """Bring back what the run deleted, where its key is free."""
        if not self.has_before:
            return None
        names = comma(quoted(pair.now.name) for pair in self.pairs)
        values = comma(pair.was("p") for pair in self.pairs)
        wanted = self._no_image("q")
        if merging:  # a forced row that is gone since comes back, too
            wanted = f"({wanted} OR {self._forced('p')}) AND {self._not_in_conflict('p')}"
        return (
            f"INSERT INTO {qualified(self.undo.table.name)} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} "
            f"FROM {self.before} LEFT JOIN {self.after} ON {self.same_key} "
            f"WHERE {wanted} AND NOT EXISTS (SELECT FROM {self.target} AS t WHERE {self.now_is('p')})"
        )

    def replace_reused(self) -> str | None:
        """Write a deleted row over the one that has its key now; only for forced conflicts."""
        if not self.has_before:
            return None
        key = self.undo.captured.table.key
        sets = comma(
            f"{quoted(pair.now.name)} = {pair.was('p')}"
            for pair in self.pairs
            if pair.captured.name not in key and not pair.now.identity_always
        )
        if not sets:
            return None
        return (
            f"UPDATE {self.target} AS t SET {sets} FROM {self.before} LEFT JOIN {self.after} ON {self.same_key} "
            f"WHERE {self._no_image('q')} AND {self.now_is('p')} AND {self._forced('p')}"
        )

    # -- the questions -------------------------------------------------------------------------------------------------

    def expected(self) -> str:
        """(to delete, to update, to insert): what a conflict-free undo would write."""
        if not self.has_before:
            return f"SELECT (SELECT count(*) FROM {self.after}), 0, 0"
        if not self.has_after:
            return f"SELECT 0, 0, (SELECT count(*) FROM {self.before})"
        writable = any(not pair.now.identity_always for pair in (*self._loose_key, *self.touched))
        updated = "true" if writable else " OR ".join(self.renumbered) or "false"
        both = f"NOT ({self._no_image('p')}) AND NOT ({self._no_image('q')})"
        return (
            f"SELECT count(*) FILTER (WHERE {self._no_image('p')}), "
            f"count(*) FILTER (WHERE {both} AND ({updated})), "
            f"count(*) FILTER (WHERE {self._no_image('q')}) FROM {self.before} FULL JOIN {self.after} "
            f"ON {self.same_key}"
        )

    def classify(self) -> list[str]:
        """Statements that put every row in conflict into the conflict table."""
        into = f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns) SELECT {self.place}, "
        no_columns = "ARRAY[]::text[]"
        found = []
        if self.has_before and self.has_after:
            named = comma(
                f"CASE WHEN {self.differs(p, 'p', 'q')} AND {self.differs(p, 't', 'q')} AND {self.differs(p, 't', 'p')} "
                f"THEN {literal(p.now.name)} END"
                for p in self.compared
            )
            columns = f"array_remove(ARRAY[{named}]::text[], NULL)" if named else no_columns
            changed = " OR ".join(self.differs(p, "p", "q") for p in self.touched) or "false"
            gone = f"t.{quoted(self.key[0].now.name)} IS NULL"
            found.append(
                f"{into}{self.identity('p')}, CASE WHEN {gone} THEN {kind_of(ConflictKind.DELETED)} "
                f"ELSE {kind_of(ConflictKind.CHANGED)} END, CASE WHEN {gone} THEN {no_columns} ELSE {columns} END "
                f"FROM {self.before} JOIN {self.after} ON {self.same_key} "
                f"LEFT JOIN {self.target} AS t ON {self.now_is('p')} "
                f"WHERE CASE WHEN {gone} THEN {changed} ELSE {self._clash()} END"
            )
        if self.has_after:
            found.append(
                f"{into}{self.identity('q')}, {kind_of(ConflictKind.CHANGED)}, {no_columns} "
                f"FROM {self.after} LEFT JOIN {self.before} ON {self.same_key} "
                f"JOIN {self.target} AS t ON {self.now_is('q')} "
                f"WHERE {self._no_image('p')} AND NOT ({self.unchanged(self.compared)})"
            )
        if self.has_before:
            whole = image(pair.compared_now() for pair in self.pairs)
            old = image(pair.compared_image("p") for pair in self.pairs)
            found.append(
                f"{into}{self.identity('p')}, {kind_of(ConflictKind.KEY_REUSED)}, {no_columns} "
                f"FROM {self.before} LEFT JOIN {self.after} ON {self.same_key} "
                f"JOIN {self.target} AS t ON {self.now_is('p')} "
                f"WHERE {self._no_image('q')} AND {whole} *<> {old}"
            )
        return found

    @property
    def one_sided(self) -> str:
        """The rows that are in one image only, as a query for their identities."""
        joined = f"{self.before} FULL JOIN {self.after} ON {self.same_key}"
        return (
            f"SELECT CASE WHEN {self._no_image('p')} THEN {self.identity('q')} ELSE {self.identity('p')} END AS identity "
            f"FROM {joined} WHERE {self._no_image('p')} OR {self._no_image('q')}"
        )

    @property
    def after_that_are_gone(self) -> str:
        """FROM and WHERE: post-images of rows that were not there before by their key, and are not there now."""
        return (
            f"{self.after} LEFT JOIN {self.before} ON {self.same_key} LEFT JOIN {self.target} AS t ON {self.now_is('q')} "
            f"WHERE {self._no_image('p')} AND t.{quoted(self.key[0].now.name)} IS NULL"
        )

    def has_renumbered(self) -> str | None:
        """Did the run change a column that an UPDATE cannot put back, in any row?"""
        if not (self.has_before and self.has_after and self.renumbered):
            return None
        images = f"{self.before} JOIN {self.after} ON {self.same_key}"
        return f"SELECT EXISTS (SELECT FROM {images} WHERE {' OR '.join(self.renumbered)})"

    def classify_renumbered(self) -> str | None:
        """Where a rewriting is not possible, the rows that need one are in conflict."""
        if not (self.has_before and self.has_after and self.renumbered):
            return None
        return (
            f"INSERT INTO {CONFLICT_TABLE} (place, identity, kind, columns, detail) SELECT {self.place}, "
            f"{self.identity('p')}, {kind_of(ConflictKind.CONSTRAINT)}, ARRAY[]::text[], "
            f"'a column is GENERATED ALWAYS AS IDENTITY' FROM {self.before} JOIN {self.after} ON {self.same_key} "
            f"WHERE ({' OR '.join(self.renumbered)}) AND NOT EXISTS (SELECT FROM {CONFLICT_TABLE} x "
            f"WHERE x.place = {self.place} AND x.identity = {self.identity('p')})"
        )

    def unrestored(self) -> str:
        """How many rows outside of the conflicts are not as they should be now; 0 after a complete undo."""
        wrong = []
        if self.has_before and self.has_after:
            differ = " OR ".join(
                f"({self.differs(p, 'p', 'q')} AND {self.differs(p, 't', 'p')})" for p in self.compared
            )
            wrong.append(
                f"(SELECT count(*) FROM {self.before} JOIN {self.after} ON {self.same_key} "
                f"JOIN {self.target} AS t ON {self.now_is('p')} "
                f"WHERE ({differ or 'false'}) AND {self._not_in_conflict('p')})"
            )
        if self.has_after:
            wrong.append(
                f"(SELECT count(*) FROM {self.after} LEFT JOIN {self.before} ON {self.same_key} "
                f"JOIN {self.target} AS t ON {self.now_is('q')} "
                f"WHERE {self._no_image('p')} AND {self._not_in_conflict('q')})"
            )
        if self.has_before:
            wrong.append(
                f"(SELECT count(*) FROM {self.before} LEFT JOIN {self.after} ON {self.same_key} "
                f"LEFT JOIN {self.target} AS t ON {self.now_is('p')} WHERE {self._no_image('q')} "
                f"AND t.{quoted(self.key[0].now.name)} IS NULL AND {self._not_in_conflict('p')})"
            )
        return f"SELECT {' + '.join(wrong) or '0'}"

    def identities(self, operation: int) -> str:
        """The rows that an operation (0 delete, 1 update, 2 insert) would write, outside of the conflicts."""
        joined = f"{self.before} FULL JOIN {self.after} ON {self.same_key}"
        if operation == 0:
            return f"SELECT {self.identity('q')} FROM {joined} WHERE {self._no_image('p')} AND {self._not_in_conflict('q')}"
        wanted = f"NOT {self._no_image('p')} AND {'NOT ' if operation == 1 else ''}{self._no_image('q')}"
        return f"SELECT {self.identity('p')} FROM {joined} WHERE {wanted} AND {self._not_in_conflict('p')}"

    def names_anew(self, columns: Sequence[str]) -> str:
        """Is it a row that the undo brings back, or in which it puts one of these columns back?"""
        moved = [self.differs(pair, "p", "q") for pair in self.touched if pair.now.name in columns]
        changed = " OR ".join([self._no_image("q"), *moved])
        return f"({changed}) AND {self._not_in_conflict('p')}"

    def removes(self, columns: Sequence[str]) -> str:
        """Is it a row that the undo removes, or in which it changes one of these columns?"""
        moved = [self.differs(pair, "p", "q") for pair in self.touched if pair.now.name in columns]
        changed = " OR ".join([self._no_image("p"), *moved])
        return f"({changed}) AND {self._not_in_conflict('q')}"

    def rows_in_conflict(self, limit: int) -> str:
        """(number, kind, columns, key…, before…, ours…, now…) of the first conflicts of this table, as text."""
        names = [pair.captured.name for pair in self.pairs]
        ours = [pair.captured.name for pair in self.pairs if pair in self.key or pair in self.touched]
        cells = [f"p.{quoted(name)}::text" for name in names]
        cells += [f"q.{quoted(name)}::text" for name in ours]
        cells += [f"t.{quoted(pair.now.name)}::text" for pair in self.pairs]
        identity = f"CASE WHEN {self._no_image('p')} THEN {self.identity('q')} ELSE {self.identity('p')} END"
        now_key = " AND ".join(pair.same_as_either("t", "p", "q") for pair in self.key)
        return (
            f"SELECT x.number, x.kind, x.columns, x.detail, {comma(cells)} FROM {CONFLICT_TABLE} x "
            f"JOIN ({self.before} FULL JOIN {self.after} ON {self.same_key}) ON x.identity = {identity} "
            f"LEFT JOIN {self.target} AS t ON {now_key} "
            f"WHERE x.place = {self.place} AND NOT x.forced AND x.number IS NOT NULL ORDER BY x.number LIMIT {limit}"
        )

    def save_left(self, name: str) -> str:
        """Keep the keys of the rows that this undo leaves, for a later one."""
        return (
            f"CREATE TABLE {qualified(TableName(self.rescue_schema, name))} AS SELECT x.identity "
            f"FROM {CONFLICT_TABLE} x WHERE x.place = {self.place} AND NOT x.forced"
        )
