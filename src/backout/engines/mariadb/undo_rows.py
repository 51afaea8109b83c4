"""What an undo finds: one temporary table per captured table, a row for each captured row, judged against now.

`action` says what to do ("insert", "update", "delete", "replace"; NULL: nothing), `kind` why not (a ConflictKind's
name), `cols` which columns are in conflict. Rows of now are locked while they are judged (`FOR UPDATE`). All in SQL, so
that no value passes through Python. Temporary tables neither commit when they are made (manual, "CREATE TEMPORARY
TABLE") nor outlive the session; their rows follow savepoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backout.engines.mariadb import images
from backout.engines.mariadb.names import comma, qualified, quoted
from backout.engines.mariadb.session import Session
from backout.engines.values import CapturedTable, Column, TableName, UndoPlan, UndoTable
from backout.errors import Refused


@dataclass(frozen=True)
class Pair:
    """A column that can be put back: as captured, as it is now, and its place in the table of now."""

    old: Column
    new: Column
    place: int
    bookkeeping: bool
    compared_as: Column

    def before(self) -> str:
        """The value of the pre-image."""
        return f"B.{quoted(self.old.name)}"

    def after(self) -> str:
        """The value of the post-image."""
        return f"A.{quoted(self.old.name)}"

    def now(self) -> str:
        """The value of now."""
        return f"T.{quoted(self.new.name)}"

    def exact(self, side: str) -> str:
        """A value as `<=>` tells it from every other; in the way of the type of now."""
        name = self.new.name if side == "T" else self.old.name
        return images.exact(Column(name, self.compared_as.type, 0), side)


@dataclass(frozen=True)
class Work:
    """The undo of one table."""

    plan: UndoTable
    rescue: str  # the rescue schema
    table: str  # the temporary table, qualified
    pairs: tuple[Pair, ...]  # all that can be put back, the key's columns included
    key: tuple[Pair, ...]

    @property
    def captured(self) -> CapturedTable:
        """What is put back."""
        return self.plan.captured

    @property
    def target(self) -> str:
        """The user's table, qualified."""
        return qualified(self.plan.table.name)

    @property
    def compared(self) -> tuple[Pair, ...]:
        """In which a difference is a conflict: all but the key's and bookkeeping columns."""
        return tuple(pair for pair in self.pairs if pair not in self.key)

    def rescue_table(self, name: str | None) -> str | None:
        """A rescue table, qualified."""
        return None if name is None else qualified(TableName(self.rescue, name))

    def key_columns(self, alias: str) -> str:
        """`alias.k0, alias.k1 …` of the work table."""
        return comma(f"{alias}.k{number}" for number in range(len(self.key)))

    def joined(self, alias: str, *, now: bool) -> str:
        """SQL: the row of an image (or of now) is the one of the work table's row U."""
        return " AND ".join(
            f"{alias}.{quoted(pair.new.name if now else pair.old.name)} = U.k{number}"
            for number, pair in enumerate(self.key)
        )

    def source(self, *, now: str = "") -> str:
        """FROM: the work table U with its images B and A; `now` is the kind of join to T, if there is to be one."""
        parts = [f"{self.table} U"]
        for alias, name in (("B", self.captured.before_rescue), ("A", self.captured.after_rescue)):
            table = self.rescue_table(name)
            if table is not None:
                parts.append(f"LEFT JOIN {table} {alias} ON {self.joined(alias, now=False)}")
        if now:
            parts.append(f"{now} {self.target} T ON {self.joined('T', now=True)}")
        return " ".join(parts)

    def is_kept_after(self, pair: Pair) -> bool:
        """Whether the post-image has the column; else the run has not changed it."""
        captured = self.captured
        return captured.after_rescue is not None and pair.old.name in {*captured.after_columns, *captured.table.key}

    def touched(self, pair: Pair) -> str:
        """SQL: the run changed this column of this row, which it updated."""
        if self.captured.before_rescue is None or self.captured.after_rescue is None:
            return "FALSE"
        if not self.is_kept_after(pair):
            return "FALSE"
        return f"NOT ({pair.exact('B')} <=> {pair.exact('A')})"

    def differs(self, pair: Pair, side: str) -> str:
        """SQL: the row of now differs from an image in this column; FALSE where that image is not there."""
        known = self.captured.before_rescue if side == "B" else self.captured.after_rescue
        if side == "A" and not self.is_kept_after(pair):
            return "FALSE"
        return "FALSE" if known is None else f"NOT ({pair.exact('T')} <=> {pair.exact(side)})"

    def has(self, side: str) -> str:
        """SQL: the row has that image, or is there now."""
        if side == "T":
            return images.is_there("T", self.key[0].new.name)
        name = self.captured.before_rescue if side == "B" else self.captured.after_rescue
        return "FALSE" if name is None else images.is_there(side, self.key[0].old.name)


