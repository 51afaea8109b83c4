"""What a run has written, table by table: by the quick form where that is proven, else by comparison; held against the count.

Not for: how one table is compared (`capture.py`) or read (`quick.py`). Invariant: every table that the statements can have
reached is looked at, and where the server has counted more, also those that moved and that nothing named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from backout.engines.mariadb import catalogue, completeness, images, records, visible
from backout.engines.mariadb.capture import Pair, Target, capture_table
from backout.engines.mariadb.quick import Rows, capture_rows, fits, rows_of, rows_restored
from backout.engines.mariadb.undo_at_once import Ahead
from backout.engines.values import CapturedTable, Table, TableName
from backout.errors import DatabaseFailed, Refused

if TYPE_CHECKING:
    from backout.engines.mariadb.statements import Statements
    from backout.engines.mariadb.undo import Reverted


class Rescue:
    """The images of one run; `captured` is all that was found so far."""

    def __init__(self, pair: Pair, statements: Statements) -> None:
        self._pair, self._statements = pair, statements
        self._moved: completeness.Counters = {}
        self._places = 0  # the last number that was given to a table of this run
        self.captured: tuple[CapturedTable, ...] = ()
        self.unused: list[str] = []  # rescue tables that turned out to be of no use

    def begin(self) -> None:
        """Before the transaction: which tables others have written until now."""
        self._moved = completeness.table_counters(self._pair.control)

    def ahead(self, run: int) -> Ahead:
        """Where an undo may put its images while it is at work; of no use unless it does."""
        place = self._next_place()
        self.unused += [images.rescue_name(run, place, part) for part in ("before", "after")]
        return Ahead(run, place)

    def gather(self, run: int, counted: int, reverted: Reverted | None) -> tuple[CapturedTable, ...]:
        """Put all images into rescue tables that are not there yet; `counted` is what the server says was written."""
        if reverted is not None and reverted.captured is not None:
            self.unused.clear()
            tables: tuple[CapturedTable, ...] = (reverted.captured,)
        else:
            tables = self._quick(run, counted, reverted) or self._compare(run, self._statements.reach.tables)
        if explained(tables) != counted:
            tables += self._compare(run, self._unnamed())
        self.captured += tables
        return tables

    def _next_place(self) -> int:
        self._places += 1
        return self._places

    def _quick(self, run: int, counted: int, reverted: Reverted | None) -> tuple[CapturedTable, ...]:
        """The quick form where one plain statement was all that can have written; else nothing."""
        found = self._plain_rows(counted) if reverted is None else self._restored_rows(reverted)
        if found is None or self.captured:
            return ()
        table, rows = found
        place = self._next_place()
        captured = capture_rows(self._pair, run, place, rows, table, counted)
        if captured is None:
            self.unused += [images.rescue_name(run, place, part) for part in ("before", "after")]
            return ()
        return (captured,)

    def _plain_rows(self, counted: int) -> tuple[Table, Rows] | None:
        plain, tables, control = self._statements.plain, self._statements.reach.tables, self._pair.control
        write = plain[0] if len(plain) == 1 else None
        if write is None or len(tables) != 1:
            return None
        (name,) = tables
        if control.folded(name) != control.folded(write.table):
            return None
        table = self._described(name)
        if not fits(write, table, counted) or catalogue.refers_to_itself(control, name):
            return None
        own = catalogue.self_setting_columns(control, name) if write.columns else ()
        return table, rows_of(write, own)

    def _restored_rows(self, reverted: Reverted) -> tuple[Table, Rows] | None:
        """Of an undo that put everything back in one statement; other tables can have been reached by triggers only."""
        undone = reverted.at_once
        if undone is None:
            return None
        own = catalogue.self_setting_columns(self._pair.control, undone.table.name)
        return undone.table, rows_restored(self._pair.rescue, undone.captured, own)

    def _described(self, name: TableName) -> Table:
        """The table as it is; Refused where the run's session would read a temporary table in its place."""
        table = catalogue.describe(self._pair.control, name)
        if table is None:
            raise DatabaseFailed(f"table {name} is not there any more", hint="run it again")
        if visible.is_hidden(self._pair.main, name):
            raise Refused("capture", f"a temporary table of the change hides table {name}, which cannot be compared",
                          state="rolled back", hint="give the temporary table another name")  # fmt: skip
        return table

    def _compare(self, run: int, relations: Mapping[TableName, catalogue.Relation]) -> tuple[CapturedTable, ...]:
        found = []
        for name in sorted(relations):
            target = Target(self._described(name), relations[name].rows or 0, self._next_place())
            captured = capture_table(self._pair, run, target)
            if captured is not None:
                found.append(captured)
        return tuple(found)

    def _unnamed(self) -> dict[TableName, catalogue.Relation]:
        """Tables that nothing named, and that somebody, perhaps we, has written since the beginning."""
        control = self._pair.control
        moved = completeness.moved_tables(self._moved, completeness.table_counters(control))
        wanted = [
            name
            for name in catalogue.user_tables(control)
            if name.schema not in ("backout", self._pair.rescue)
            and name not in self._statements.reach.tables
            and name in moved
        ]
        return {
            relation.name: relation
            for relation in catalogue.relations(control, wanted)
            if relation.kind == "BASE TABLE" and relation.engine == "InnoDB"
        }

    def size_of(self, tables: Sequence[CapturedTable]) -> int:
        """Bytes, by the server's own average length of a row (statistics of fresh tables are not there yet)."""
        average = dict(
            self._pair.control.rows(
                "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), AVG_ROW_LENGTH FROM information_schema.TABLES WHERE "
                + (" OR ".join(_is_table(one.table.name) for one in tables) or "FALSE")
            )
        )
        return sum(
            int(average.get(f"{one.table.name.schema}.{one.table.name.name}") or 0) * (one.before_rows + one.after_rows)
            for one in tables
        )


def explained(tables: Collection[CapturedTable]) -> int:
    """The least number of writes that the images need: one for each row that is gone, made or altered, on balance.

    Without a key nothing tells an altered row from one that is gone and another that is new.
    """
    return sum(
        one.before_rows + one.after_rows - one.both_rows if one.table.key else max(one.before_rows, one.after_rows)
        for one in tables
    )


def _is_table(name: TableName) -> str:
    return f"(TABLE_SCHEMA = {records.values(name.schema)} AND TABLE_NAME = {records.values(name.name)})"
