"""Put the rows back: delete all that have to move, update the others, insert all that moved as they were.

No order matters so: an update in place touches nothing that rows are compared with.

Triggers and foreign keys are off meanwhile, hence a row that is deleted and inserted again is noticed by nothing; swaps
and shifts of unique values need no spare value. What a constraint refuses is found row by row, and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from backout.engines.sqlite import images
from backout.engines.sqlite.statements import fetch, quote_name, same, single
from backout.engines.sqlite.undo_rows import Pair, Work, touched
from backout.errors import ROLLED_BACK, BackoutError

MOVED = "action IN ('delete', 'update', 'replace')"
_IN_PLACE = "action = 'update' AND NOT moves"


@dataclass(frozen=True)
class Offender:
    """A row that cannot be put back, found only by trying."""

    work: Work
    row: int
    kind: str  # the name of a ConflictKind
    detail: str


def apply(connection: apsw.Connection, works: Sequence[Work]) -> list[Offender]:
    """Carry out every `action`; returns the rows that a constraint refused (then the caller takes all back)."""
    for work in works:
        _delete(connection, work)
    offenders: list[Offender] = []
    for work in works:
        if work.key and work.in_place:
            offenders += _write(connection, work, _update_in_place(work))
    for work in works:
        offenders += _write(connection, work, _insert_again(work))
        if work.plan.captured.before_rescue:
            offenders += _write(connection, work, _insert_missing(work))
    return offenders


def _delete(connection: apsw.Connection, work: Work) -> None:
    if work.key:
        columns = ", ".join(quote_name(pair.new) for pair in work.key)
        values = ", ".join(f"n{pair.place}" for pair in work.key)
    else:
        columns, values = "_rowid_", "nrow"
    moved = f"FROM {work.table} WHERE {MOVED} AND NOT ({_IN_PLACE})"
    before = connection.total_changes()
    connection.execute(f"DELETE FROM {work.target} WHERE ({columns}) IN (SELECT {values} {moved})")
    removed = connection.total_changes() - before
    expected = single(connection, f"SELECT count(*) {moved}")
    if removed != expected:
        name = work.plan.table.name.name
        raise BackoutError(f'undo found {expected} rows of table "{name}" and removed {removed}', state=ROLLED_BACK)


def _write(connection: apsw.Connection, work: Work, statement: str) -> list[Offender]:
    """All at once; if that is refused, one by one, to learn which."""
    try:
        connection.execute(statement)
        return []
    except apsw.ConstraintError:
        pass  # a failed statement leaves nothing behind: https://sqlite.org/lang_conflict.html, ABORT
    offenders = []
    for (row,) in fetch(connection, f"SELECT row FROM {work.table} WHERE action <> 'delete'"):
        try:
            connection.execute(f"{statement} AND U.row = ?", (row,))
        except apsw.ConstraintError as error:
            offenders.append(Offender(work, int(row), "CONSTRAINT", str(error).removeprefix("ConstraintError: ")))
    return offenders


def _update_in_place(work: Work) -> str:
    """SQL: the touched columns put back, where nothing else of the row has to move."""
    values = ", ".join(f"{quote_name(pair.new)} = {_value(work, pair, pair.place)}" for pair in work.in_place)
    match = " AND ".join(f"T.{quote_name(pair.new)} = U.n{pair.place}" for pair in work.key)
    return f"UPDATE {work.target} AS T SET {values} FROM {work.images} WHERE {match} AND U.action = 'update' AND NOT U.moves"


def _insert_again(work: Work) -> str:
    """SQL: rows that are there now, with the touched columns put back; hidden rowids stay."""
    by_place = {pair.place: pair for pair in (*work.key, *work.pairs)}
    columns = [quote_name(name) for name in work.now_columns]
    values = [_value(work, by_place.get(place), place) for place in range(len(columns))]
    if work.form.rowid_alias and not work.form.integer_key:
        columns.append(work.form.rowid_alias)
        values.append("U.nrow")
    return (
        f"INSERT INTO {work.target} ({', '.join(columns)}) SELECT {', '.join(values)} "
        f"FROM {work.images} WHERE (U.action = 'replace' OR U.action = 'update' AND U.moves)"
    )


def _value(work: Work, pair: Pair | None, place: int) -> str:
    now = f"U.n{place}"
    if pair is None or not work.plan.captured.before_rescue:
        return now
    before = f"B.{quote_name(pair.old)}"
    if pair.old not in images.columns_after(work.plan.captured):
        return f"CASE WHEN U.action = 'replace' THEN {before} ELSE {now} END"
    forced = "0" if pair.bookkeeping else "U.forced"
    ours = same(now, f"A.{quote_name(pair.old)}")
    back = f"U.action = 'replace' OR ({touched(work, pair)} AND ({forced} OR {ours}))"
    return f"CASE WHEN {back} THEN {before} ELSE {now} END"


def _insert_missing(work: Work) -> str:
    """SQL: rows that are not there now; a column added since takes its default."""
    pairs = (*work.key, *work.pairs)
    columns = ", ".join(quote_name(pair.new) for pair in pairs)
    values = ", ".join(f"B.{quote_name(pair.old)}" for pair in pairs)
    return f"INSERT INTO {work.target} ({columns}) SELECT {values} FROM {work.images} WHERE U.action = 'insert'"