def prepare(session: Session, plan: UndoPlan, rescue: str) -> tuple[Work, ...]:
    """Make and fill the work tables, in order of the tables' names. Raises Refused where identity cannot be told."""
    works = []
    for number, entry in enumerate(sorted(plan.tables, key=lambda one: one.table.name)):
        if entry.captured.before_rescue or entry.captured.after_rescue:
            work = work_of(entry, number, rescue)
            works.append(work)
            _create(session, work)
            if work.key:
                session.run(_judge(work), doing=f"lock and compare the rows of {entry.table.name}")
            else:
                _judge_keyless(session, work)
    return tuple(works)


def drop(session: Session, works: tuple[Work, ...]) -> None:
    """Remove the work tables."""
    for work in works:
        session.run(f"DROP TEMPORARY TABLE IF EXISTS {work.table}")


def work_of(entry: UndoTable, number: int, rescue: str) -> Work:
    """How a table's columns of then and of now belong together; Refused where the key is another one."""
    now = {column.name: (place, column) for place, column in enumerate(entry.table.restorable)}
    kept = {name.lower() for name in entry.bookkeeping}
    pairs = []
    for column in entry.captured.table.restorable:
        new = entry.columns.get(column.name)
        if new is not None and new in now:
            place, present = now[new]
            bookkeeping = bool({new.lower(), column.name.lower()} & kept)
            pairs.append(Pair(column, present, place, bookkeeping, present))
    key = tuple(pair for name in entry.captured.table.key for pair in pairs if pair.old.name == name)
    if {pair.new.name for pair in key} != set(entry.table.key):
        raise Refused(
            "undo",
            f"the key of table {entry.table.name} is not what it was when the run was captured",
            hint="which row is which cannot be told any more: restore these rows by hand from the rescue tables",
        )
    table = qualified(TableName(rescue, f"backout_undo_{number}"))
    return Work(entry, rescue, table, tuple(pairs), key)


