"""What an undo finds: one temporary table per captured table, a row for each captured row, judged against now.

`action` says what to do ("insert", "update", "delete", "replace"; NULL: nothing), `kind` why not (a ConflictKind's
name), `cols` which columns are in conflict, `moves` whether an update touches what other rows are compared with, n0… the
row of now. All in SQL, so that no value passes through Python.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.catalogue import Form, form_of, virtual_tables
from backout.engines.sqlite.statements import concatenated, main_table, quote_name, same, signature
from backout.engines.values import UndoPlan, UndoTable
from backout.errors import Refused


@dataclass(frozen=True)
class Pair:
    """A column that can be put back: its name when captured, its name now, and its place among n0…"""

    old: str
    new: str
    place: int
    bookkeeping: bool


@dataclass(frozen=True)
class Work:
    """The undo of one table."""

    plan: UndoTable
    form: Form
    table: str  # the temporary table, qualified
    pairs: tuple[Pair, ...]  # without the key's columns
    key: tuple[Pair, ...]
    virtual: str | None  # the virtual table that this is a shadow of: all or nothing

    @property
    def target(self) -> str:
        """The user's table, qualified."""
        return main_table(self.plan.table.name.name)

    @property
    def now_columns(self) -> tuple[str, ...]:
        """The columns behind n0…"""
        return tuple(column.name for column in self.plan.table.restorable)

    @property
    def in_place(self) -> tuple[Pair, ...]:
        """The columns that an UPDATE can put back, in whatever order: no constraint compares them between rows."""
        known = images.columns_after(self.plan.captured)
        return tuple(pair for pair in self.pairs if pair.old in known and pair.new in self.form.settled)

    @property
    def images(self) -> str:
        """SQL: the work table U joined with its images B and A."""
        return images.image_joins(self.plan.captured, self.table)


def prepare(connection: apsw.Connection, plan: UndoPlan) -> tuple[Work, ...]:
    """Make and fill the work tables; tables in order of name. Raises Refused where identity cannot be told."""
    virtual = virtual_tables(connection)
    tables = sorted(plan.tables, key=lambda entry: entry.table.name)
    works = tuple(
        _work(entry, form_of(connection, entry.table.name.name), number, tuple(virtual))
        for number, entry in enumerate(tables)
        if entry.captured.before_rescue or entry.captured.after_rescue
    )
    for work in works:
        _create(connection, work)
        connection.execute(_judge_keyed(work) if work.key else _judge_keyless(work))
    return works


def drop(connection: apsw.Connection) -> None:
    """Remove all work tables."""
    names = connection.execute("SELECT name FROM temp.sqlite_master WHERE name GLOB 'backout_undo_[0-9]*'").fetchall()
    for (name,) in names:
        connection.execute(f"DROP TABLE temp.{quote_name(str(name))}")


def _work(entry: UndoTable, form: Form, number: int, virtual: tuple[str, ...]) -> Work:
    now = [column.name for column in entry.table.restorable]
    kept = {name.lower() for name in entry.bookkeeping}
    pairs = tuple(
        Pair(column.name, new, now.index(new), new.lower() in kept or column.name.lower() in kept)
        for column in entry.captured.table.restorable
        if (new := entry.columns.get(column.name)) is not None and new in now
    )
    key = tuple(pair for name in entry.captured.table.key for pair in pairs if pair.old == name)
    if tuple(pair.new for pair in key) != entry.table.key or len(key) != len(entry.captured.table.key):
        raise Refused(
            "undo",
            f'the primary key of table "{entry.table.name.name}" is not what it was when the run was captured',
            hint="which row is which cannot be told any more: restore these rows by hand from the rescue tables",
        )
    others = tuple(pair for pair in pairs if pair not in key)
    name = entry.table.name.name.lower()
    owner = next((v for v in virtual if form.kind == "shadow" and name.startswith(v.lower() + "_")), None)
    return Work(entry, form, f"temp.backout_undo_{number}", others, key, owner)


def _create(connection: apsw.Connection, work: Work) -> None:
    now = "".join(f", n{i}" for i in range(len(work.now_columns)))
    connection.execute(f"DROP TABLE IF EXISTS {work.table}")
    connection.execute(
        f"CREATE TEMP TABLE {work.table.removeprefix('temp.')} "
        f"(row INTEGER PRIMARY KEY, b, a, n, nrow, action, kind, cols, detail, forced DEFAULT 0, moves DEFAULT 1{now})"
    )


def _ids(work: Work) -> str:
    """SQL for the rows to look at: all, or those that earlier undo runs left."""
    left = work.plan.captured.left_rescue
    if left is not None:
        row = quote_name(images.row_column(work.plan.captured.table))
        return f"(SELECT {row} AS row FROM {main_table(left)})"
    return f"({images.paired_rows(work.plan.captured)})"


def touched(work: Work, pair: Pair) -> str:
    """SQL: the run changed this column of this row, which it updated."""
    if pair.old not in images.columns_after(work.plan.captured) or not work.plan.captured.before_rescue:
        return "0"
    return f"NOT {same(f'B.{quote_name(pair.old)}', f'A.{quote_name(pair.old)}')}"


def _differs(work: Work, pair: Pair, side: str) -> str:
    """SQL: the row of now differs from an image in this column; 0 where the image does not have it."""
    capture = work.plan.captured
    known = images.columns_before(capture) if side == "B" else images.columns_after(capture)
    if pair.old not in known:
        return "0"
    return f"NOT {same(f'T.{quote_name(pair.new)}', f'{side}.{quote_name(pair.old)}')}"


