"""Put the rows back: delete what the run inserted, update, insert what it deleted; foreign keys are off meanwhile.

With `foreign_key_checks = 0` neither cascades fire nor are references checked (manual, "foreign_key_checks"), for this
session only; `undo_references` then asks what they would have said. Rows are updated in place, so that no trigger of
DELETE or INSERT fires for them; where unique values go round in a circle, and no trigger is there, they are taken out and
put in again. What a constraint refuses is found row by row, and reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backout.engines.mariadb import images
from backout.engines.mariadb.names import comma, quoted
from backout.engines.mariadb.session import Session
from backout.engines.mariadb.undo_rows import Pair, Work, keyless_hash
from backout.engines.values import Column
from backout.errors import BackoutError, DatabaseFailed

#: Refusals of a row: a duplicate, a CHECK, NULL, no default, a value out of range or too long, SIGNAL of a trigger.
_OF_A_ROW = {"1062", "4025", "1048", "1364", "1264", "1406", "1265", "1366", "1292", "1644", "1452", "1451", "1526"}
_DUPLICATE = "1062"


@dataclass(frozen=True)
class Offender:
    """A row that cannot be put back, found only by trying."""

    work: Work
    row: int
    kind: str  # the name of a ConflictKind
    detail: str


def apply(session: Session, works: tuple[Work, ...]) -> list[Offender]:
    """Carry out every `action`; returns the rows that a constraint refused (then the caller takes all back)."""
    offenders: list[Offender] = []
    for work in works:
        if work.key:
            offenders += _step(session, work, "delete", lambda only, w=work: _delete(w, only))  # type: ignore[misc]
        else:
            _delete_keyless(session, work)
    for work in works:
        if work.key:
            offenders += _updates(session, work)
    for work in works:
        if work.captured.before_rescue is not None:
            offenders += _step(session, work, "insert", lambda only, w=work: _insert(w, only))  # type: ignore[misc]
    return offenders


def _step(session: Session, work: Work, action: str, statement: Callable[[str], str]) -> list[Offender]:
    """All at once; if that is refused, one by one, to learn which."""
    if not session.value(f"SELECT COUNT(*) FROM {work.table} WHERE action = '{action}'"):
        return []
    doing = f"put rows of {work.plan.table.name} back"
    try:
        session.run(statement(""), doing=doing)
        return []
    except DatabaseFailed as error:
        if error.sqlstate not in _OF_A_ROW:
            raise
    offenders = []
    for (row,) in session.rows(f"SELECT `row` FROM {work.table} WHERE action = '{action}' ORDER BY `row`"):
        try:
            session.run(statement(f" AND U.`row` = {int(row)}"), doing=doing)
        except DatabaseFailed as error:
            if error.sqlstate not in _OF_A_ROW:
                raise
            offenders.append(Offender(work, int(row), "CONSTRAINT", error.message.rpartition("back: ")[2]))
    return offenders


def _delete(work: Work, only: str) -> str:
    return f"DELETE T FROM {work.table} U JOIN {work.target} T ON {work.joined('T', now=True)} WHERE U.action = 'delete'{only}"


def _insert(work: Work, only: str) -> str:
    pairs = work.pairs
    columns = comma(quoted(pair.new.name) for pair in pairs)
    source = f"{work.table} U JOIN {work.rescue_table(work.captured.before_rescue)} B ON "
    source += (
        work.joined("B", now=False) if work.key else f"B.{quoted(images.row_column(work.captured.table))} = U.image"
    )
    return (
        f"INSERT INTO {work.target} ({columns}) SELECT {comma(pair.before() for pair in pairs)} FROM {source} "
        f"WHERE U.action = 'insert'{only}"
    )


def _updates(session: Session, work: Work) -> list[Offender]:
    if not session.value(f"SELECT COUNT(*) FROM {work.table} WHERE action IN ('update', 'replace')"):
        return []
    doing = f"put rows of {work.plan.table.name} back"
    try:
        session.run(_update(work, ""), doing=doing)
        return []
    except DatabaseFailed as error:
        if error.sqlstate not in _OF_A_ROW:
            raise
        duplicate = error.sqlstate == _DUPLICATE
    if duplicate and not work.plan.table.triggers:
        return _move(session, work, doing)
    offenders = []
    for (row,) in session.rows(f"SELECT `row` FROM {work.table} WHERE action IN ('update', 'replace') ORDER BY `row`"):
        try:
            session.run(_update(work, f" AND U.`row` = {int(row)}"), doing=doing)
        except DatabaseFailed as error:
            if error.sqlstate not in _OF_A_ROW:
                raise
            offenders.append(Offender(work, int(row), "CONSTRAINT", error.message.rpartition("back: ")[2]))
    return offenders


def wanted(work: Work, pair: Pair) -> str:
    """SQL: what a column of an updated row is to be: restored, or as it is."""
    if work.captured.before_rescue is None:
        return _assignable(pair.new, pair.now())
    forced = "FALSE" if pair.bookkeeping else "U.forced"
    back = f"({work.touched(pair)} AND ({forced} OR NOT {work.differs(pair, 'A')}))"
    before, now = _assignable(pair.new, pair.before()), _assignable(pair.new, pair.now())
    return f"CASE WHEN U.action = 'replace' OR {back} THEN {before} ELSE {now} END"


def _assignable(column: Column, value: str) -> str:
    """CASE of two ENUMs is a text, and of two BITs too: their numbers can be assigned as well."""
    return f"({value} + 0)" if column.type.lower().startswith(("enum", "set", "bit")) else value


def _update(work: Work, only: str) -> str:
    """Every column is set, to itself where nothing is to be done: else ON UPDATE CURRENT_TIMESTAMP would set some."""
    by_name = {pair.new.name: pair for pair in work.pairs}
    sets = comma(
        f"T.{quoted(column.name)} = "
        + (wanted(work, by_name[column.name]) if column.name in by_name else f"T.{quoted(column.name)}")
        for column in work.plan.table.restorable
    )
    return f"UPDATE {work.source(now='JOIN')} SET {sets} WHERE U.action IN ('update', 'replace'){only}"


def _move(session: Session, work: Work, doing: str) -> list[Offender]:
    """Unique values that go round: the rows out, and in again as they are to be."""
    moved = work.table.removesuffix("`") + "_moved`"
    columns = work.plan.table.restorable
    by_name = {pair.new.name: pair for pair in work.pairs}
    values = comma(
        (wanted(work, by_name[column.name]) if column.name in by_name else f"T.{quoted(column.name)}")
        for column in columns
    )
    names = images.column_list(columns)
    session.run(f"DROP TEMPORARY TABLE IF EXISTS {moved}")
    session.run(
        f"CREATE TEMPORARY TABLE {moved} (`backout row` BIGINT UNSIGNED PRIMARY KEY) ENGINE=InnoDB "
        f"AS SELECT 1 AS `backout row`, {names} FROM {work.target} LIMIT 0"
    )
    session.run(
        f"INSERT INTO {moved} (`backout row`, {names}) SELECT U.`row`, {values} FROM {work.source(now='JOIN')} "
        "WHERE U.action IN ('update', 'replace')",
        doing=doing,
    )
    session.run(
        f"DELETE T FROM {work.table} U JOIN {work.target} T ON {work.joined('T', now=True)} "
        "WHERE U.action IN ('update', 'replace')",
        doing=doing,
    )
    offenders = []
    insert = f"INSERT INTO {work.target} ({names}) SELECT {names} FROM {moved}"
    try:
        session.run(insert, doing=doing)
    except DatabaseFailed as error:
        if error.sqlstate not in _OF_A_ROW:
            raise
        for (row,) in session.rows(f"SELECT `backout row` FROM {moved} ORDER BY 1"):
            try:
                session.run(f"{insert} WHERE `backout row` = {int(row)}", doing=doing)
            except DatabaseFailed as refusal:
                if refusal.sqlstate not in _OF_A_ROW:
                    raise
                offenders.append(Offender(work, int(row), "CONSTRAINT", refusal.message.rpartition("back: ")[2]))
    session.run(f"DROP TEMPORARY TABLE {moved}")
    return offenders


def _delete_keyless(session: Session, work: Work) -> None:
    """Of each value as many rows as the run left of it; which of equal rows makes no difference."""
    hashed = keyless_hash(work, "T")
    there = f"(SELECT {hashed} AS h, COUNT(*) AS present FROM {work.target} T GROUP BY 1)"
    groups = session.rows(
        f"SELECT HEX(U.h), COUNT(*), MAX(p.present) FROM {work.table} U JOIN {there} p ON p.h = U.h "
        "WHERE U.action = 'delete' GROUP BY U.h"
    )
    whole = [bytes.fromhex(row[0]) for row in groups if row[1] == row[2]]
    removed = 0
    for start in range(0, len(whole), 1000):
        digests = comma(f"'{digest.decode()}'" for digest in whole[start : start + 1000])
        removed += session.write(f"DELETE T FROM {work.target} T WHERE {hashed} IN ({digests})")
    for digest, count, present in groups:
        if count != present:
            value = bytes.fromhex(digest).decode()
            plain = hashed.replace("T.", "")  # a DELETE with LIMIT takes no alias
            removed += session.write(f"DELETE FROM {work.target} WHERE {plain} = '{value}' LIMIT {int(count)}")
    expected = session.value(f"SELECT COUNT(*) FROM {work.table} WHERE action = 'delete'")
    if removed != expected:
        raise BackoutError(
            f"undo found {expected} rows of table {work.plan.table.name} and removed {removed}", state="rolled back"
        )