def _create(session: Session, work: Work) -> None:
    """With the key's columns in the types of the rescue tables, so that they compare as the user's table does."""
    session.run(f"DROP TEMPORARY TABLE IF EXISTS {work.table}")
    fixed = (
        "`row` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, b BOOLEAN, a BOOLEAN, n BOOLEAN, "
        "action VARCHAR(10), kind VARCHAR(20), cols TEXT, detail TEXT, forced BOOLEAN NOT NULL DEFAULT FALSE"
    )
    if not work.key:
        session.run(
            f"CREATE TEMPORARY TABLE {work.table} ({fixed}, image BIGINT UNSIGNED, h BINARY(32), KEY (h)) ENGINE=InnoDB "
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        return
    image = work.rescue_table(work.captured.after_rescue or work.captured.before_rescue)
    keys = comma(f"x.{quoted(pair.old.name)} AS k{number}" for number, pair in enumerate(work.key))
    unique = f"UNIQUE KEY ({comma(f'k{number}' for number in range(len(work.key)))})"
    session.run(
        f"CREATE TEMPORARY TABLE {work.table} ({fixed}, {unique}) ENGINE=InnoDB CHARACTER SET utf8mb4 "
        f"COLLATE utf8mb4_bin AS SELECT {keys} FROM {image} x LIMIT 0"
    )


def _ids(work: Work) -> str:
    """SQL for the keys to look at: all, or those that earlier undo runs left."""
    keys = [pair.old.name for pair in work.key]
    sides = [work.captured.before_rescue, work.captured.after_rescue]
    if work.captured.left_rescue is not None:
        sides = [work.captured.left_rescue]
    columns = comma(f"{quoted(name)} AS k{number}" for number, name in enumerate(keys))
    return " UNION ".join(f"SELECT {columns} FROM {work.rescue_table(name)}" for name in sides if name is not None)


def _judge(work: Work) -> str:
    b, a, n = work.has("B"), work.has("A"), work.has("T")
    conflicts = [_conflict(work, pair, b, a) for pair in work.compared if not pair.bookkeeping]
    todo = [f"({work.touched(pair)} AND NOT {work.differs(pair, 'A')})" for pair in work.pairs]
    keys = comma(f"k{number}" for number in range(len(work.key)))
    source = work.source(now="LEFT JOIN").replace(f"{work.table} U", f"({_ids(work)}) U", 1)
    return f"""
        INSERT INTO {work.table} ({keys}, b, a, n, action, kind, cols)
        SELECT {keys}, b, a, n,
               CASE WHEN b AND a THEN CASE WHEN n AND cols = '' AND todo THEN 'update' END
                    WHEN a THEN CASE WHEN n AND cols = '' THEN 'delete' END
                    WHEN NOT n THEN 'insert' END,
               CASE WHEN b AND a AND NOT n THEN 'DELETED'
                    WHEN n AND cols <> '' THEN CASE WHEN a THEN 'CHANGED' ELSE 'KEY_REUSED' END END,
               CASE WHEN n THEN cols ELSE '' END
          FROM (SELECT {work.key_columns("U")}, {b} AS b, {a} AS a, {n} AS n,
                       CONCAT('', {comma(conflicts) or "''"}) AS cols, ({" OR ".join(todo) or "FALSE"}) AS todo
                  FROM {source} FOR UPDATE) j
         ORDER BY {keys}"""


def _conflict(work: Work, pair: Pair, b: str, a: str) -> str:
    """SQL: the column's mark in `cols` if it is in conflict."""
    updated = f"{work.touched(pair)} AND {work.differs(pair, 'A')} AND {work.differs(pair, 'B')}"
    judged = (
        f"CASE WHEN {b} AND {a} THEN {updated} WHEN {a} THEN {work.differs(pair, 'A')} "
        f"ELSE {work.differs(pair, 'B')} END"
    )
    return f"IF({judged}, '{pair.place},', '')"


def _judge_keyless(session: Session, work: Work) -> None:
    """Rows without a key are a multiset, of the table as a whole: each post-image needs an equal row of now."""
    row = quoted(images.row_column(work.captured.table))
    left = work.rescue_table(work.captured.left_rescue)
    for side, name in (("b", work.captured.before_rescue), ("a", work.captured.after_rescue)):
        if name is not None:
            alias = "B" if side == "b" else "A"
            limited = f" WHERE {alias}.{row} IN (SELECT {row} FROM {left} WHERE side = '{side}')" if left else ""
            session.run(
                f"INSERT INTO {work.table} (b, a, image, h, action) SELECT {side == 'b'}, {side == 'a'}, {alias}.{row}, "
                f"{keyless_hash(work, alias)}, '{'insert' if side == 'b' else 'delete'}' "
                f"FROM {work.rescue_table(name)} {alias}{limited} ORDER BY {alias}.{row}"
            )
    session.run(
        f"UPDATE {work.table} U LEFT JOIN (SELECT h, COUNT(*) AS present FROM "
        f"(SELECT {keyless_hash(work, 'T')} AS h FROM {work.target} T FOR UPDATE) x GROUP BY h) p ON p.h = U.h "
        f"JOIN (SELECT `row`, ROW_NUMBER() OVER (PARTITION BY h ORDER BY `row`) AS rn FROM {work.table} WHERE a) k "
        "ON k.`row` = U.`row` SET U.action = NULL, U.kind = 'CHANGED', U.n = FALSE, "
        "U.detail = 'no row is equal to what the run left' WHERE U.a AND k.rn > COALESCE(p.present, 0)",
        doing=f"lock and compare the rows of {work.plan.table.name}",
    )
    if session.value(f"SELECT COUNT(*) FROM {work.table} WHERE kind IS NOT NULL"):
        session.run(f"UPDATE {work.table} SET action = NULL")


def keyless_counts(session: Session, work: Work, *, then: bool) -> dict[str, int]:
    """How many rows there are of each value that the undo writes; `then`: how many there have to be once it has.

    Bookkeeping columns do not count: they keep what a trigger sets.
    """
    plain = [pair for pair in work.pairs if not pair.bookkeeping]
    row = quoted(images.row_column(work.captured.table))
    parts = [
        f"SELECT {_hash_of(plain, alias)} AS h, {written} AS d FROM {work.table} U JOIN {work.rescue_table(name)} {alias} "
        f"ON {alias}.{row} = U.image WHERE U.action = '{action}'"
        for alias, name, action, written in (
            ("B", work.captured.before_rescue, "insert", 1), ("A", work.captured.after_rescue, "delete", -1),
        ) if name is not None
    ]  # fmt: skip
    rows = session.rows(
        f"SELECT w.h, COALESCE(p.present, 0) + {'w.d' if then else '0'} FROM "
        f"(SELECT h, SUM(d) AS d FROM ({' UNION ALL '.join(parts)}) x GROUP BY h) w LEFT JOIN "
        f"(SELECT {_hash_of(plain, 'T')} AS h, COUNT(*) AS present FROM {work.target} T GROUP BY 1) p ON p.h = w.h"
    )
    return {str(digest): int(count) for digest, count in rows}


def keyless_hash(work: Work, alias: str) -> str:
    """SQL for what a row without a key is recognised by; in the way of the types of now."""
    return _hash_of(work.pairs, alias)


def _hash_of(pairs: Sequence[Pair], alias: str) -> str:
    columns = [Column(pair.new.name if alias == "T" else pair.old.name, pair.compared_as.type, 0) for pair in pairs]
    return images.row_hash(columns, alias)