def _conflict(work: Work, pair: Pair, has_before: str, has_after: str) -> str:
    """SQL: the column's mark in `cols` if it is in conflict."""
    if pair.bookkeeping:
        return "''"
    updated = f"{touched(work, pair)} AND {_differs(work, pair, 'A')} AND {_differs(work, pair, 'B')}"
    if work.virtual:  # parts of one index: what others changed there cannot be merged
        side = "A" if pair.old in images.columns_after(work.plan.captured) else "B"
        updated = _differs(work, pair, side)
    inserted, deleted = _differs(work, pair, "A"), _differs(work, pair, "B")
    judged = (
        f"CASE WHEN {has_before} AND {has_after} THEN {updated} WHEN {has_after} THEN {inserted} ELSE {deleted} END"
    )
    return f"CASE WHEN ({judged}) THEN '{pair.place},' ELSE '' END"


def _judge_keyed(work: Work) -> str:
    captured = work.plan.captured
    row = quote_name(images.row_column(captured.table))
    match = " AND ".join(
        f"T.{quote_name(pair.new)} = {value} AND {same(f'T.{quote_name(pair.new)}', value)}"
        for pair in work.key
        for value in (images.key_value(captured, pair.old),)
    )
    present = f"T.{quote_name(work.key[0].new)} IS NOT NULL"
    has_before = f"B.{row} IS NOT NULL" if captured.before_rescue else "0"
    has_after = f"A.{row} IS NOT NULL" if captured.after_rescue else "0"
    conflicts = concatenated([_conflict(work, pair, has_before, has_after) for pair in work.pairs])
    todo = concatenated(
        [
            f"CASE WHEN {touched(work, pair)} AND NOT {_differs(work, pair, 'A')} THEN '1' ELSE '' END"
            for pair in (*work.key, *work.pairs)
        ]
    )
    in_place = work.in_place
    moved = [touched(work, pair) for pair in (*work.key, *work.pairs) if pair not in in_place]
    moves = " OR ".join(one for one in moved if one != "0") or "0"
    rowid = f"T.{work.form.rowid_alias}" if work.form.rowid_alias else "NULL"
    now = "".join(f", T.{quote_name(name)} AS n{i}" for i, name in enumerate(work.now_columns))
    n_list = "".join(f", n{i}" for i in range(len(work.now_columns)))
    return f"""
        INSERT INTO {work.table} (row, b, a, n, nrow, moves, action, kind, cols{n_list})
        SELECT row, b, a, n, nrow, moves,
               CASE WHEN b AND a THEN CASE WHEN n AND cols = '' AND todo <> '' THEN 'update' END
                    WHEN a THEN CASE WHEN n AND cols = '' THEN 'delete' END
                    WHEN NOT n THEN 'insert' END,
               CASE WHEN b AND a AND NOT n THEN 'DELETED'
                    WHEN n AND cols <> '' THEN CASE WHEN a THEN 'CHANGED' ELSE 'KEY_REUSED' END END,
               CASE WHEN n THEN cols ELSE '' END{n_list}
          FROM (SELECT U.row AS row, {has_before} AS b, {has_after} AS a, {present} AS n, {rowid} AS nrow,
                       {conflicts} AS cols, {todo} AS todo, {moves} AS moves{now}
                  FROM {images.image_joins(captured, _ids(work))} LEFT JOIN {work.target} AS T ON {match})"""


def _judge_keyless(work: Work) -> str:
    """Rows without a key are a multiset: each captured row is paired with one equal row of now, whichever."""
    captured = work.plan.captured
    row = quote_name(images.row_column(captured.table))
    has_before = f"B.{row} IS NOT NULL" if captured.before_rescue else "0"
    has_after = f"A.{row} IS NOT NULL" if captured.after_rescue else "0"
    ours = signature("A", [pair.old for pair in work.pairs]) if captured.after_rescue else "NULL"
    theirs = signature("T", [pair.new for pair in work.pairs])
    n_list = "".join(f", n{i}" for i in range(len(work.now_columns)))
    now = "".join(f", T.{quote_name(name)} AS n{i}" for i, name in enumerate(work.now_columns))
    return f"""
        INSERT INTO {work.table} (row, b, a, n, nrow, action, kind, cols, detail{n_list})
        WITH captured AS MATERIALIZED (
                 SELECT row, b, a, signature, row_number() OVER (PARTITION BY signature ORDER BY row) AS rank
                   FROM (SELECT U.row AS row, {has_before} AS b, {has_after} AS a,
                                CASE WHEN {has_after} THEN {ours} END AS signature
                           FROM {images.image_joins(captured, _ids(work))})),
             present AS MATERIALIZED (
                 SELECT nrow, signature, row_number() OVER (PARTITION BY signature ORDER BY nrow) AS rank
                   FROM (SELECT T._rowid_ AS nrow, {theirs} AS signature FROM {work.target} AS T)
                  WHERE signature IN (SELECT signature FROM captured WHERE a))
        SELECT c.row, c.b, c.a, p.nrow IS NOT NULL, p.nrow,
               CASE WHEN NOT c.a THEN 'insert'
                    WHEN p.nrow IS NOT NULL THEN CASE WHEN c.b THEN 'update' ELSE 'delete' END END,
               CASE WHEN c.a AND p.nrow IS NULL THEN 'CHANGED' END, '',
               CASE WHEN c.a AND p.nrow IS NULL THEN 'no row is equal to what the run left' END{n_list}
          FROM captured AS c
          LEFT JOIN present AS p ON c.a AND p.signature = c.signature AND p.rank = c.rank
          LEFT JOIN (SELECT T._rowid_ AS trow{now} FROM {work.target} AS T) AS t ON t.trow = p.nrow"""
